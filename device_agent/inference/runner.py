"""The supervisor's side of the inference process: starting it, asking it, noticing that it hangs or died."""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.process import child
from edgec.device_agent.process.channel import Body, ChannelClosed
from edgec.device_agent.process.loop import Loop, Timer

log = logging.getLogger("inference")

_BURST, _BURST_S, _PAUSE_S = 5, 60.0, 20.0


class ProcessDied(ConnectionError):
    """The inference process ended before it answered."""


@dataclass(frozen=True)
class Candidate:
    """A model to load into a slot: from the store by digest, or a file of its own."""

    path: str
    digest: str | None
    threads: int | None


class Inference:
    """One inference process at a time; after a death the next one gets the same streams and models.

    ``models_of(slot)`` gives what to load, best first; ``on_event`` takes what pipelines say;
    ``on_death`` is told before the next process starts.
    """

    def __init__(
        self,
        loop: Loop,
        boot: str,
        media: Body,
        models_of: Callable[[str], list[Candidate]],
        on_event: Callable[[Body], None],
        on_death: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self._loop, self._boot, self._media = loop, boot, media
        self._models_of, self._on_event = models_of, on_event
        self._on_death, self._on_change = on_death, on_change
        self.generation = 0
        self.restarts = 0
        self.slots: dict[str, str] = {}
        """State by slot: loading, running, failed, absent."""
        self.messages: dict[str, str] = {}
        self.timeout_s = 10.0
        self.watched: Callable[[str], bool] = lambda _: False
        self.on_sample: Callable[[], None] = lambda: None
        self.on_blame: Callable[[int], None] = lambda _: None
        """Told the fingerprint of the model that was called, or loaded, when the process ended."""
        self.streams: dict[str, StreamRunner] = {}
        self._pulse_fd = os.memfd_create("edgec-pulse")
        os.ftruncate(self._pulse_fd, mmap.PAGESIZE)
        self._pulse = np.frombuffer(mmap.mmap(self._pulse_fd, 0), np.uint64)
        self._child: child.Child | None = None
        self._pending: dict[str, Future[Body]] = {}
        self._tokens = 0
        self._settling: dict[str, list[Callable[[], None]]] = {}
        self._attempts: dict[str, object] = {}
        """The load under way that a slot waits for; what an older one brings is let go."""
        self._deaths: deque[float] = deque(maxlen=_BURST)
        self._timer: Timer | None = None
        self._closing = False
        self.stopped = False

    @property
    def pid(self) -> int | None:
        """The inference process."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the process, give it the streams and begin to load the models."""
        self._timer = None
        self.generation += 1
        self._pulse[:] = 0
        process = child.spawn("inference", "edgec.device_agent.inference.worker")
        self._child = process
        self._loop.add_reader(process.channel.fileno(), lambda: self._heard(process))
        self._loop.add_reader(process.pidfd, lambda: self._died(process))
        first = {"boot": self._boot, "generation": self.generation, "media": self._media}
        self._send(first, (self._pulse_fd,))
        for slot in self.slots:
            self.load_slot(slot)
        for stream in self.streams.values():
            self._send_stream(stream)

    def add_slot(self, slot: str) -> None:
        """Make a slot and load its model."""
        self.slots.setdefault(slot, "loading")
        if self._child is not None:
            self.load_slot(slot)

    def remove_slot(self, slot: str) -> None:
        """Empty a slot."""
        self.slots.pop(slot, None)
        self._attempts.pop(slot, None)
        self._send({"op": "empty", "slot": slot})

    def add_stream(self, runner: StreamRunner) -> None:
        """Serve a stream, or serve it with other settings."""
        self.streams[runner.name] = runner
        if self._child is not None:
            self._send_stream(runner)

    def watch(self, stream: str, on: bool) -> None:
        """Copy a stream's frames to the live view, or stop that."""
        self._send({"op": "watch", "stream": stream, "on": on})

    def remove_stream(self, name: str) -> None:
        """Stop serving a stream."""
        if self.streams.pop(name, None) is not None:
            self._send({"op": "remove", "stream": name})

    def load_slot(self, slot: str) -> None:
        """Load the slot's model, or the best one that can be loaded, and make it active."""
        candidates = self._models_of(slot)
        self._send({"op": "hold" if candidates else "empty", "slot": slot})
        self._set_slot(slot, "loading" if candidates else "absent", "" if candidates else "no model yet")
        attempt = self._attempts[slot] = object()
        if candidates:
            self._load_next(slot, candidates, attempt)

    def _load_next(self, slot: str, candidates: list[Candidate], attempt: object) -> None:
        first, *others = candidates
        future = self.load(slot, first)

        def loaded(done: Future[Body]) -> None:
            if done.exception() is not None:
                return  # the process died; the next one starts over
            error = done.result()["error"]
            if self._attempts.get(slot) is not attempt:
                log.info("slot %s has to run another model by now: this one is let go", slot)
                self._send({"op": "discard", "slot": slot, "token": done.result()["token"]})
                return
            if not error:
                self.swap(slot, done.result()["token"])
                self.ask({"op": "release", "slot": slot, "waiting": False})
                return
            log.error("slot %s: %s cannot be loaded: %s", slot, first.digest or first.path, error)
            if others:
                self._load_next(slot, others, attempt)
            else:
                self._send({"op": "empty", "slot": slot})
                self._set_slot(slot, "failed", error)

        future.add_done_callback(loaded)

    def when_settled(self, slot: str, callback: Callable[[], None]) -> None:
        """Call once the slot's own model is loaded, or cannot be: an update must not overtake it."""
        if self.slots.get(slot) == "loading":
            self._settling.setdefault(slot, []).append(callback)
        else:
            callback()

    def load(self, slot: str, model: Candidate) -> Future[Body]:
        """Load a model beside the running one; the answer's ``token`` names it."""
        return self.ask(
            {"op": "load", "slot": slot, "path": model.path, "digest": model.digest, "threads": model.threads}
        )

    def swap(self, slot: str, token: str) -> Future[Body]:
        """Make a loaded model the active one, from the next frame on."""
        future = self.ask({"op": "swap", "slot": slot, "token": token})

        def swapped(done: Future[Body]) -> None:
            if done.exception() is None and not done.result()["error"]:
                self._set_slot(slot, "running", "")

        future.add_done_callback(swapped)
        return future

    def ask(self, body: Body) -> Future[Body]:
        """Send a request; the future gets the answer, or ProcessDied. Call from the loop's thread."""
        self._tokens += 1
        token = body.get("token") or f"{self.generation}.{self._tokens}"
        future: Future[Body] = Future()
        if self._child is None:
            future.set_exception(ProcessDied("the inference process is not there"))
            return future
        key = f"{token}/{self._tokens}"
        self._pending[key] = future
        self._send({**body, "token": token, "key": key})
        return future

    def tick(self) -> None:
        """Kill the process when a model call lasts longer than it may."""
        began = int(self._pulse[0])
        if self._child is not None and began:
            lasted = (time.monotonic_ns() - began) / 1e9
            if lasted > self.timeout_s:
                log.error("a model call has lasted %.1f s: the inference process is killed", lasted)
                for slot in self.slots:
                    self.messages[slot] = f"a model call lasted longer than {self.timeout_s:.0f} s"
                self._child.kill()

    @property
    def frames(self) -> int:
        """Frames served by the present process."""
        return int(self._pulse[1])

    def kill(self) -> None:
        """End the process now; a new one follows."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """Ask it to finish: open tracks end, then ``stopped`` becomes true."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._child is None:
            self.stopped = True
            return
        self._send({"op": "stop"})

    def _send_stream(self, runner: StreamRunner) -> None:
        runner.ring.recover_reader()
        settings = runner.settings.model_dump(mode="json", exclude_none=True)
        body = {
            "op": "stream",
            "stream": runner.name,
            "settings": settings,
            "watched": self.watched(runner.name),
        }
        self._send(body, (*runner.fds, *runner.view_fds))

    def _send(self, body: Body, fds: tuple[int, ...] = ()) -> None:
        if self._child is None:
            return
        try:
            self._child.channel.send(body, fds)
        except ChannelClosed:
            log.info("the inference process is gone; its end is dealt with next")

    def _heard(self, process: child.Child) -> None:
        try:
            body, _ = process.channel.receive()
        except ChannelClosed:
            self._loop.remove_reader(process.channel.fileno())
            return
        self._take(body)

    def _take(self, body: Body) -> None:
        match body["op"]:
            case "event":
                self._on_event(body)
            case "sampled":
                self.on_sample()
            case "answer" | "report":
                if future := self._pending.pop(body["key"], None):
                    future.set_result({**body, "generation": self.generation})

    def _died(self, process: child.Child) -> None:
        # Events that it sent before it died are still in the channel.
        while True:
            try:
                process.channel.socket.setblocking(False)
                body, _ = process.channel.receive()
            except (ChannelClosed, BlockingIOError):
                break
            self._take(body)
        for fd in (process.channel.fileno(), process.pidfd):
            try:
                self._loop.remove_reader(fd)
            except KeyError:
                continue  # the channel's end was read before
        status = process.reap()
        self._child = None
        blamed = self._pulse[2] if self._pulse[0] else self._pulse[3]
        if blamed and not self._closing:
            self.on_blame(int(blamed))
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(ProcessDied(f"the inference process ended with status {status}"))
        if self._closing:
            self.stopped = True
            return
        self.restarts += 1
        log.error("the inference process ended with status %s: a new one is started", status)
        for slot in self.slots:
            self.slots[slot] = "loading"
        self._on_death()
        now = time.monotonic()
        storm = len(self._deaths) == _BURST and now - self._deaths[0] < _BURST_S
        self._deaths.append(now)
        self._timer = self._loop.call_later(_PAUSE_S if storm else 0.0, self.start)
        self._on_change()

    def _set_slot(self, slot: str, state: str, message: str) -> None:
        if slot in self.slots and (self.slots[slot], self.messages.get(slot)) != (state, message):
            self.slots[slot], self.messages[slot] = state, message
            self._on_change()
        if state != "loading":
            for callback in self._settling.pop(slot, []):
                callback()
