"""Frames between two processes: a fixed ring of slots in anonymous shared memory.

The memory is a memfd: it has no name, so it disappears with the last process that maps it, however that process ends.
One process writes, one reads, and the supervisor observes. A slot's state names its owner; states change under a POSIX
record lock on the memfd, which the kernel releases when its holder dies (1.4 µs for a lock and unlock on an x86
server).

The counters live in the ring and outlive both ends, and they add up at every moment, also when a process was killed
between two words: `captured = processed + dropped + in_flight`. Dropped frames are not counted: they are the captured
ones that are neither in a slot nor processed.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x6564_6765_6372_6731
_HEADER_BYTES = 4096
_MAX_SLOTS = 24
# Words of the header.
_MAGIC_AT, _SLOTS_AT, _SIZE_AT, _CAPTURED_AT, _PROCESSED_AT, _LAST_AT, _STRIDE_AT, _DAMAGED_AT = range(8)
# Words of a slot.
_TABLE_AT, _TABLE_WORDS = 32, 16
_STATE, _NUMBER, _HEIGHT, _WIDTH, _CHANNELS, _MONOTONIC, _WALL, _KIND = range(8)
_PAGE = mmap.PAGESIZE


class _State(enum.IntEnum):
    FREE = 0
    WRITING = 1
    READY = 2
    READING = 3


class Kind(enum.IntEnum):
    """Content of a slot."""

    PICTURE = 0  # uint8 [height, width, 3], BGR
    SOUND = 1  # float32 [samples, channels]; width is the sample rate in Hz


@dataclass(frozen=True, slots=True)
class Counters:
    """Frames counted since the ring was created."""

    captured: int
    processed: int
    dropped: int
    in_flight: int
    last_commit_ns: int
    """Monotonic clock; 0 before the first frame."""
    damaged: int = 0
    """Pictures that could not be decoded whole; they are not among the captured ones."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A slot that the reader holds; `data` is the shared memory itself and valid until release."""

    slot: int
    number: int
    data: NDArray[np.uint8] | NDArray[np.float32]
    kind: Kind
    rate: int
    monotonic_ns: int
    wall_ns: int


class _Lock:
    """The record lock, for `with`; a class of its own, because a generator would cost more than the lock."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 8)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 8)


class Ring:
    """One ring, mapped into this process from its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lock = _Lock(fd)
        self._map = mmap.mmap(fd, 0)
        # A memoryview reads and writes single words several times faster than an array does.
        self._words = memoryview(self._map)[:_HEADER_BYTES].cast("Q")
        if int(self._words[_MAGIC_AT]) != _MAGIC:
            raise ValueError("the descriptor is not a frame ring")
        self.slots = int(self._words[_SLOTS_AT])
        self.slot_bytes = int(self._words[_SIZE_AT])
        self._stride = int(self._words[_STRIDE_AT])
        self._rows = [_TABLE_AT + slot * _TABLE_WORDS for slot in range(self.slots)]
        """Index of each slot's first word."""

    @classmethod
    def create(cls, slots: int, slot_bytes: int, name: str = "frames") -> Ring:
        """Create a ring; pages that no frame touches take no memory."""
        if not 2 <= slots <= _MAX_SLOTS:
            raise ValueError(f"a ring has 2 to {_MAX_SLOTS} slots, not {slots}")
        stride = -(-slot_bytes // _PAGE) * _PAGE
        fd = os.memfd_create(f"edgec-{name}")
        os.ftruncate(fd, _HEADER_BYTES + slots * stride)
        header = np.zeros(_HEADER_BYTES // 8, np.uint64)
        header[[_MAGIC_AT, _SLOTS_AT, _SIZE_AT, _STRIDE_AT]] = (_MAGIC, slots, slot_bytes, stride)
        os.pwrite(fd, header.tobytes(), 0)
        return cls(fd)

    # The writer.

    def begin(self, *, newest: bool) -> int | None:
        """Take a slot to write into; with `newest` the oldest waiting frame makes room, counted as dropped.

        Returns None when every slot is taken: the writer waits for the reader.
        """
        with self._lock:
            states = self._states()
            if _State.FREE in states:
                slot = states.index(_State.FREE)
            elif newest and _State.READY in states:
                slot = min(self._ready(states))[1]
            else:
                return None
            self._set(slot, _State.WRITING)
            return slot

    def memory(self, slot: int, nbytes: int) -> NDArray[np.uint8]:
        """The first `nbytes` of a slot, as shared memory."""
        if nbytes > self.slot_bytes:
            raise ValueError(f"a frame of {nbytes} bytes does not fit a slot of {self.slot_bytes}")
        return np.frombuffer(self._map, np.uint8, nbytes, _HEADER_BYTES + slot * self._stride)

    def picture(self, slot: int, height: int, width: int) -> NDArray[np.uint8]:
        """A slot's memory as a picture, uint8 [height, width, 3]."""
        return self.memory(slot, height * width * 3).reshape(height, width, 3)

    def commit(self, slot: int, height: int, width: int, channels: int = 3, kind: Kind = Kind.PICTURE) -> int:
        """Hand a written slot to the reader; returns the frame's number."""
        with self._lock:
            number = self._words[_CAPTURED_AT]
            now = time.monotonic_ns()
            row = self._rows[slot]
            words = (number, height, width, channels, now, max(0, time.time_ns()), kind)
            for place, word in enumerate(words, row + _NUMBER):
                self._words[place] = word
            # In this order: a frame is never in flight before it counts as captured.
            self._words[_CAPTURED_AT] = number + 1
            self._words[row + _STATE] = _State.READY
            self._words[_LAST_AT] = now
            return number

    def abandon(self, slot: int) -> None:
        """Release a slot that nothing was written to."""
        with self._lock:
            self._set(slot, _State.FREE)

    def count_damaged(self) -> None:
        """Count a picture that could not be decoded whole."""
        with self._lock:
            self._words[_DAMAGED_AT] += 1

    def recover_writer(self) -> None:
        """Free what a dead writer held."""
        with self._lock:
            for slot, state in enumerate(self._states()):
                if state == _State.WRITING:
                    self._set(slot, _State.FREE)

    # The reader.

    def take(self, *, newest: bool) -> Frame | None:
        """Take the newest waiting frame (older ones: dropped and counted) or the oldest, if any."""
        with self._lock:
            ready = sorted(self._ready(self._states()))
            if not ready:
                return None
            slot = ready[-1 if newest else 0][1]
            if newest:
                for _, older in ready[:-1]:
                    self._set(older, _State.FREE)
            self._set(slot, _State.READING)
            row = self._words[self._rows[slot] : self._rows[slot] + _TABLE_WORDS].tolist()
        kind = Kind(row[_KIND])
        data: NDArray[np.uint8] | NDArray[np.float32]
        if kind is Kind.PICTURE:
            data = self.picture(slot, row[_HEIGHT], row[_WIDTH])
        else:
            raw = self.memory(slot, row[_HEIGHT] * row[_CHANNELS] * 4)
            data = raw.view(np.float32).reshape(row[_HEIGHT], row[_CHANNELS])
        return Frame(slot, row[_NUMBER], data, kind, row[_WIDTH], row[_MONOTONIC], row[_WALL])

    def release(self, frame: Frame) -> bool:
        """Mark a frame as processed; its memory may be overwritten at once.

        Returns whether a writer that waits for space should be woken: once half the ring is free. To wake it for
        each slot costs the reader 0.1 ms a frame on a machine of two virtual processors, and both then want the
        lock at the same moment. A writer waits only while no slot is free, so the half is always reached.
        """
        with self._lock:
            self._set(frame.slot, _State.FREE)
            self._words[_PROCESSED_AT] += 1
            return self._states().count(_State.FREE) >= self.slots // 2

    def recover_reader(self) -> None:
        """Free what a dead reader held: it counts as dropped."""
        with self._lock:
            for slot, state in enumerate(self._states()):
                if state == _State.READING:
                    self._set(slot, _State.FREE)

    def _states(self) -> list[int]:
        return [self._words[row + _STATE] for row in self._rows]

    def _set(self, slot: int, state: _State) -> None:
        self._words[self._rows[slot] + _STATE] = state

    def _ready(self, states: list[int]) -> list[tuple[int, int]]:
        """Number and slot of the frames that wait."""
        return [
            (self._words[self._rows[slot] + _NUMBER], slot)
            for slot, state in enumerate(states)
            if state == _State.READY
        ]

    # Anyone.

    def counters(self) -> Counters:
        """Read the counters without waiting for a process that is stopped while it holds the lock."""
        locked = False
        for _ in range(50):
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 8)
                locked = True
                break
            except OSError:
                os.sched_yield()
        try:
            words = self._words[:8].tolist()
            states = self._states()
        finally:
            if locked:
                fcntl.lockf(self.fd, fcntl.LOCK_UN, 8)
        in_flight = sum(state in (_State.READY, _State.READING) for state in states)
        captured, processed = words[_CAPTURED_AT], words[_PROCESSED_AT]
        return Counters(
            captured,
            processed,
            captured - processed - in_flight,
            in_flight,
            words[_LAST_AT],
            words[_DAMAGED_AT],
        )

    def close(self) -> None:
        """Close the descriptor; the mapping lives until its last view is gone."""
        os.close(self.fd)
