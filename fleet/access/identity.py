"""Identities and their roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgec.fleet.problems import Problem

if TYPE_CHECKING:
    pass


Role = Literal["viewer", "operator", "admin", "device"]


RANK: dict[str, int] = {"device": 0, "viewer": 1, "operator": 2, "admin": 3}


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated operator, machine or device.

    Attributes:
        name: of the access token, or `device <name>`.
        role: what it may do.
        models: the models whose repositories it may use; empty for all.
        device_id: set for devices only.
    """

    name: str
    role: Role
    models: tuple[str, ...] = ()
    device_id: int | None = None

    def may(self, role: Role) -> bool:
        """Whether the identity has at least `role`."""
        return RANK[self.role] >= RANK[role]

    def may_use_repository(self, repository: str, *, write: bool) -> bool:
        """Whether the registry grants read, or write, access to `repository`."""
        if write and not self.may("operator"):
            return False
        return not self.models or repository.removeprefix("models/") in self.models


def require_role(identity: Identity | None, role: Role) -> Identity:
    """The identity, if it has `role`.

    Raises:
        Problem: 401 without an identity, 403 when its role is too weak.
    """
    if identity is None:
        raise Problem(401, "Sign in", "Send a valid access token as 'Authorization: Bearer …'.")
    if not identity.may(role):
        raise Problem(403, "Not allowed", f"This needs the role {role}; {identity.name} is {identity.role}.")
    return identity
