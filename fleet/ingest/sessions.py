"""Which process receives which messages from an external broker.

The broker keeps a fixed number of sessions, whatever processes there are, and each is held by one process at a time,
by a lease in the database. A process that stops hands its sessions over at once; those of one that crashed are taken
when its leases end. Whoever takes a session gets everything that it has not acknowledged: nothing waits for a process
to return.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from edgec.fleet.broker.messages import Inbound
from edgec.fleet.broker.mqtt_client import BrokerAddress, MqttClient, SessionSpec
from edgec.fleet.store.bulk import insert_new
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Lease
from edgec.protocol.topics import fleet_subscriptions

LEASE_S = 10.0
PACE_S = 2.0
MEMBER, SESSION = "member:", "session:"
log = logging.getLogger(__name__)


def filters_of(fleet: str, group: str) -> tuple[str, ...]:
    """The topic filters of a session in a group of a shared subscription; an empty group shares with nobody."""
    prefix = f"$share/{group}/" if group else ""
    return tuple(prefix + name for name in fleet_subscriptions(fleet))


def session_names(user: str, fleet: str, group: str, count: int) -> list[str]:
    """The client ids of the fleet's sessions: one, or `count` that share the messages."""
    return [f"{user}:{fleet}:{group}-{number}" for number in range(count)] if group else [f"{user}:{fleet}"]


@dataclass
class _Held:
    client: MqttClient
    until: float
    retiring: bool = False


class IngestSessions:
    """Holds this process's share of the sessions.

    Args:
        database: has the leases.
        address: the broker.
        fleet: whose messages are received.
        group: of the shared subscription; empty where one session receives everything.
        names: the sessions that there are to be; others found in the database are emptied and given up.
        sink: accepts a message if there is room.
        guarded: runs a connection's thread and handles its death.
    """

    def __init__(
        self,
        database: Database,
        address: BrokerAddress,
        fleet: str,
        group: str,
        names: list[str],
        sink: Callable[[Inbound], bool],
        guarded: Callable[[str, Callable[[], None]], None],
    ) -> None:
        self._database, self._address, self._fleet, self._group = database, address, fleet, group
        self._names, self._sink, self._guarded = names, sink, guarded
        self._owner = secrets.token_hex(8)
        self._held: dict[str, _Held] = {}
        self._stopping = threading.Event()

    @property
    def held(self) -> list[str]:
        """The sessions that this process holds."""
        return sorted(name for name, one in list(self._held.items()) if not one.retiring)

    def first(self, legacy: str) -> None:
        """Take the first share; `legacy` is the client id that this process had before sessions were shared out.

        Raises:
            DBAPIError: the database is not available.
        """
        with self._database.writing() as session:
            rows = [(name, self._group) for name in self._names]
            if legacy and legacy not in self._names:
                rows.append((legacy, self._group))
            values = [
                {"name": SESSION + name, "owner": "", "until": 0.0, "detail": detail} for name, detail in rows
            ]
            insert_new(session, Lease, values)
        self.tick(time.time())

    def run(self) -> None:
        """Renew, hand over and take over until `stop`; then hand everything over."""
        while not self._stopping.wait(PACE_S):
            try:
                self.tick(time.time())
            except DBAPIError as error:
                log.warning("the leases of the broker sessions wait for the database: %s", error.orig)
        for name in list(self._held):
            self._close(name)
        try:
            with self._database.writing() as session:
                session.execute(update(Lease).where(Lease.owner == self._owner).values(owner="", until=0.0))
                session.execute(delete(Lease).where(Lease.name == MEMBER + self._owner))
        except DBAPIError as error:
            log.warning("the broker sessions are handed over in %g s: %s", LEASE_S, error.orig)

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    def tick(self, now: float) -> None:
        """Adjust what this process holds to its share of what there is."""
        gone = [name for name, one in self._held.items() if one.client.retired.is_set()]
        with self._database.writing() as session:
            for name in gone:
                session.execute(delete(Lease).where(Lease.name == SESSION + name, Lease.owner == self._owner))
            members = self._count_members(session, now)
            mine = self._renew(session, now)
            share = -(-len(self._names) // members)
            wanted = [name for name in mine if name in self._names]
            surplus = wanted[share:]
            taken = self._take(session, now, share - len(wanted)) if len(wanted) < share else []
            taken += self._take_retired(session, now)
        for name in [name for name in self._held if name not in mine or name in surplus]:
            self._close(name)
        self._release(surplus)
        for name in mine:
            if name in self._held:
                self._held[name].until = now + LEASE_S
        for name, group, retiring in taken:
            self._open(name, group, now, retiring=retiring)

    def _count_members(self, session: Session, now: float) -> int:
        """Say that this process is there; returns how many are."""
        name = MEMBER + self._owner
        session.execute(delete(Lease).where(Lease.name.startswith(MEMBER), Lease.until < now))
        session.execute(delete(Lease).where(Lease.name == name))
        session.add(Lease(name=name, owner=self._owner, until=now + LEASE_S, detail=""))
        session.flush()
        return len(session.scalars(select(Lease.name).where(Lease.name.startswith(MEMBER))).all())

    def _renew(self, session: Session, now: float) -> list[str]:
        """Extend the leases of the sessions that this process still holds; returns these."""
        ours = (Lease.owner == self._owner, Lease.name.startswith(SESSION))
        session.execute(update(Lease).where(*ours).values(until=now + LEASE_S))
        names = session.scalars(select(Lease.name).where(*ours).order_by(Lease.name)).all()
        return [name.removeprefix(SESSION) for name in names]

    def _take(self, session: Session, now: float, count: int) -> list[tuple[str, str, bool]]:
        names = [SESSION + name for name in self._names]
        free = select(Lease.name).where(Lease.name.in_(names), Lease.until < now).order_by(Lease.name)
        taken: list[tuple[str, str, bool]] = []
        for name in session.scalars(free).all():
            if len(taken) < count and self._acquire(session, name, now):
                taken.append((name.removeprefix(SESSION), self._group, False))
        return taken

    def _take_retired(self, session: Session, now: float) -> list[tuple[str, str, bool]]:
        """Take the sessions that are no longer to be, of another number or group, to empty them."""
        names = [SESSION + name for name in self._names]
        query = select(Lease).where(
            Lease.name.startswith(SESSION), Lease.name.not_in(names), Lease.until < now
        )
        return [
            (row.name.removeprefix(SESSION), row.detail, True)
            for row in session.scalars(query).all()
            if self._acquire(session, row.name, now)
        ]

    def _acquire(self, session: Session, name: str, now: float) -> bool:
        found = session.execute(
            update(Lease)
            .where(Lease.name == name, Lease.until < now)
            .values(owner=self._owner, until=now + LEASE_S)
        )
        return bool(found.rowcount)  # type: ignore[attr-defined]

    def _release(self, names: list[str]) -> None:
        """Give leases back, once their connections are closed."""
        if names:
            with self._database.writing() as session:
                rows = [SESSION + name for name in names]
                session.execute(
                    update(Lease)
                    .where(Lease.name.in_(rows), Lease.owner == self._owner)
                    .values(owner="", until=0.0)
                )

    def _open(self, name: str, group: str, now: float, *, retiring: bool) -> None:
        spec = SessionSpec(name, filters_of(self._fleet, group), retiring=retiring)
        client = MqttClient(self._address, spec, self._sink, lambda: self._permitted(name), self._guarded)
        self._held[name] = _Held(client, now + LEASE_S, retiring)
        client.begin()
        log.info("%s the broker session %s", "emptying" if retiring else "receiving through", name)

    def _close(self, name: str) -> None:
        self._held.pop(name).client.stop()

    def _permitted(self, name: str) -> bool:
        held = self._held.get(name)
        return held is not None and time.time() < held.until
