"""A worker thread that advances rows of a table, each under a lease that one process holds."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from sqlalchemy import or_, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

LEASE_S = 30.0
log = logging.getLogger(__name__)


class LeasedWorker(ABC):
    """Ticks until it is stopped; subclasses implement `tick`."""

    name: ClassVar[str]
    """What it advances, for log messages."""

    def __init__(self) -> None:
        self._owner = secrets.token_hex(8)
        self._stop = threading.Event()
        self._wake = threading.Event()

    @abstractmethod
    def tick(self, now: float | None = None) -> None:
        """Advance everything once."""

    def run(self, pace_s: float) -> None:
        """Tick until `stop`; while the database is unavailable, retry.

        Ten thousand devices report within a short time, and each tick visits all members: at most half of the time
        is spent in ticks.
        """
        while not self._stop.is_set():
            self._wake.clear()
            began = time.monotonic()
            try:
                self.tick()
            except DBAPIError as error:
                log.warning("%s try again in %g s: %s", self.name, pace_s, error.orig)
            self._stop.wait(min(time.monotonic() - began, pace_s))
            self._wake.wait(pace_s)

    def wake(self) -> None:
        """Tick now instead of at the end of the interval."""
        self._wake.set()

    def stop(self) -> None:
        """End `run` after the tick in progress."""
        self._stop.set()
        self._wake.set()

    def lease(self, session: Session, table: Any, number: int, now: float) -> bool:  # noqa: ANN401 - a mapped class
        """Acquire or extend the lease of a row; returns False while another process holds it."""
        mine = or_(table.lease_until < now, table.lease_owner == self._owner)
        found = session.execute(
            update(table)
            .where(table.id == number, mine)
            .values(lease_owner=self._owner, lease_until=now + LEASE_S)
        )
        return bool(found.rowcount)  # type: ignore[attr-defined]
