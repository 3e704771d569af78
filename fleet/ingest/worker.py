"""From MQTT to the database: in batches, idempotent, in each device's order, acknowledged after the commit.

The MQTT session is persistent, with manual acknowledgement: a message is acknowledged when its row is committed, so
after a crash the broker sends it again, and a repeat changes nothing. When the database is slow, unacknowledged
messages stop the broker's stream: the queue builds up at the broker instead of being lost here.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from edgec.fleet.broker.messages import Inbound, Publisher, Receipts
from edgec.fleet.ingest.batch import Batch, IngestCounters, Prepared, prepare
from edgec.fleet.jobs.service import notify
from edgec.fleet.store.database import Database

BATCH = 500
QUEUE = 10_000
log = logging.getLogger(__name__)


_Ready = queue.Queue[list[Prepared] | BaseException | None]
"""From the reading to the writing thread: messages, the exception that ended reading, or None at the end."""


class Ingest:
    """Takes messages from a bounded queue and writes them, many per transaction."""

    def __init__(
        self, database: Database, publisher: Publisher, fleet: str, on_job: Callable[[], None]
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._fleet = fleet
        self._on_job = on_job
        self._queue: queue.Queue[Inbound | None] = queue.Queue(QUEUE)
        self.counters = IngestCounters()
        self._ended = threading.Event()

    def offer(self, message: Inbound) -> bool:
        """Enqueue a message; returns False if there is no room at the moment."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            return False
        return True

    @property
    def depth(self) -> int:
        """How many messages are queued."""
        return self._queue.qsize()

    def stop(self) -> None:
        """End `run` once everything before this call is written."""
        while not self._ended.is_set():
            try:
                self._queue.put(None, timeout=0.2)
            except queue.Full:
                continue
            return

    def run(self, stopped: threading.Event) -> None:
        """Write batches until `stop`; while the database is unavailable, retry and accept nothing new.

        A second thread decodes the next messages while the database is busy with these.
        """
        ready: _Ready = queue.Queue(1)
        threading.Thread(target=self._read, args=(ready,), name="ingest-read", daemon=True).start()
        try:
            while (batch := ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise RuntimeError("messages can no longer be decoded") from batch
                while batch and not self._write(batch):
                    if stopped.wait(1.0):
                        return  # These are not acknowledged: the broker sends them again.
        finally:
            self._ended.set()

    def _read(self, ready: _Ready) -> None:
        running = True
        try:
            while running:
                batch = [self._queue.get()]
                while len(batch) < BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                running = None not in batch
                self._hand_over(ready, [prepare(item) for item in batch if item is not None])
        except BaseException as error:  # The writing thread waits for batches, and has to end with this one.
            self._hand_over(ready, error)
            raise
        self._hand_over(ready, None)

    def _hand_over(self, ready: _Ready, batch: list[Prepared] | BaseException | None) -> None:
        while not self._ended.is_set():
            try:
                ready.put(batch, timeout=0.5)
            except queue.Full:
                continue
            return

    def _write(self, messages: list[Prepared]) -> bool:
        """Write and acknowledge; returns False while the database is unavailable. A message that it refuses is
        found by bisection and skipped, so that it cannot hold up the others."""
        started = time.monotonic()
        batch = Batch(self.counters)
        try:
            with self._database.writing() as session:
                batch.apply(session, messages, self._fleet)
        except (OperationalError, InterfaceError) as error:
            log.warning("%d messages wait for the database: %s", len(messages), error.orig)
            return False
        except (DBAPIError, ValueError, OverflowError) as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                return False
            if len(messages) > 1:
                half = len(messages) // 2
                return self._write(messages[:half]) and self._write(messages[half:])
            log.warning("a message on %s was skipped: %s", messages[0].message.topic, error)
            self.counters.rejected["database"] += 1
            batch = Batch(self.counters)
        batch.count()
        self.counters.batches += 1
        self.counters.seconds += time.monotonic() - started
        _acknowledge([item.message for item in messages])
        for reply in batch.replies:
            self._publisher.publish(reply.topic, reply.payload)
        if batch.notify:
            self._notify(batch.notify)
        if batch.jobs_changed:
            self._on_job()
        return True

    def _notify(self, devices: set[int]) -> None:
        try:
            notify(self._database, self._publisher, self._fleet, devices)
        except (OperationalError, InterfaceError) as error:
            # The messages are stored. Devices request their jobs when they connect, and each new job notifies them
            # again.
            log.warning("%d devices are not notified of their jobs now: %s", len(devices), error.orig)


def _acknowledge(messages: list[Inbound]) -> None:
    numbers: dict[int, list[int]] = {}
    receipts: dict[int, Receipts] = {}
    for message in messages:
        key = id(message.receipts)
        receipts[key] = message.receipts
        numbers.setdefault(key, []).append(message.number)
    for key, confirmed in numbers.items():
        receipts[key].acknowledge(confirmed)
