"""Access rules of the embedded broker: who may connect, and which topics are theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgec.protocol.topics import FROM_DEVICE, PREFIX, TO_DEVICE

SEPARATOR = ":"  # Not legal in a device's name: `cam:2` cannot be another device's client id.
SERVER = "edgec:fleet"


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one fleet. `password_hash` returns that of an accepted device, else None; `check` compares a
    hash with a password."""

    fleet: str
    server_hash: str
    password_hash: Callable[[str], str | None]
    check: Callable[[str, str], bool]
    certificate: Callable[[str, str], bool] = lambda _serial, _name: False
    """Whether the certificate with this serial number is valid for this device."""

    def may_connect(
        self,
        username: str | None,
        password: str | None,
        client_id: str,
        will: str | None,
        peer: tuple[str, str] | None = None,
    ) -> bool:
        """Whether the credentials are valid, the client id is the device's own and its will stays within its topics.
        `peer` is the serial number and name of the connection's client certificate.

        The client id matters because a second connection with the same id evicts the first.
        """
        if not username or not self._proven(username, password, peer):
            return False
        own = f"edgec-{self.fleet}-{username}"
        if client_id != own and not client_id.startswith(username + SEPARATOR):
            return False
        return will is None or self.may_publish(username, will)

    def _proven(self, username: str, password: str | None, peer: tuple[str, str] | None) -> bool:
        if peer is not None and username != SERVER:
            # A password does not make up for an invalid certificate.
            return peer[1] == username and self.certificate(*peer)
        known = self.server_hash if username == SERVER else self.password_hash(username)
        return known is not None and bool(password) and self.check(known, password or "")

    def may_publish(self, username: str | None, topic: str) -> bool:
        """Whether a client may publish to `topic`: a device only to the topics of devices, below its own name."""
        if username == SERVER:
            return True
        return any(_covers(f"{self._base(username)}/{kind.value}", topic) for kind in FROM_DEVICE)

    def may_receive(self, username: str | None, topic_filter: str) -> bool:
        """Whether a client may subscribe to `topic_filter`: a device only to what is addressed to it, without
        wider wildcards."""
        if username == SERVER:
            return True
        return any(_covers(f"{self._base(username)}/{kind.value}", topic_filter) for kind in TO_DEVICE)

    def _base(self, username: str | None) -> str:
        return f"{PREFIX}/{self.fleet}/{username}"


def _covers(allowed: str, wanted: str) -> bool:
    mine, theirs = allowed.split("/"), wanted.split("/")
    return (
        len(mine) == len(theirs)
        and all(a in ("+", b) for a, b in zip(mine, theirs, strict=True))
        and "#" not in theirs
    )
