"""The inference process: every pipeline and every model; one frame at a time, the streams in turn.

Started as ``python -m edgec.device_agent.inference.worker``. Nothing here touches the network or the disk beyond the
models it is told to load. What it is doing stands in a *pulse*, four words of shared memory that the
supervisor reads: when the current model call began (0: none), a count of frames, and which model is called and
which is being loaded (`aftercare.fingerprint`), so that a death has somebody to blame.
"""

from __future__ import annotations

import logging
import mmap
import os
import selectors
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.inference.captures import Spool, StreamSamples, request_of
from edgec.device_agent.inference.masks import blur
from edgec.device_agent.inference.media import MediaRing, StreamMedia
from edgec.device_agent.inference.pipeline import Pipeline
from edgec.device_agent.inference.pulse import fingerprint
from edgec.device_agent.inference.slots import Slots
from edgec.device_agent.process import child, log
from edgec.device_agent.process.channel import Body, Channel, ChannelClosed
from edgec.device_agent.process.ring import Kind, Ring
from edgec.device_agent.view.frame import with_overlay

logger = logging.getLogger("inference")


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

    def close(self) -> None:
        """Let the ring go."""
        self.ring.close()
        os.close(self.ready)
        os.close(self.space)
        if self.view is not None:
            self.view[0].close()
            os.close(self.view[1])


class Worker:
    """Obeys the supervisor and serves the streams in turn."""

    def __init__(self, channel: Channel, boot: str, generation: int, media: Body, pulse_fd: int) -> None:
        self._media = media
        self._pictures = MediaRing(Path(media["folder"]), media["max_bytes"])
        self._channel = channel
        self._mark = f"{boot}{generation}"
        samples = media["samples"]
        self._spool = Spool(Path(samples["folder"]), samples["max_bytes"], samples["per_day"])
        self._pulse = np.frombuffer(mmap.mmap(pulse_fd, 0), np.uint64)
        self._streams: dict[str, Stream] = {}
        self._slots = Slots()
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, "")
        self._selector.register(self._slots.wake, selectors.EVENT_READ, " ")
        self._turn: list[str] = []
        self._loads: dict[str, Body] = {}
        self._events = self._added = 0
        self._running = True

    def run(self) -> None:
        """Serve until told to stop."""
        while self._running:
            busy = any(
                stream.waiting and not self._slots.held(stream.pipeline.settings.model)
                for stream in self._streams.values()
            )
            for key, _ in self._selector.select(0 if busy else None):
                if key.data == "":
                    self._obey()
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
            finally:
                if stream.ring.release(frame) and not stream.newest:
                    os.eventfd_write(stream.space, 1)
            self._pulse[1] += np.uint64(1)
            # The next turn begins after this stream.
            self._turn = self._turn[position + 1 :] + self._turn[: position + 1]
            return

    def _watch(self, digest: str) -> None:
        if digest:
            self._pulse[2] = fingerprint(digest)
        self._pulse[0] = time.monotonic_ns() if digest else 0

    def _obey(self) -> None:
        body, fds = self._channel.receive()
        match body["op"]:
            case "stream":
                self._add(body, fds)
            case "remove":
                self._remove(body["stream"])
                self._channel.send({"op": "removed", "stream": body["stream"]})
            case "watch":
                if stream := self._streams.get(body["stream"]):
                    stream.watched = body["on"]
            case "sample":
                self._sample(body)
            case "hold":
                self._slots.hold(body["slot"])
            case "load":
                self._load(body)
            case "swap":
                done = self._slots.swap(body["slot"], body["token"])
                self._answer(body, "" if done else "no such model is loaded")
            case "revert":
                done = self._slots.revert(body["slot"])
                self._answer(body, "" if done else "the old model is no longer loaded")
            case "release":
                self._slots.release(body["slot"], waiting=body.get("waiting", True))
                self._answer(body, "")
            case "discard":
                self._slots.discard(body["slot"], body["token"])
            case "empty":
                self._slots.remove(body["slot"])
            case "report":
                self._channel.send({"op": "report", "key": body["key"], **self._report()})
            case "stop":
                for name in list(self._streams):
                    self._remove(name)
                self._channel.send({"op": "stopped"})
                self._running = False

    def _answer(self, body: Body, error: str) -> None:
        self._channel.send({"op": "answer", "token": body["token"], "key": body["key"], "error": error})

    def _add(self, body: Body, fds: list[int]) -> None:
        name = body["stream"]
        if name in self._streams:
            self._remove(name)
        self._added += 1
        settings = StreamSection.model_validate(body["settings"])

        def emit(data: dict[str, Any], critical: bool) -> None:
            self._events += 1
            self._channel.send(
                {
                    "op": "event",
                    "stream": name,
                    "id": f"{self._mark}-{self._events}",
                    "critical": critical,
                    "data": data,
                }
            )

        media = StreamMedia(name, settings, self._pictures, self._media)
        samples = StreamSamples(
            name, settings, self._media["device"], f"{self._mark}-{self._added}", self._spool, self._pictures,
            self._media["samples"]["faces"], self._watch, self._sampled,
        )  # fmt: skip
        pipeline = Pipeline(name, settings, f"{name}-{self._mark}-", emit, self._watch, media, samples)
        ring_fd, ready, space, *view = fds
        stream = Stream(pipeline, Ring(ring_fd), ready, space, settings.policy == "newest")
        if view:
            stream.view, stream.watched = (Ring(view[0]), view[1]), body.get("watched", False)
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
        if stream.pipeline.samples is not None:
            stream.pipeline.samples.close()
        stream.close()

    def _sample(self, body: Body) -> None:
        """Take frames that a job asked for; the answer follows when they are on the disk."""
        stream = self._streams.get(body["stream"])
        if stream is None or stream.pipeline.samples is None:
            self._answer(body, f"there is no stream {body['stream']}")
            return

        def answer(ids: list[str], problem: str) -> None:
            self._channel.send(
                {"op": "answer", "token": body["token"], "key": body["key"], "error": problem, "samples": ids}
            )

        stream.pipeline.samples.request(request_of(body, answer))

    def _sampled(self) -> None:
        self._channel.send({"op": "sampled"})

    def _load(self, body: Body) -> None:
        self._loads[body["token"]] = body
        self._pulse[3] = fingerprint(body.get("digest") or "")
        self._slots.load(body["slot"], body["token"], body["path"], body.get("digest"), body.get("threads"))

    def _loads_ended(self) -> None:
        os.eventfd_read(self._slots.wake)
        for token, error in self._slots.finished():
            self._answer(self._loads.pop(token), error)
        if not self._loads:
            self._pulse[3] = 0

    def _report(self) -> dict[str, Any]:
        return {
            "streams": {name: stream.pipeline.report() for name, stream in self._streams.items()},
            "slots": self._slots.report(),
            "samples": {
                "kept": self._spool.kept,
                "refused": self._spool.refused,
                "problem": self._spool.problem,
            },
        }


def show(stream: Stream, picture: NDArray[np.uint8]) -> None:
    """Copy a frame and what was found in it to the live view."""
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
        settings, fds = channel.receive()
        Worker(channel, settings["boot"], settings["generation"], settings["media"], fds[0]).run()
    except ChannelClosed:
        sys.exit(0)  # the supervisor is gone


if __name__ == "__main__":
    main()
