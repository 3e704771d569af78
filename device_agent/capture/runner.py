"""One stream's capture process: started, watched, killed and started again."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any

from edgec.device_agent.capture.sources import describe
from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.process import child
from edgec.device_agent.process.channel import ChannelClosed
from edgec.device_agent.process.log import redact
from edgec.device_agent.process.loop import Loop, Timer
from edgec.device_agent.process.ring import Ring

log = logging.getLogger("streams")

_MAX_PICTURE_BYTES = 3840 * 2160 * 3
_MAX_SOUND_BYTES = 1 << 20
_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 30.0
_HEALTHY_S = 60.0


class StreamRunner:
    """Keeps a source running; the ring and its counters outlive every capture process.

    ``on_change`` is called when ``state`` or ``message`` changes.
    """

    def __init__(
        self, name: str, settings: StreamSection, loop: Loop, on_change: Callable[[str], None]
    ) -> None:
        self.name, self.settings = name, settings
        self._loop, self._on_change = loop, on_change
        sound = settings.source.is_sound
        self.ring = Ring.create(settings.slots, _MAX_SOUND_BYTES if sound else _MAX_PICTURE_BYTES, name)
        self.ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.space = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.state, self.message = "starting", ""
        self.restarts = 0
        self.view_fds: tuple[int, ...] = ()
        """Ring and eventfd of the live view, where it is on."""
        self.limit_fps: float | None = settings.max_fps
        self.throttled: float | None = None
        self._child: child.Child | None = None
        self._timer: Timer | None = None
        self._attempt = 0
        self._began = self._opened = 0.0
        self._rate, self._processed_rate = _Rate(), _Rate()
        self._closed = False

    @property
    def fds(self) -> tuple[int, int, int]:
        """Ring, ready and space, as the processes get them."""
        return self.ring.fd, self.ready, self.space

    @property
    def pid(self) -> int | None:
        """The capture process."""
        return self._child.pid if self._child else None

    @property
    def priority(self) -> int:
        """9 is slowed down last."""
        return self.settings.priority

    @property
    def fps(self) -> float:
        """Frames a second that the source delivers, over the last seconds."""
        return self._rate.value if self.state == "running" else 0.0

    def start(self) -> None:
        """Start the capture process."""
        self._timer = None
        if self._closed:
            return
        self.ring.recover_writer()
        self._began, self._opened = time.monotonic(), 0.0
        process = child.spawn(f"capture-{self.name}", "edgec.device_agent.capture.worker")
        self._child = process
        self._loop.add_reader(process.channel.fileno(), lambda: self._heard(process))
        self._loop.add_reader(process.pidfd, lambda: self._died(process))
        body = {
            "name": self.name,
            "source": self.settings.source.to_json(),
            "policy": self.settings.policy,
            "max_fps": self.throttled or self.limit_fps,
            "timeout_s": self.settings.open_timeout_s,
        }
        try:
            process.channel.send(body, self.fds)
        except ChannelClosed:
            log.warning("the capture process of %s died at once", self.name)

    def tick(self) -> None:
        """Look whether frames still come; called every second."""
        now = time.monotonic()
        counters = self.ring.counters()
        self._rate.add(now, counters.captured)
        self._processed_rate.add(now, counters.processed)
        if self._child is None or self.state == "ended":
            return
        last = counters.last_commit_ns / 1e9
        fresh = last > self._began
        if fresh and self.state in ("starting", "restarting", "failed", "stalled"):
            self._set("running")
        if fresh and now - self._began > _HEALTHY_S:
            self._attempt = 0
        # A reader that is behind keeps an `every` stream from writing: that is no stall.
        full = self.settings.policy == "every" and counters.in_flight >= self.settings.slots - 1
        limit = self.throttled or self.limit_fps
        patience = self.settings.stall_s + (2 / limit if limit else 0)
        quiet = now - (last if fresh else self._opened or self._began)
        if not full and quiet > (patience if self._opened else self.settings.open_timeout_s + 5):
            self._kill(f"no frame for {quiet:.0f} s")
        elif self.settings.min_fps and fresh and now - self._began > patience + 5 and not full:
            rate = self._rate.over(patience)
            if rate is not None and rate < self.settings.min_fps:
                self._kill(f"only {rate:.1f} frames a second")

    def throttle(self, fps: float | None) -> None:
        """Lower the rate below the configured one, or lift that."""
        if fps == self.throttled:
            return
        self.throttled = fps
        if self._child is not None:
            try:
                self._child.channel.send({"op": "limit", "max_fps": fps or self.limit_fps})
            except ChannelClosed:
                log.info("the capture process of %s is gone; its next one gets the limit", self.name)

    def restart(self, why: str) -> None:
        """Kill the capture process; a new one follows."""
        if self._child is not None:
            self._kill(why)

    def close(self) -> None:
        """End the process and let the ring go."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._child is not None:
            process, self._child = self._child, None
            process.kill()
            self._forget(process)
        self.ring.close()
        os.close(self.ready)
        os.close(self.space)

    def report(self) -> dict[str, Any]:
        """Return what health says about the capture side."""
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
            "in_flight": counters.in_flight,
            "restarts": self.restarts,
            "throttled_to_fps": self.throttled,
            "message": self.message,
        }

    def _heard(self, process: child.Child) -> None:
        try:
            body, _ = process.channel.receive()
        except ChannelClosed:
            self._loop.remove_reader(process.channel.fileno())
            return
        match body["op"]:
            case "opened":
                self._opened = time.monotonic()
                log.info("%s: %s is open", self.name, describe(self.settings.source))
            case "ended":
                self._set("ended", "the source has ended")
            case "failed":
                self._set("failed", redact(body["message"]))
                log.warning("%s: %s", self.name, body["message"])

    def _kill(self, why: str) -> None:
        log.warning("%s: %s; its capture process is started again", self.name, why)
        self._set("stalled", why)
        if self._child is not None:
            self._child.kill()

    def _died(self, process: child.Child) -> None:
        # What it said before it died may still wait in the channel.
        while self._child is process and _readable(process):
            try:
                body, _ = process.channel.receive()
            except ChannelClosed:
                break
            if body["op"] in ("ended", "failed"):
                self._set(body["op"], redact(body.get("message", "the source has ended")))
        status = self._forget(process)
        self._child = None
        self.ring.recover_writer()
        if self.state == "ended" or self._closed:
            return
        self.restarts += 1
        if self.state == "running":
            self._set("restarting", f"its capture process ended with status {status}")
        wait = random.uniform(0, min(_MAX_WAIT_S, _FIRST_WAIT_S * 2**self._attempt))
        self._attempt = min(self._attempt + 1, 10)
        self._timer = self._loop.call_later(wait, self.start)

    def _forget(self, process: child.Child) -> int:
        for fd in (process.channel.fileno(), process.pidfd):
            try:
                self._loop.remove_reader(fd)
            except KeyError:
                continue  # the channel's end was read before
        return process.reap()

    def _set(self, state: str, message: str = "") -> None:
        if (state, message) != (self.state, self.message):
            self.state, self.message = state, message
            self._on_change(self.name)


class _Rate:
    """Frames a second, from a count that is looked at now and then."""

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


def _readable(process: child.Child) -> bool:
    import select

    return bool(select.select([process.channel.fileno()], [], [], 0)[0])
