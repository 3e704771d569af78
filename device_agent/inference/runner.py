"""The supervisor's side of the inference process: its slots, streams and requests, and its hang detection."""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, assert_never

import msgspec

from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.config.settings import AgentConfig
from edgec.device_agent.inference.messages import (
    FROM_INFERENCE,
    AddStream,
    Answer,
    CaptureKept,
    CaptureLimits,
    ChangeStream,
    DetectionFound,
    DiscardModel,
    EmptySlot,
    FromInference,
    HoldSlot,
    LoadModel,
    MediaLimits,
    PictureTaken,
    ReleaseModels,
    RemoveStream,
    Report,
    Request,
    RequestReport,
    RevertModel,
    StartInference,
    StopInference,
    SwapModel,
    TakeCaptures,
    WatchStream,
)
from edgec.device_agent.inference.pulse import Pulse
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.process.supervisor import Exit, StartMessage, Supervisor

log = logging.getLogger("inference")

_RETRY = RetryPolicy(first_s=20.0, max_s=20.0, jitter=False, immediate=5, window_s=60.0)


MEDIA_FOLDER = "media"
"""Of snapshots and clips, in the state folder."""


CAPTURES_FOLDER = "samples"
"""Of captures that wait for upload, in the state folder; named so since the first version."""


class ProcessDied(ConnectionError):
    """The inference process ended before it answered."""


@dataclass(frozen=True)
class Candidate:
    """A model to load into a slot: from the store by digest, or a file of its own."""

    path: str
    digest: str | None
    threads: int | None


@dataclass(frozen=True)
class Settings:
    """What every inference process starts with."""

    boot: str
    device: str
    media: MediaLimits
    captures: CaptureLimits

    @classmethod
    def of(cls, config: AgentConfig, boot: str, device: str, state: Path) -> Settings:
        """Return the settings of a configuration; pictures go to the state folder."""
        media, captures, home = config.media, config.capture, config.homeassistant
        return cls(
            boot,
            device,
            MediaLimits(
                str(state / MEDIA_FOLDER),
                media.max_bytes,
                media.clip_before_s,
                media.clip_after_s,
                config.outbox.max_bytes + config.updates.reserve_bytes,
                home.picture_interval_s if home.enabled else 0.0,
            ),
            CaptureLimits(str(state / CAPTURES_FOLDER), captures.max_bytes, captures.per_day, captures.faces),
        )


class Observer(Protocol):
    """Receives events of the inference process; called from the loop's thread."""

    def detection(self, message: DetectionFound) -> None:
        """A pipeline reports an event."""

    def capture_kept(self) -> None:
        """The spool holds a new capture."""

    def picture_taken(self, message: PictureTaken) -> None:
        """A picture for the broker's users."""

    def inference_died(self, suspect: int) -> None:
        """The process ended unexpectedly; `suspect` is the fingerprint of the model in use, 0 for none."""

    def inference_changed(self) -> None:
        """A slot's state changed."""

    def model_unloadable(self, slot: str) -> None:
        """A model that the slot has to run cannot be loaded from the store."""


class Inference:
    """One inference process at a time; after a death the next one gets the same streams and models.

    Args:
        loop: the supervisor's.
        settings: what every process starts with.
        models_of: returns what to load into a slot, best first.
        watched: returns whether a stream's live view is being watched.
        timeout_s: returns how long a model call may last.
        observer: takes what happens.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        models_of: Callable[[str], list[Candidate]],
        watched: Callable[[str], bool],
        timeout_s: Callable[[], float],
        observer: Observer,
    ) -> None:
        self._settings, self._models_of, self._watched, self._observer = (
            settings,
            models_of,
            watched,
            observer,
        )
        self.generation = 0
        self.slots: dict[str, str] = {}
        """State by slot: loading, running, failed, absent."""
        self.messages: dict[str, str] = {}
        self._timeout_s = timeout_s
        self.streams: dict[str, StreamRunner] = {}
        pulse = os.memfd_create("edgec-pulse")
        os.ftruncate(pulse, mmap.PAGESIZE)
        self._pulse = Pulse(pulse)
        self._process = Supervisor(
            loop, "inference", "edgec.device_agent.inference.worker", FROM_INFERENCE, first=self._first,
            on_message=self._take, on_exit=self._exited, retry=_RETRY, on_start=self._send_all,
        )  # fmt: skip
        self._pending: dict[str, Future[Any]] = {}
        self._keys = 0
        self._settling: dict[str, list[Callable[[], None]]] = {}
        self._attempts: dict[str, object] = {}
        """The load under way that a slot waits for; what an older one loads is discarded."""
        self._closing = False
        self.stopped = False

    @property
    def pid(self) -> int | None:
        """Process id of the inference process."""
        return self._process.pid

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return self._process.restarts

    def start(self) -> None:
        """Start the process, send it the streams and begin to load the models."""
        self._process.start()

    def _first(self) -> StartMessage:
        self.generation += 1
        self._pulse.reset()
        start = self._settings
        message = StartInference(start.boot, self.generation, start.device, start.media, start.captures)
        return message, (self._pulse.fd,)

    def _send_all(self) -> None:
        for slot in self.slots:
            self.load_slot(slot)
        for stream in self.streams.values():
            self._send_stream(stream)

    def add_slot(self, slot: str) -> None:
        """Create a slot and load its model."""
        self.slots.setdefault(slot, "loading")
        if self._process.running:
            self.load_slot(slot)

    def remove_slot(self, slot: str) -> None:
        """Remove a slot and unload its models."""
        self.slots.pop(slot, None)
        self._attempts.pop(slot, None)
        self._process.send(EmptySlot(slot))

    def add_stream(self, runner: StreamRunner) -> None:
        """Serve a stream, or serve it with new settings."""
        self.streams[runner.name] = runner
        if self._process.running:
            self._send_stream(runner)

    def change_stream(self, runner: StreamRunner) -> None:
        """Let a stream's pipeline take the runner's new settings, which differ in `LIVE` only."""
        if self._process.running:
            settings = runner.settings.model_dump(mode="json", exclude_none=True)
            self._process.send(ChangeStream(runner.name, settings))

    def watch(self, stream: str, on: bool) -> None:
        """Copy a stream's frames to the live view, or stop copying."""
        self._process.send(WatchStream(stream, on))

    def remove_stream(self, name: str) -> None:
        """Stop serving a stream."""
        if self.streams.pop(name, None) is not None:
            self._process.send(RemoveStream(name))

    def load_slot(self, slot: str) -> None:
        """Load the slot's model, or the best one that can be loaded, and make it active."""
        candidates = self._models_of(slot)
        self._process.send(HoldSlot(slot) if candidates else EmptySlot(slot))
        self._set_slot(slot, "loading" if candidates else "absent", "" if candidates else "no model yet")
        attempt = self._attempts[slot] = object()
        if candidates:
            self._load_next(slot, candidates, attempt)

    def _load_next(self, slot: str, candidates: list[Candidate], attempt: object) -> None:
        first, *others = candidates
        future = self.load(slot, first)

        def loaded(done: Future[Answer]) -> None:
            if done.exception() is not None:
                return  # the process died; the next one loads again
            error, token = done.result().error, done.result().key
            if self._attempts.get(slot) is not attempt:
                log.info("slot %s now has to run another model: this one is discarded", slot)
                self._process.send(DiscardModel(slot, token))
                return
            if not error:
                self.swap(slot, token)
                self.request(ReleaseModels(slot, waiting=False))
                return
            log.error("slot %s: %s cannot be loaded: %s", slot, first.digest or first.path, error)
            if first.digest is not None:
                self._observer.model_unloadable(slot)
            if others:
                self._load_next(slot, others, attempt)
            else:
                self._process.send(EmptySlot(slot))
                self._set_slot(slot, "failed", error)

        future.add_done_callback(loaded)

    def when_settled(self, slot: str, callback: Callable[[], None]) -> None:
        """Call once the slot's own model is loaded or has failed to load: an update must not overtake it."""
        if self.slots.get(slot) == "loading":
            self._settling.setdefault(slot, []).append(callback)
        else:
            callback()

    def load(self, slot: str, model: Candidate) -> Future[Answer]:
        """Load a model beside the running one; the answer's `key` is the model's token."""
        return self.request(LoadModel(slot, model.path, model.digest, model.threads))

    def swap(self, slot: str, token: str) -> Future[Answer]:
        """Make a loaded model the active one, from the next frame on."""
        future = self.request(SwapModel(slot, token))

        def swapped(done: Future[Answer]) -> None:
            if done.exception() is None and not done.result().error:
                self._set_slot(slot, "running", "")

        future.add_done_callback(swapped)
        return future

    def request(
        self, message: LoadModel | SwapModel | RevertModel | ReleaseModels | TakeCaptures
    ) -> Future[Answer]:
        """Send a request; the future gets the answer, or `ProcessDied`. Call from the loop's thread."""
        return self._send(message)

    def report(self) -> Future[Report]:
        """Request the process's counters, as `request` does."""
        return self._send(RequestReport())

    def _send(self, message: Request) -> Future[Any]:
        future: Future[Any] = Future()
        if not self._process.running:
            future.set_exception(ProcessDied("the inference process is not running"))
            return future
        self._keys += 1
        key = f"{self.generation}.{self._keys}"
        self._pending[key] = future
        self._process.send(msgspec.structs.replace(message, key=key))
        return future

    def tick(self) -> None:
        """Kill the process when a model call lasts longer than it may."""
        lasted, timeout_s = self._pulse.call_s, self._timeout_s()
        if self._process.running and lasted > timeout_s:
            log.error("a model call has lasted %.1f s: killing the inference process", lasted)
            why = f"a model call lasted longer than {timeout_s:.0f} s"
            for slot in self.slots:
                self.messages[slot] = why
            self._process.kill(why)

    def kill(self, why: str) -> None:
        """End the process now; a new one follows."""
        self._process.kill(why)

    def close(self) -> None:
        """Ask it to finish: open tracks end, then `stopped` becomes true."""
        self._closing = True
        self._process.no_restart()
        if not self._process.running:
            self.stopped = True
        self._process.send(StopInference())

    def _send_stream(self, runner: StreamRunner) -> None:
        runner.ring.recover_reader()
        settings = runner.settings.model_dump(mode="json", exclude_none=True)
        message = AddStream(runner.name, settings, self._watched(runner.name))
        self._process.send(message, (*runner.fds, *runner.view_fds))

    def _take(self, message: FromInference) -> None:
        match message:
            case DetectionFound():
                self._observer.detection(message)
            case CaptureKept():
                self._observer.capture_kept()
            case PictureTaken():
                self._observer.picture_taken(message)
            case Answer() | Report():
                if future := self._pending.pop(message.key, None):
                    future.set_result(message)
            case _:
                assert_never(message)

    def _exited(self, how: Exit) -> bool:
        if not self._closing:
            self._observer.inference_died(self._pulse.suspect)
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(ProcessDied(f"the inference process {how}"))
        if self._closing:
            self.stopped = True
            return False
        log.error("the inference process %s; restarting it", how)
        for slot in self.slots:
            self.slots[slot] = "loading"
        self._observer.inference_changed()
        return True

    def _set_slot(self, slot: str, state: str, message: str) -> None:
        if slot in self.slots and (self.slots[slot], self.messages.get(slot)) != (state, message):
            self.slots[slot], self.messages[slot] = state, message
            self._observer.inference_changed()
        if state != "loading":
            for callback in self._settling.pop(slot, []):
                callback()
