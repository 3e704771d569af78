"""Access rules of the embedded broker: who may connect, and which topics are theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgec.protocol.topics import DISCOVERY_PREFIX, FOR_OTHERS, FROM_DEVICE, PREFIX, TO_DEVICE, discovery_node

SEPARATOR = ":"  # Not legal in a device's name: `cam:2` cannot be another device's client id.
SERVER = "edgec:fleet"
DEVICE_IDS = "edgec-"
"""How the client ids of devices begin."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user of the broker that is no device may do.

    Attributes:
        password_hash: of its password.
        reads: topic filters that it may subscribe to.
        writes: topic filters that it may publish to.
    """

    password_hash: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one fleet. `password_hash` returns that of an accepted device, else None; `check` compares a
    hash with a password; `rights` returns those of a user that is no device, else None."""

    fleet: str
    server_hash: str
    password_hash: Callable[[str], str | None]
    check: Callable[[str, str], bool]
    certificate: Callable[[str, str], bool] = lambda _serial, _name: False
    """Whether the certificate with this serial number is valid for this device."""
    rights: Callable[[str], Rights | None] = lambda _name: None
    discovery_prefix: str = DISCOVERY_PREFIX

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

        The client id matters because a second connection with the same id evicts the first. A user that is no device
        may have any id that no device and no process of the fleet has.
        """
        if not username or not self._proven(username, password, peer):
            return False
        own = client_id == f"{DEVICE_IDS}{self.fleet}-{username}" or client_id.startswith(
            username + SEPARATOR
        )
        if self.rights(username) is not None:
            own = own or not (client_id.startswith(DEVICE_IDS) or SEPARATOR in client_id)
        if not own:
            return False
        return will is None or self.may_publish(username, will)

    def _proven(self, username: str, password: str | None, peer: tuple[str, str] | None) -> bool:
        user = self.rights(username)
        if peer is not None and username != SERVER and user is None:
            # A password does not make up for an invalid certificate.
            return peer[1] == username and self.certificate(*peer)
        if user is not None:
            known: str | None = user.password_hash
        else:
            known = self.server_hash if username == SERVER else self.password_hash(username)
        return known is not None and bool(password) and self.check(known, password or "")

    def for_fleet(self, username: str | None, topic: str) -> bool:
        """Whether `topic` is one on which the device `username` reports to the fleet."""
        base = self._base(username)
        return username != SERVER and any(covers(f"{base}/{kind.value}", topic) for kind in FROM_DEVICE)

    def may_publish(self, username: str | None, topic: str) -> bool:
        """Whether a client may publish to `topic`: a device only to the topics of devices, below its own name, and to
        its own node of Home Assistant's discovery; another user to what its rights say."""
        if username == SERVER:
            return True
        if (user := self.rights(username or "")) is not None:
            return any(covers(allowed, topic) for allowed in user.writes)
        if any(covers(f"{self._base(username)}/{kind.value}", topic) for kind in (*FROM_DEVICE, *FOR_OTHERS)):
            return True
        node = discovery_node(self.fleet, username or "")
        return covers(f"{self.discovery_prefix}/+/{node}/+/config", topic)

    def may_receive(self, username: str | None, topic_filter: str) -> bool:
        """Whether a client may subscribe to `topic_filter`: a device only to what is addressed to it, without
        wider wildcards; another user to what its rights say."""
        if username == SERVER:
            return True
        if (user := self.rights(username or "")) is not None:
            return any(covers(allowed, topic_filter) for allowed in user.reads)
        return any(covers(f"{self._base(username)}/{kind.value}", topic_filter) for kind in TO_DEVICE)

    def _base(self, username: str | None) -> str:
        return f"{PREFIX}/{self.fleet}/{username}"


def covers(allowed: str, wanted: str) -> bool:
    """Whether every topic that the filter (or topic) `wanted` matches is matched by the filter `allowed`, too."""
    mine, theirs = allowed.split("/"), wanted.split("/")
    if mine[-1] == "#":
        mine = mine[:-1]
        if theirs[-1] == "#":
            theirs = theirs[:-1]
        # `a/#` matches `a`, too; no wildcard at the front matches topics of the broker's own ($SYS).
        if len(theirs) < len(mine) or (not mine and theirs and theirs[0].startswith("$")):
            return False
        theirs = theirs[: len(mine)]
    return (
        len(mine) == len(theirs)
        and all(a in ("+", b) for a, b in zip(mine, theirs, strict=True))
        and "#" not in theirs
    )
