"""Lock-outs: how many failed attempts an address may make at signing in, with tokens, and at enrolment.

The counts are in the database, so that several processes share them and a restart forgets nothing. Secrets have 256
random bits and cannot be guessed; what is limited is the noise that someone can make, in the log and for the database.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import delete

from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.store.bulk import insert_new
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Attempts

Kind = Literal["sign-in", "token", "enrolment", "confirmation"]


@dataclass(frozen=True, slots=True)
class Lockout:
    """Lock out an address for `locked_s` seconds after `failures` failed attempts within `window_s` seconds."""

    failures: int = 10
    window_s: float = 300.0
    locked_s: float = 900.0


def network(address: str) -> str:
    """What attempts are counted by: an IPv4 address, or the /64 network that one IPv6 subscriber has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Limits:
    """Counts failed attempts by kind and address."""

    def __init__(self, database: Database, rule: Lockout) -> None:
        self._database = database
        self._rule = rule

    def check(self, kind: Kind, address: str) -> None:
        """Refuse an address that is locked out.

        Raises:
            Problem: 429, with the time left.
        """
        with self._database.reading() as session:
            row = session.get(Attempts, (kind, network(address)))
            left = (row.locked_until if row is not None else 0.0) - time.time()
        if left > 0:
            raise _locked(kind, left)

    def failed(self, kind: Kind, address: str, subject: str = "", reason: str = "") -> None:
        """Count a failed attempt and record it in the audit log. While an address is locked out nothing more is
        written: that would be the attacker's to fill.

        Args:
            kind: what was attempted.
            address: where it came from.
            subject: whose secret it was, where that is known.
            reason: why it was refused.

        Raises:
            Problem: 429 when the address is locked out, from this attempt on or before.
        """
        origin, now = network(address), time.time()
        with self._database.writing() as session:
            insert_new(
                session, Attempts,
                [{"kind": kind, "address": origin, "failures": 0, "since": now, "locked_until": 0.0}],
            )  # fmt: skip
            row = session.get_one(Attempts, (kind, origin), with_for_update=True)
            if row.locked_until > now:
                raise _locked(kind, row.locked_until - now)
            if now - row.since > self._rule.window_s:
                row.failures, row.since = 0, now
            row.failures += 1
            if locked := row.failures >= self._rule.failures:
                row.locked_until, row.failures = now + self._rule.locked_s, 0
            audit(session, f"address {address}"[:128], f"{kind}.refused", subject, reason=reason)
            if locked:
                audit(
                    session, f"address {address}"[:128], f"{kind}.locked", origin, seconds=self._rule.locked_s
                )
        if locked:
            raise _locked(kind, self._rule.locked_s)

    def forget(self, now: float) -> None:
        """Delete counts that no longer matter at the Unix time `now`."""
        with self._database.writing() as session:
            session.execute(
                delete(Attempts).where(
                    Attempts.since < now - self._rule.window_s, Attempts.locked_until < now
                )
            )


def _locked(kind: Kind, left_s: float) -> Problem:
    return Problem(
        429, "Too many attempts",
        f"Too many failed attempts ({kind}) from this address; try again in {left_s / 60:.0f} min.",
        retry_after=max(int(left_s) + 1, 1),
    )  # fmt: skip
