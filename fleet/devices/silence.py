"""Devices that fall silent: the broker still says that they are there, but nothing is heard of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Device, Lease

PACE_S = 15.0
LEAST_S = 60.0
"""No device is called silent earlier, however often it reports."""
MISSED = 3.0
"""Number of reports that a device may miss."""
log = logging.getLogger(__name__)


def mark_silent(session: Session, now: float, listening_s: float) -> int:
    """Mark as offline what has missed `MISSED` reports; returns how many devices.

    Args:
        session: a writing session.
        now: Unix time.
        listening_s: for how long messages have been received without a gap: silence from before says nothing.
    """
    pace = func.coalesce(Device.report_interval_s, 0.0) * MISSED
    window = pace + LEAST_S
    query = (
        update(Device)
        .where(
            Device.state == "online",
            Device.report_interval_s.is_not(None),
            window < listening_s,
            func.coalesce(Device.last_seen, 0.0) < now - window,
        )
        .values(state="offline")
    )
    found = session.execute(query, execution_options={"synchronize_session": False})
    return int(found.rowcount)  # type: ignore[attr-defined]


class SilenceWatch:
    """Marks silent devices as offline; they are online again with their next report.

    `hears` says whether messages reach the database at the moment.
    """

    def __init__(self, database: Database, hears: Callable[[], bool]) -> None:
        self._database, self._hears = database, hears
        self._stop = threading.Event()
        self._since: float | None = None

    def run(self) -> None:
        """Look every few seconds until `stop`."""
        while not self._stop.wait(PACE_S):
            try:
                self.tick(time.time())
            except DBAPIError as error:
                self._since = None
                log.warning("presence waits for the database: %s", error.orig)

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def tick(self, now: float) -> None:
        """Look once."""
        with self._database.writing() as session:
            orphans = session.scalar(
                select(func.count()).where(Lease.name.startswith("session:"), Lease.until < now)
            )
            if orphans or not self._hears():
                self._since = None
                return
            if self._since is None:
                self._since = now
            if count := mark_silent(session, now, now - self._since):
                log.info("%d devices are silent: they count as offline", count)
