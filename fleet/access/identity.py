"""Identities, their roles, and the scopes that narrow a token down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgec.fleet.problems import Problem

Role = Literal["viewer", "operator", "admin", "device"]


RANK: dict[str, int] = {"device": 0, "viewer": 1, "operator": 2, "admin": 3}


AREAS = (
    "access", "audit", "captures", "certificates", "devices", "enrolment", "experiments", "groups", "jobs", "models",
    "operations", "registry", "rollouts", "shadows", "telemetry", "trust",
)  # fmt: skip
"""Areas of the API that a token can be restricted to, as `AREA:read` or `AREA:write`, which includes reading. They are
the tags of the routes, and `registry` is `/v2/`."""

OPEN_AREAS = ("session",)
"""Areas that say something about the caller only: no scope is needed."""


def as_role(text: str) -> Role:
    """The role of a person or machine that a row names; one that is not known may only look."""
    return "admin" if text == "admin" else "operator" if text == "operator" else "viewer"


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated operator, machine or device.

    Attributes:
        name: of the access token, `device <name>`, or `oidc:<person>`.
        role: what it may do.
        models: the models whose repositories it may use; empty for all.
        device_id: set for devices only.
        scopes: the areas that it may use; empty for all.
        session: the hash of the browser's cookie, for people in the dashboard only.
        confirmed_at: when the person behind that browser last proved to be there, as a Unix time.
    """

    name: str
    role: Role
    models: tuple[str, ...] = ()
    device_id: int | None = None
    scopes: tuple[str, ...] = ()
    session: str = ""
    confirmed_at: float = 0.0

    def may(self, role: Role) -> bool:
        """Whether the identity has at least `role`."""
        return RANK[self.role] >= RANK[role]

    def may_use(self, area: str, *, write: bool) -> bool:
        """Whether its scopes include an area of the API."""
        if not self.scopes or area in OPEN_AREAS:
            return True
        return f"{area}:write" in self.scopes or (not write and f"{area}:read" in self.scopes)

    def may_use_repository(self, repository: str, *, write: bool) -> bool:
        """Whether the registry grants read, or write, access to `repository`."""
        if not self.may_use("registry", write=write) or (write and not self.may("operator")):
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


def require_scope(identity: Identity, area: str, *, write: bool) -> Identity:
    """The identity, if its scopes include an area.

    Raises:
        Problem: 403.
    """
    if not identity.may_use(area, write=write):
        wanted = f"{area}:{'write' if write else 'read'}"
        raise Problem(
            403, "Not in scope", f"This needs the scope {wanted}, which the token of {identity.name} lacks."
        )
    return identity
