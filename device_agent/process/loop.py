"""The supervisor's event loop: descriptors, timers, signals and calls from other threads; no polling."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger("agent")

Callback = Callable[[], None]


class Timer:
    """A scheduled call; `cancel` withdraws it."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Withdraw the call."""
        self.callback = None


class Loop:
    """Runs callbacks in the main thread: children die with the thread that started them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._posted: deque[Callback] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._running = False
        self._thread: int | None = None
        self.errors = 0
        """Number of unexpected errors caught; each is a defect."""
        self.add_reader(self._wake, self._drain)

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call whenever `fd` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def remove_reader(self, fd: int) -> None:
        """Stop calling; close the descriptor after this."""
        self._selector.unregister(fd)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call once, after `seconds`."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def post(self, callback: Callback) -> None:
        """Call soon in the loop's thread; safe from any thread."""
        self._posted.append(callback)
        os.eventfd_write(self._wake, 1)

    def on_signals(self, numbers: tuple[signal.Signals, ...], callback: Callable[[int], None]) -> None:
        """Call with the number of each signal that arrives."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)

        def arrived() -> None:
            for number in ours.recv(64):
                callback(number)

        self._ends = (ours, theirs)
        self.add_reader(ours.fileno(), arrived)

    def run(self) -> None:
        """Serve until `stop`."""
        self._running, self._thread = True, threading.get_ident()
        while self._running:
            self._turn()

    def run_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Serve until `done()` or the timeout; returns `done()`."""
        deadline = time.monotonic() + timeout_s
        tick = self.call_later(timeout_s, lambda: None)
        while not done() and time.monotonic() < deadline:
            self._turn()
        tick.cancel()
        return done()

    def stop(self) -> None:
        """Let `run` return after the current callback."""
        self._running = False

    def _turn(self) -> None:
        timeout = None
        if self._timers:
            timeout = max(0.0, self._timers[0][0] - time.monotonic())
        for key, _ in self._selector.select(timeout):
            # An earlier callback of this turn may have removed the reader.
            if self._selector.get_map().get(key.fd) is key:
                self.call(key.data)
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self.call(timer.callback)

    def _drain(self) -> None:
        os.eventfd_read(self._wake)
        for _ in range(len(self._posted)):
            self.call(self._posted.popleft())

    def call(self, callback: Callback) -> None:
        """Call now; an unexpected error is counted and logged instead of ending the agent."""
        try:
            callback()
        except Exception:
            # One callback's defect must not end the agent: it is counted, logged in full and reported in health.
            self.errors += 1
            log.exception("an unexpected error in the supervisor (number %s)", self.errors)
