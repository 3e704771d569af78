"""The supervisor's side of a capture process: its ring, its watchdog and its rate."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, assert_never

from edgec.device_agent.capture.messages import (
    FROM_CAPTURE,
    CaptureStarted,
    FromCapture,
    LimitRate,
    SourceEnded,
    SourceFailed,
    SourceOpened,
    StartCapture,
)
from edgec.device_agent.capture.source import describe
from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.process.ring import Ring
from edgec.device_agent.process.supervisor import Exit, StartMessage, Supervisor
from edgec.protocol.masking import mask

log = logging.getLogger("streams")

_MAX_PICTURE_BYTES = 3840 * 2160 * 3
_MAX_SOUND_BYTES = 1 << 20
_RETRY = RetryPolicy(first_s=0.5, max_s=30.0)
_HEALTHY_S = 60.0
_START_S = 300.0
"""Time for the process to start and to load OpenCV: minutes where the machine is slow, emulated or busy."""
_FIRST_FRAME_S = 5.0
"""Time for the process to say that the source is open, in addition to the source's own timeout."""


class StreamRunner:
    """Keeps a source running; the ring and its counters outlive every capture process.

    `on_change` is called with the name when `state` or `message` changes.
    """

    def __init__(
        self,
        name: str,
        settings: StreamSection,
        loop: Loop,
        on_change: Callable[[str], None],
        view_fds: tuple[int, ...] = (),
    ) -> None:
        self.name, self.settings = name, settings
        self._loop, self._on_change = loop, on_change
        sound = settings.source.is_sound
        self.ring = Ring.create(settings.slots, _MAX_SOUND_BYTES if sound else _MAX_PICTURE_BYTES, name)
        self.ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.space = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.state, self.message = "starting", ""
        self.view_fds = view_fds
        """Ring and eventfd of the live view, where it is on."""
        self.throttled: float | None = None
        self._process = Supervisor(
            loop, f"capture-{name}", "edgec.device_agent.capture.worker", FROM_CAPTURE,
            first=self._first, on_message=self._take, on_exit=self._exited, retry=_RETRY,
        )  # fmt: skip
        self._began = self._started = self._opened = 0.0
        self._rate, self._processed_rate, self._damaged_rate = _Rate(), _Rate(), _Rate()

    @property
    def fds(self) -> tuple[int, int, int]:
        """Ring, ready and space, as passed to the processes."""
        return self.ring.fd, self.ready, self.space

    @property
    def pid(self) -> int | None:
        """Process id of the capture process."""
        return self._process.pid

    @property
    def restarts(self) -> int:
        """How often the capture process was started again."""
        return self._process.restarts

    @property
    def priority(self) -> int:
        """9 is throttled last."""
        return self.settings.priority

    @property
    def fps(self) -> float:
        """Frames per second that the source delivered over the last seconds."""
        return self._rate.value if self.state == "running" else 0.0

    def start(self) -> None:
        """Start the capture process."""
        self._process.start()

    def _first(self) -> StartMessage:
        self.ring.recover_writer()
        self._began, self._started, self._opened = time.monotonic(), 0.0, 0.0
        settings = self.settings
        message = StartCapture(
            self.name, settings.source, settings.policy, self._limit_fps, settings.open_timeout_s
        )
        return message, self.fds

    @property
    def _limit_fps(self) -> float | None:
        return self.throttled or self.settings.max_fps

    def tick(self) -> None:
        """Check that frames still arrive, and kill a capture process that hangs; called every second."""
        now = time.monotonic()
        counters = self.ring.counters()
        self._rate.add(now, counters.captured)
        self._processed_rate.add(now, counters.processed)
        self._damaged_rate.add(now, counters.damaged)
        if not self._process.running or self.state == "ended":
            return
        last = counters.last_commit_ns / 1e9
        fresh = last > self._began
        if fresh and self.state in ("starting", "restarting", "failed", "stalled"):
            self._set("running")
        if fresh and now - self._began > _HEALTHY_S:
            self._process.healthy()
        # A slow reader blocks the writer of an `every` stream: that is not a stall.
        full = self.settings.policy == "every" and counters.in_flight >= self.settings.slots - 1
        limit = self._limit_fps
        stall_s = self.settings.stall_s + (2 / limit if limit else 0)
        quiet = now - (last if fresh else self._opened or self._started or self._began)
        if not full and quiet > self._patience(stall_s):
            damaged = self._damaged_rate.value
            self._kill(f"no {'whole picture' if damaged else 'frame'} for {quiet:.0f} s")
        elif self.settings.min_fps and fresh and now - self._began > stall_s + 5 and not full:
            rate = self._rate.over(stall_s)
            if rate is not None and rate < self.settings.min_fps:
                self._kill(f"only {rate:.1f} frames per second")

    def _patience(self, stall_s: float) -> float:
        """How long the process may be quiet at the stage that it has reached."""
        if self._opened:
            return stall_s
        return self.settings.open_timeout_s + _FIRST_FRAME_S if self._started else _START_S

    def throttle(self, fps: float | None) -> None:
        """Limit the rate below the configured one; `None` lifts the limit."""
        if fps == self.throttled:
            return
        self.throttled = fps
        self._process.send(LimitRate(self._limit_fps))

    def restart(self, why: str) -> None:
        """Kill the capture process; a new one follows."""
        if self._process.running:
            self._kill(why)

    def close(self) -> None:
        """End the process and release the ring."""
        self._process.close()
        self.ring.close()
        os.close(self.ready)
        os.close(self.space)

    def report(self) -> dict[str, Any]:
        """Return the capture side's part of the health message."""
        counters = self.ring.counters()
        return {
            "name": self.name,
            "state": self.state,
            "model": self.settings.model or "",
            "fps": round(self._processed_rate.value if self.state == "running" else 0.0, 2),
            "captured_fps": round(self.fps, 2),
            "captured": counters.captured,
            "processed": counters.processed,
            "dropped": counters.dropped,
            "damaged": counters.damaged,
            "in_flight": counters.in_flight,
            "restarts": self.restarts,
            "throttled_to_fps": self.throttled,
            "message": self.message or self._damage(),
        }

    def _damage(self) -> str:
        rate = self._damaged_rate.value if self.state == "running" else 0.0
        return f"{rate:.1f} damaged pictures per second: the link or the source is bad" if rate else ""

    def _take(self, message: FromCapture) -> None:
        match message:
            case CaptureStarted():
                self._started = time.monotonic()
            case SourceOpened():
                self._opened = time.monotonic()
                log.info("%s: %s is open", self.name, describe(self.settings.source))
            case SourceEnded():
                self._set("ended", "the source has ended")
            case SourceFailed():
                self._set("failed", mask(message.message))
                log.warning("%s: %s", self.name, message.message)
            case _:
                assert_never(message)

    def _kill(self, why: str) -> None:
        log.warning("%s: %s; restarting its capture process", self.name, why)
        self._set("stalled", why)
        self._process.kill(why)

    def _exited(self, how: Exit) -> bool:
        self.ring.recover_writer()
        if self.state == "ended":
            return False
        if self.state == "running":
            self._set("restarting", f"its capture process {how}")
        return True

    def _set(self, state: str, message: str = "") -> None:
        if (state, message) != (self.state, self.message):
            self.state, self.message = state, message
            self._on_change(self.name)


class _Rate:
    """Frames per second, from a counter that is sampled now and then."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, now: float, count: int) -> None:
        self._points.append((now, count))
        while len(self._points) > 2 and now - self._points[0][0] > 120:
            del self._points[0]

    def over(self, seconds: float) -> float | None:
        now, count = self._points[-1]
        past = [point for point in self._points if now - point[0] >= seconds]
        if not past:
            return None
        then, before = past[-1]
        return (count - before) / (now - then)

    @property
    def value(self) -> float:
        if len(self._points) < 2:
            return 0.0
        then, before = self._points[max(0, len(self._points) - 6)]
        now, count = self._points[-1]
        return (count - before) / (now - then) if now > then else 0.0
