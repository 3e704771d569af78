"""The outbox: messages for the fleet, stored on disk until the broker has them.

SQLite with a write-ahead log and `synchronous=FULL`: an entry that `flush` has seen survives a power cut.
One thread writes, many entries per transaction. Size and age are bounded; ages count the agent's running time and
not the wall clock, so that a clock that jumps by years expires nothing. While the disk cannot be written, new entries
wait in bounded memory, and `state().problem` reports it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.device_agent.errors import StateError
from edgec.device_agent.process.statefile import StateFile
from edgec.protocol.events import DetectionData, DetectionEvent

log = logging.getLogger("outbox")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, lane INTEGER NOT NULL,
    critical INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL, created REAL NOT NULL,
    crc INTEGER);
CREATE INDEX IF NOT EXISTS by_lane ON messages (lane, seq);
CREATE TABLE IF NOT EXISTS sequences (stream TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS open_tracks (
    stream TEXT NOT NULL, track TEXT NOT NULL, event TEXT NOT NULL, PRIMARY KEY (stream, track));
CREATE TABLE IF NOT EXISTS sent (id TEXT PRIMARY KEY, seq INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_seq ON sent (seq);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
_REMEMBERED = 4096
"""Number of sent messages whose ids are still recognised as repeats."""
_LOG_SHORT, _LOG_LONG = 200, 1000
_MEMORY_BYTES = 8 * 2**20
_ROOM_BYTES = 4 * 2**20
_RESERVED = 1000
"""The copy of the numbers is written once for so many events: after damage they go on at the next thousand."""
_MESSAGE = "seq, id, lane, critical, topic, payload, created, crc"
CONTROL, EVENT = 0, 1
"""Lanes: answers to the fleet precede events; order is preserved within a lane."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A waiting message; `key` is its row on disk, negative while it is only in memory."""

    key: int
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class OutboxState:
    """The outbox's state, for health."""

    depth: int
    bytes: int
    oldest_age_s: float
    dropped: int
    pressure: float
    problem: str


@dataclass(slots=True)
class _Tally:
    """The counters as a transaction changes them; valid once it is committed."""

    depth: int
    bytes: int
    dropped: int


@dataclass(slots=True)
class _Put:
    id: str
    lane: int
    critical: bool
    topic: str
    payload: bytes | None
    stream: str = ""
    source: str = ""
    data: DetectionData | None = None
    sequence: int | None = None
    flushed: threading.Event | None = None


class Outbox:
    """A durable queue; every method may be called from any thread.

    `on_change` is called after messages became available (from the writer's thread).
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        max_age_s: float,
        on_change: Callable[[], None] = lambda: None,
        make_room: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._make_room = make_room
        self._path, self._max_bytes, self._max_age_s = path, max_bytes, max_age_s
        self._on_change = on_change
        self._condition = threading.Condition()
        self._inbox: list[_Put] = []
        self._acked: set[int] = set()
        self._closing = False
        self._memory: list[tuple[Entry, _Put]] = []
        self._memory_key = 0
        self._problem = ""
        self._dropped = 0
        self._last: dict[str, int] = {}
        """The last sequence number of each stream."""
        self._numbers = StateFile(path.with_name(f"{path.stem}.numbers.json"))
        self._reserved: dict[str, int] = {}
        """Up to which number the copy of the numbers vouches for each stream."""
        self._depth = self._bytes = 0
        """Of what is on disk; cached, because counting would read the whole table."""
        self._started = time.monotonic()
        self._base = self._noted = 0.0
        self._logged = 0
        """Transactions in the write-ahead log since the last checkpoint."""
        self._database: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        """Guards the connection and the memory list."""
        self._open()
        self._thread = threading.Thread(target=self._write_loop, name="outbox", daemon=True)
        self._thread.start()

    # Producers.

    def put(self, topic: str, payload: bytes, message_id: str, *, lane: int = CONTROL) -> None:
        """Enqueue a message that is never dropped; a repeated id is enqueued once."""
        self._enqueue(_Put(message_id, lane, True, topic, payload))

    def put_event(
        self, topic: str, source: str, stream: str, event_id: str, data: DetectionData, *, critical: bool
    ) -> None:
        """Enqueue a detection; it gets the stream's next sequence number when it is written."""
        self._enqueue(_Put(event_id, EVENT, critical, topic, None, stream, source, data))

    def end_open_tracks(self, topic_of: Callable[[str], str], stream: str | None = None) -> None:
        """Enqueue `end` for every open track that will not be seen again, because a process died."""
        with self._lock:
            if self._database is None:
                return
            query = "SELECT stream, track, event FROM open_tracks"
            rows = self._database.execute(query).fetchall()
        for name, track, text in rows:
            if stream is not None and name != stream:
                continue
            event = DetectionEvent.model_validate_json(text)
            changes = {"phase": "end", "attributes": {**event.data.attributes, "interrupted": True}}
            data = DetectionData.model_validate(event.data.model_dump() | changes)
            self._enqueue(
                _Put(
                    f"{event.id}-end-{track}"[:128],
                    EVENT,
                    True,
                    topic_of(name),
                    None,
                    name,
                    event.source,
                    data,
                )
            )

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything enqueued so far is on disk; `False` if it is not (disk full)."""
        done = threading.Event()
        self._enqueue(_Put("", 0, False, "", None, flushed=done))
        return done.wait(timeout_s) and not self._problem

    # The sender.

    def peek(self, limit: int, skip: set[int]) -> list[Entry]:
        """Return the next messages to send, in order, without those in `skip`."""
        with self._lock:
            entries: list[Entry] = []
            if self._database is not None:
                rows = self._database.execute(
                    "SELECT seq, topic, payload, crc FROM messages ORDER BY lane, seq LIMIT ?",
                    (limit + len(skip) + len(self._acked),),
                )
                with contextlib.suppress(sqlite3.OperationalError):
                    entries = [self._checked(*row) for row in rows]
            entries += [entry for entry, _ in self._memory]
            out = skip | self._acked
            return [entry for entry in entries if entry.key not in out and entry.topic][:limit]

    def _checked(self, key: int, topic: str, payload: bytes, crc: int | None) -> Entry:
        """An entry of the disk; one that the disk has altered is given up, and has no topic."""
        if crc is None or zlib.crc32(payload, zlib.crc32(topic.encode())) == crc:
            return Entry(key, topic, payload)
        if key not in self._acked:
            log.error("message %s of the outbox is damaged on disk and is given up", key)
            self._dropped += 1
            self._acked.add(key)
        return Entry(key, "", b"")

    def acknowledge(self, key: int) -> None:
        """Forget a message that the broker has."""
        with self._condition:
            self._acked.add(key)
            self._condition.notify()

    # Health.

    def state(self) -> OutboxState:
        """Return depth, size, age and any problem."""
        with self._lock:
            depth, size = self._depth, self._bytes
            oldest = None
            if self._database is not None:
                with contextlib.suppress(sqlite3.DatabaseError):
                    row = self._database.execute(
                        "SELECT created FROM messages ORDER BY seq LIMIT 1"
                    ).fetchone()
                    oldest = row[0] if row else None
            size += sum(len(entry.payload) for entry, _ in self._memory)
            depth += len(self._memory)
            age = max(0.0, self._now() - oldest) if oldest is not None else 0.0
            return OutboxState(
                depth, size, age, self._dropped, min(1.0, size / self._max_bytes), self._problem
            )

    def close(self) -> None:
        """Write what is left and close the file."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    # The writer.

    def _enqueue(self, put: _Put) -> None:
        with self._condition:
            self._inbox.append(put)
            self._condition.notify()

    def _now(self) -> float:
        return self._base + time.monotonic() - self._started

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                aside = self._set_damaged_aside(str(error))
                self._database = self._connect()
                self._salvage(aside)
        except (sqlite3.OperationalError, OSError) as error:
            self._problem = f"the outbox cannot be written ({error}): new messages wait in memory"
            log.error(self._problem)
            self._last = self._numbers_on_disk()

    def _numbers_on_disk(self) -> dict[str, int]:
        """Return the last number of each stream, if the disk can at least be read: numbers must not start over."""
        for how in ("mode=ro", "immutable=1"):  # the second works without a write-ahead log
            try:
                with contextlib.closing(sqlite3.connect(f"file:{self._path}?{how}", uri=True)) as database:
                    return dict(database.execute("SELECT stream, last FROM sequences").fetchall())
            except sqlite3.Error as error:
                log.info("the outbox cannot be read with %s: %s", how, error)
        return {}

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            # A checkpoint costs syncs of its own: keep it out of a message's way, see `_check_point`.
            database.execute("PRAGMA wal_autocheckpoint=0")
            database.execute("PRAGMA journal_size_limit=4194304")
            database.execute("PRAGMA temp_store=MEMORY")
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            database.executescript(_SCHEMA)
            columns = {row[1] for row in database.execute("PRAGMA table_info(messages)")}
            if "crc" not in columns:  # of an earlier version
                database.execute("ALTER TABLE messages ADD COLUMN crc INTEGER")
            for stream, last in database.execute("SELECT stream, last FROM sequences"):
                self._last[stream] = max(last, self._last.get(stream, 0))
            counters = dict(database.execute("SELECT name, value FROM counters").fetchall())
        except sqlite3.Error:
            database.close()
            raise
        self._depth, self._bytes = database.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0) FROM messages"
        ).fetchone()
        self._base = counters.get("running_s", 0.0)
        self._dropped = int(counters.get("dropped", 0))
        return database

    def _set_damaged_aside(self, why: str) -> Path:
        aside = self._path.with_name(f"{self._path.name}.damaged")
        log.error("the outbox is damaged (%s): it is renamed to %s and a new one is created", why, aside.name)
        self._path.replace(aside)
        log_of = self._path.with_name(self._path.name + "-wal")
        if log_of.exists():
            log_of.replace(aside.with_name(aside.name + "-wal"))
        self._path.with_name(self._path.name + "-shm").unlink(missing_ok=True)
        return aside

    def _salvage(self, aside: Path) -> None:
        """Take what can still be read of a damaged outbox, and let the numbers go on."""
        database = self._database
        assert database is not None
        saved = 0
        copied = self._numbers.load().data
        self._last = {stream: max(int(last), self._last.get(stream, 0)) for stream, last in copied.items()}
        try:
            with contextlib.closing(sqlite3.connect(aside)) as old:
                for stream, last in old.execute("SELECT stream, last FROM sequences"):
                    self._last[stream] = max(int(last), self._last.get(stream, 0))
                for row in old.execute(f"SELECT {_MESSAGE} FROM messages"):
                    payload, crc = row[5], row[7]
                    if isinstance(payload, bytes) and zlib.crc32(payload, zlib.crc32(row[4].encode())) == crc:
                        database.execute(
                            f"INSERT OR IGNORE INTO messages ({_MESSAGE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                            row,
                        )
                        saved += 1
        except (sqlite3.Error, AttributeError) as error:
            log.info("the damaged outbox can be read no further: %s", error)
        database.executemany("INSERT OR REPLACE INTO sequences VALUES (?, ?)", list(self._last.items()))
        self._depth, self._bytes = database.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0) FROM messages"
        ).fetchone()
        log.warning("%s messages of the damaged outbox are saved; event numbers go on", saved)

    def _write_loop(self) -> None:
        while True:
            with self._condition:
                if self._problem and not (self._inbox or self._closing):
                    # What the disk refused is retried every second, and with every new entry.
                    self._condition.wait(1.0)
                while not (self._inbox or self._acked or self._closing or self._problem):
                    self._condition.wait()
                batch, self._inbox = self._inbox, []
                closing = self._closing
            self._write(batch)
            for put in batch:
                if put.flushed:
                    put.flushed.set()
            if batch:
                self._on_change()
            self._check_point()
            if closing and not self._inbox:
                return

    def _check_point(self) -> None:
        """Checkpoint the write-ahead log: soon when nothing waits, later when something does."""
        if self._logged < (_LOG_LONG if self._inbox else _LOG_SHORT):
            return
        with self._lock:
            self._logged = 0
            if self._database is None:
                return
            try:
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.OperationalError as error:
                log.warning("the outbox's log cannot be checkpointed yet: %s", error)

    def _write(self, batch: list[_Put]) -> None:
        with self._lock:
            acked = set(self._acked)
            puts = [put for entry, put in self._memory if entry.key not in acked]
            puts += [put for put in batch if put.flushed is None]
            try:
                self._transact_somewhere(puts, acked)
            except (sqlite3.OperationalError, OSError) as error:
                self._hold_in_memory(batch, acked, str(error))
                return
            self._memory.clear()
            self._acked -= acked
            if self._problem:
                log.warning("the outbox can be written again")
                self._problem = ""

    def _transact_somewhere(self, puts: list[_Put], acked: set[int]) -> None:
        """`_transact`; on a full disk once more, if pictures could make room."""
        try:
            self._begun(puts, acked)
        except sqlite3.OperationalError:
            if not self._make_room(_ROOM_BYTES):
                raise
            self._begun(puts, acked)

    def _begun(self, puts: list[_Put], acked: set[int]) -> None:
        if self._database is None:
            self._database = self._connect()
        self._transact(puts, acked)

    def _transact(self, puts: list[_Put], acked: set[int]) -> None:
        database = self._database
        assert database is not None
        self._copy_numbers()
        tally = _Tally(self._depth, self._bytes, self._dropped)
        now, before = self._now(), dict(self._last)
        database.execute("BEGIN IMMEDIATE")
        try:
            for key in acked:
                self._forget(database, key, tally)
            for put in puts:
                self._insert(database, put, tally)
            # After a problem, all of them: events that were sent from memory have numbers, too.
            numbers = [one for one in self._last.items() if self._problem or before.get(one[0]) != one[1]]
            database.executemany("INSERT OR REPLACE INTO sequences VALUES (?, ?)", numbers)
            if puts:
                self._bound(database, tally)
            if acked:
                limit = "(SELECT coalesce(max(seq), 0) FROM sent) - ?"
                database.execute(f"DELETE FROM sent WHERE seq < {limit}", (_REMEMBERED,))
            if now - self._noted >= 1.0 or tally.dropped != self._dropped:
                counters = (("running_s", now), ("dropped", float(tally.dropped)))
                database.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?)", counters)
                self._noted = now
            database.execute("COMMIT")
            self._logged += 1
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        self._depth, self._bytes, self._dropped = tally.depth, tally.bytes, tally.dropped

    def _copy_numbers(self) -> None:
        """Keep a copy of the numbers outside the database, ahead of those in use."""
        last = dict(self._last)
        if all(last[stream] <= self._reserved.get(stream, 0) - _RESERVED // 2 for stream in last):
            return
        reserved = {stream: number + _RESERVED for stream, number in last.items()}
        try:
            self._numbers.save(reserved)
        except StateError as error:
            log.warning("the event numbers have no copy: %s", error)
        self._reserved = reserved

    def _forget(self, database: sqlite3.Connection, key: int, tally: _Tally) -> None:
        row = database.execute("SELECT id, length(payload) FROM messages WHERE seq = ?", (key,)).fetchone()
        if row is not None:
            database.execute("INSERT OR REPLACE INTO sent VALUES (?, ?)", (row[0], key))
            database.execute("DELETE FROM messages WHERE seq = ?", (key,))
            tally.depth -= 1
            tally.bytes -= row[1]

    def _number(self, put: _Put) -> int:
        """Return the event's number in its stream, assigned once, even if the disk first refused the event."""
        if put.sequence is None:
            put.sequence = self._last[put.stream] = self._last.get(put.stream, 0) + 1
        return put.sequence

    def _insert(self, database: sqlite3.Connection, put: _Put, tally: _Tally) -> None:
        known = "SELECT 1 FROM messages WHERE id = ? UNION SELECT 1 FROM sent WHERE id = ?"
        if database.execute(known, (put.id, put.id)).fetchone():
            return
        payload = put.payload
        if put.data is not None:
            event = event_of(put.data, put.source, put.id, self._number(put))
            payload = event.model_dump_json(exclude_none=True).encode()
            if put.data.phase == "end":
                key = (put.stream, put.data.track_id)
                database.execute("DELETE FROM open_tracks WHERE stream = ? AND track = ?", key)
            elif put.data.duration_s or put.data.kind != "rule" or "direction" not in put.data.attributes:
                row = (put.stream, put.data.track_id, payload.decode())
                database.execute("INSERT OR REPLACE INTO open_tracks VALUES (?, ?, ?)", row)
        crc = zlib.crc32(payload or b"", zlib.crc32(put.topic.encode()))
        database.execute(
            "INSERT INTO messages (id, lane, critical, topic, payload, created, crc) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (put.id, put.lane, put.critical, put.topic, payload or b"", self._now(), crc),
        )

        tally.depth += 1
        tally.bytes += len(payload or b"")

    def _bound(self, database: sqlite3.Connection, tally: _Tally) -> None:
        """Drop what is too old, then the oldest: updates of tracks first, then events, never answers."""
        limit = self._now() - self._max_age_s
        oldest = "SELECT created FROM messages WHERE lane = ? ORDER BY seq LIMIT 1"
        first = database.execute(oldest, (EVENT,)).fetchone()
        if first is not None and first[0] < limit:
            self._drop(database, "lane = ? AND created < ?", (EVENT, limit), None, tally)
        for critical in (0, 1):
            over = tally.bytes - self._max_bytes
            if over > 0:
                self._drop(database, "lane = ? AND critical = ?", (EVENT, critical), over, tally)

    def _drop(
        self,
        database: sqlite3.Connection,
        where: str,
        values: tuple[float, ...],
        over: int | None,
        tally: _Tally,
    ) -> None:
        """Delete the oldest of the matching rows: all, or enough to free `over` bytes."""
        victims, freed = [], 0
        query = f"SELECT seq, length(payload) FROM messages WHERE {where} ORDER BY seq"
        for seq, length in database.execute(query, values):
            if over is not None and freed >= over:
                break
            victims.append((seq,))
            freed += length
        database.executemany("DELETE FROM messages WHERE seq = ?", victims)
        tally.depth -= len(victims)
        tally.bytes -= freed
        tally.dropped += len(victims)

    def _hold_in_memory(self, batch: list[_Put], acked: set[int], why: str) -> None:
        if not self._problem:
            log.error("the outbox cannot be written (%s): new messages wait in memory", why)
        self._problem = f"the outbox cannot be written ({why}): new messages wait in memory"
        self._memory = [(entry, put) for entry, put in self._memory if entry.key not in acked]
        self._acked -= {key for key in acked if key < 0}
        for put in batch:
            if put.flushed is not None:
                continue
            self._memory_key -= 1
            payload = put.payload
            if put.data is not None:
                event = event_of(put.data, put.source, put.id, self._number(put))
                payload = event.model_dump_json(exclude_none=True).encode()
            self._memory.append((Entry(self._memory_key, put.topic, payload or b""), put))
        while sum(len(entry.payload) for entry, _ in self._memory) > _MEMORY_BYTES:
            for index, (_, put) in enumerate(self._memory):
                if put.lane != CONTROL:
                    del self._memory[index]
                    self._dropped += 1
                    break
            else:
                return


def event_of(data: DetectionData, source: str, event_id: str, sequence: int) -> DetectionEvent:
    """Wrap a detection in an event with its frame's time."""
    moment = data.frame.captured_at if data.frame else datetime.now(UTC)
    return DetectionEvent.of(data, source=source, event_id=event_id, sequence=sequence, time=moment)


def dump(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()
