"""A thread that advances rows of one table, each of which only the process that holds its lease may touch."""

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
    """Ticks until it is stopped; what a tick does is the subclass's."""

    name: ClassVar[str]
    """What it advances, for the log."""

    def __init__(self) -> None:
        self._owner = secrets.token_hex(8)
        self._stop = threading.Event()
        self._wake = threading.Event()

    @abstractmethod
    def tick(self, now: float | None = None) -> None:
        """Advance everything once."""

    def run(self, pace_s: float) -> None:
        """Tick until `stop`; a database that is away for a while costs only time.

        Ten thousand devices report in a short time, and each look costs all members: so at most half of the time goes
        into looking.
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
        """Tick now rather than at the next pace."""
        self._wake.set()

    def stop(self) -> None:
        """End `run` after the tick in progress."""
        self._stop.set()
        self._wake.set()

    def lease(self, session: Session, table: Any, number: int, now: float) -> bool:  # noqa: ANN401 - a mapped class
        """Take or prolong the lease of a row; False while another process holds it."""
        mine = or_(table.lease_until < now, table.lease_owner == self._owner)
        found = session.execute(
            update(table)
            .where(table.id == number, mine)
            .values(lease_owner=self._owner, lease_until=now + LEASE_S)
        )
        return bool(found.rowcount)  # type: ignore[attr-defined]
