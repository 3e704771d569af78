"""The inference process: all pipelines and models; one frame at a time, round-robin over the streams.

Started as `python -m edgec.device_agent.inference.worker`; the first message is a `StartInference`. Nothing here
touches the network, or the disk, except to load models and to store pictures.
"""

from __future__ import annotations

import logging
import os
import selectors
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.inference.captures import CaptureRequest, Spool, StreamCaptures
from edgec.device_agent.inference.masks import blur
from edgec.device_agent.inference.media import MediaRing, StreamMedia
from edgec.device_agent.inference.messages import (
    START_INFERENCE,
    TO_INFERENCE,
    AddStream,
    Answer,
    CaptureCounters,
    CaptureKept,
    ChangeStream,
    DetectionFound,
    DiscardModel,
    EmptySlot,
    HoldSlot,
    LoadModel,
    PictureTaken,
    ReleaseModels,
    RemoveStream,
    Report,
    RequestReport,
    RevertModel,
    StartInference,
    StopInference,
    SwapModel,
    TakeCaptures,
    WatchStream,
)
from edgec.device_agent.inference.pipeline import Pipeline
from edgec.device_agent.inference.pulse import Pulse
from edgec.device_agent.inference.slots import Slots
from edgec.device_agent.process import child, log
from edgec.device_agent.process.channel import Channel, ChannelClosed
from edgec.device_agent.process.ring import Kind, Ring
from edgec.device_agent.process.space import Reserve
from edgec.device_agent.view.frame import with_overlay
from edgec.device_agent.view.spectrogram import Spectrogram

logger = logging.getLogger("inference")
_DRAWN_S = 0.1


@dataclass
class Stream:
    """A pipeline and the ring it reads."""

    pipeline: Pipeline
    ring: Ring
    ready: int
    space: int
    newest: bool
    view: tuple[Ring, int] | None = None
    """Ring and eventfd of the live view."""
    watched: bool = False
    waiting: bool = True
    next_drawn_s: float = 0.0

    def show_sound(self, drawn: Spectrogram) -> None:
        """Copy the spectrogram to the live view, at most ten times a second."""
        if (now := time.monotonic()) >= self.next_drawn_s:
            self.next_drawn_s = now + _DRAWN_S
            show(self, drawn.picture())

    def close(self) -> None:
        """Release the ring."""
        self.ring.close()
        os.close(self.ready)
        os.close(self.space)
        if self.view is not None:
            self.view[0].close()
            os.close(self.view[1])


class Worker:
    """Carries out the supervisor's messages and serves the streams in turn."""

    def __init__(self, channel: Channel, start: StartInference, pulse: Pulse) -> None:
        self._channel, self._start, self._pulse = channel, start, pulse
        folder = Path(start.media.folder)
        reserve = Reserve(folder, start.media.reserve_bytes)
        self._pictures = MediaRing(folder, start.media.max_bytes, reserve)
        self._mark = f"{start.boot}{start.generation}"
        captures = start.captures
        self._spool = Spool(Path(captures.folder), captures.max_bytes, captures.per_day, reserve)
        self._streams: dict[str, Stream] = {}
        self._slots = Slots()
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, "")
        self._selector.register(self._slots.wake, selectors.EVENT_READ, " ")
        self._turn: list[str] = []
        self._loads: set[str] = set()
        self._events = self._added = 0
        self._running = True

    def run(self) -> None:
        """Serve until the supervisor ends it."""
        while self._running:
            busy = any(
                stream.waiting and not self._slots.held(stream.pipeline.settings.model)
                for stream in self._streams.values()
            )
            for key, _ in self._selector.select(0 if busy else None):
                if key.data == "":
                    self._handle()
                elif key.data == " ":
                    self._loads_ended()
                elif stream := self._streams.get(key.data):
                    os.eventfd_read(stream.ready)
                    stream.waiting = True
            if self._running:
                self._one_frame()

    def _one_frame(self) -> None:
        """Process one frame of the stream whose turn it is."""
        for position, name in enumerate(self._turn):
            stream = self._streams[name]
            if not stream.waiting or self._slots.held(stream.pipeline.settings.model):
                continue
            frame = stream.ring.take(newest=stream.newest)
            if frame is None:
                stream.waiting = False
                continue
            try:
                loaded = self._slots.active(stream.pipeline.settings.model)
                stream.pipeline.process(frame, loaded, self._slots.active)
                if stream.watched and frame.kind is Kind.PICTURE:
                    show(stream, np.asarray(frame.data, np.uint8))
                elif stream.watched and (drawn := stream.pipeline.spectrogram) is not None:
                    stream.show_sound(drawn)
            finally:
                if stream.ring.release(frame) and not stream.newest:
                    os.eventfd_write(stream.space, 1)
            # The next turn begins after this stream.
            self._turn = self._turn[position + 1 :] + self._turn[: position + 1]
            return

    def _handle(self) -> None:
        message, fds = self._channel.receive(TO_INFERENCE)
        match message:
            case AddStream():
                self._add(message, fds)
            case ChangeStream():
                if stream := self._streams.get(message.stream):
                    stream.pipeline.change(StreamSection.model_validate(message.settings))
            case RemoveStream():
                self._remove(message.stream)
            case WatchStream():
                if stream := self._streams.get(message.stream):
                    stream.watched = message.on
            case TakeCaptures():
                self._take_captures(message)
            case RequestReport():
                self._channel.send(self._report(message.key))
            case StopInference():
                for name in list(self._streams):
                    self._remove(name)
                self._running = False
            case _:
                self._handle_slot(message)

    def _handle_slot(
        self,
        message: HoldSlot | EmptySlot | DiscardModel | LoadModel | SwapModel | RevertModel | ReleaseModels,
    ) -> None:
        match message:
            case HoldSlot():
                self._slots.hold(message.slot)
            case EmptySlot():
                self._slots.remove(message.slot)
            case DiscardModel():
                self._slots.discard(message.slot, message.token)
            case LoadModel():
                self._load(message)
            case SwapModel():
                done = self._slots.swap(message.slot, message.token)
                self._answer(message.key, "" if done else "no such model is loaded")
            case RevertModel():
                done = self._slots.revert(message.slot)
                self._answer(message.key, "" if done else "the previous model is no longer loaded")
            case ReleaseModels():
                self._slots.release(message.slot, waiting=message.waiting)
                self._answer(message.key, "")
            case _:
                assert_never(message)

    def _answer(self, key: str, error: str) -> None:
        self._channel.send(Answer(key, error))

    def _add(self, message: AddStream, fds: list[int]) -> None:
        name = message.stream
        if name in self._streams:
            self._remove(name)
        self._added += 1
        settings = StreamSection.model_validate(message.settings)

        def emit(data: dict[str, Any], critical: bool) -> None:
            self._events += 1
            self._channel.send(DetectionFound(name, f"{self._mark}-{self._events}", critical, data))

        start = self._start
        media = StreamMedia(
            name, settings, self._pictures, start.media,
            lambda jpeg: self._channel.send(PictureTaken(name, jpeg)),
        )  # fmt: skip
        captures = StreamCaptures(
            name, settings, start.device, f"{self._mark}-{self._added}", self._spool, self._pictures,
            start.captures.faces, self._pulse.call, lambda: self._channel.send(CaptureKept()),
        )  # fmt: skip
        pipeline = Pipeline(name, settings, f"{name}-{self._mark}-", emit, self._pulse.call, media, captures)
        ring_fd, ready, space, *view = fds
        stream = Stream(pipeline, Ring(ring_fd), ready, space, settings.policy == "newest")
        if view:
            stream.view, stream.watched = (Ring(view[0]), view[1]), message.watched
        self._streams[name] = stream
        self._turn.append(name)
        self._selector.register(ready, selectors.EVENT_READ, name)

    def _remove(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is None:
            return
        self._turn.remove(name)
        self._selector.unregister(stream.ready)
        stream.pipeline.finish()
        if stream.pipeline.captures is not None:
            stream.pipeline.captures.close()
        stream.close()

    def _take_captures(self, message: TakeCaptures) -> None:
        """Take frames that a job requested; the answer follows when they are on disk."""
        stream = self._streams.get(message.stream)
        if stream is None or stream.pipeline.captures is None:
            self._answer(message.key, f"there is no stream {message.stream}")
            return

        def answer(ids: list[str], problem: str) -> None:
            self._channel.send(Answer(message.key, problem, ids))

        request = CaptureRequest(message.count, message.interval_s, message.job_id, answer)
        stream.pipeline.captures.request(request)

    def _load(self, message: LoadModel) -> None:
        self._loads.add(message.key)
        self._pulse.load(message.digest or "")
        self._slots.load(message.slot, message.key, message.path, message.digest, message.threads)

    def _loads_ended(self) -> None:
        os.eventfd_read(self._slots.wake)
        for token, error in self._slots.finished():
            self._loads.remove(token)
            self._answer(token, error)
        if not self._loads:
            self._pulse.load("")

    def _report(self, key: str) -> Report:
        spool = self._spool
        return Report(
            key,
            self._start.generation,
            {name: stream.pipeline.report() for name, stream in self._streams.items()},
            self._slots.report(),
            CaptureCounters(spool.kept, spool.refused, spool.problem),
        )


def show(stream: Stream, picture: NDArray[np.uint8]) -> None:
    """Copy a frame and its detections to the live view."""
    if stream.view is None:
        return
    ring, ready = stream.view
    if picture.nbytes + 65536 > ring.slot_bytes or (slot := ring.begin(newest=True)) is None:
        return
    pipeline = stream.pipeline
    if pipeline.settings.masks:
        picture = picture.copy()
        blur(picture, pipeline.settings.masks)
    memory = ring.memory(slot, ring.slot_bytes)
    rows = with_overlay(picture, pipeline.overlay(), memory)
    ring.commit(slot, rows, picture.shape[1])
    os.eventfd_write(ready, 1)


def main() -> None:
    """Entry of the process."""
    log.set_up()
    channel = child.enter(sys.argv[1:])
    try:
        start, fds = channel.receive(START_INFERENCE)
        Worker(channel, start, Pulse(fds[0])).run()
    except ChannelClosed:
        sys.exit(0)  # the supervisor is gone


if __name__ == "__main__":
    main()
