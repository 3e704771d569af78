"""The capture process: one source, read here alone, because a read may hang for ever.

Started as ``python -m edgec.device_agent.capture.worker``; the first message on the channel says what to do:
``{"source": …, "policy": …, "max_fps": …, "timeout_s": …}`` with the descriptors of the ring and of two
eventfds, *ready* (a frame was committed) and *space* (the reader gave a slot back).
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time

import cv2
import numpy as np

from edgec.device_agent.capture.sources import FrameSource, Picture, Sound, open_source
from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.errors import SourceError
from edgec.device_agent.process import child, log
from edgec.device_agent.process.channel import Body, Channel, ChannelClosed
from edgec.device_agent.process.ring import Kind, Ring

logger = logging.getLogger("capture")
_STOP = "stop"


class Capture:
    """Reads a source at its pace into a ring until told to stop."""

    def __init__(self, channel: Channel, settings: Body, fds: list[int]) -> None:
        self._channel = channel
        ring_fd, self._ready, self._space = fds
        self._ring = Ring(ring_fd)
        self._newest = settings["policy"] == "newest"
        self._max_fps: float | None = settings.get("max_fps")
        self._section = SourceSettings.from_json(settings["source"])
        self._timeout_s = float(settings["timeout_s"])
        self._shape: tuple[int, ...] | None = None
        self._stopping = False
        self._due = self._next_wanted = 0.0

    def run(self) -> str:
        """Capture until the end; returns why it ended: ``ended`` or ``stop``."""
        source = open_source(self._section, self._timeout_s)
        self._channel.send({"op": "opened"})
        self._due = time.monotonic()
        try:
            while not self._stopping:
                if source.fps:
                    self._wait_until(self._due)
                    # After a long stop the pace starts afresh: no burst to catch up.
                    self._due = max(self._due + 1 / source.fps, time.monotonic() - 0.5)
                elif self._readable(0):
                    self._obey()
                if not self._step(source):
                    return "ended"
        finally:
            source.close()
        return _STOP

    def _step(self, source: FrameSource) -> bool:
        """Move one frame on; False at the source's end."""
        if self._max_fps:
            now = time.monotonic()
            if now < self._next_wanted - 0.001:
                return self._skip(source, now)
            self._next_wanted = max(self._next_wanted + 1 / self._max_fps, now)
        slot = self._slot()
        if slot is None:  # told to stop
            return True
        into = (
            self._ring.picture(slot, *self._shape[:2]) if self._shape and not self._section.is_sound else None
        )
        frame = source.read(into)
        if frame is None:
            self._ring.abandon(slot)
            return False
        self._store(slot, frame, into)
        os.eventfd_write(self._ready, 1)
        return True

    def _skip(self, source: FrameSource, now: float) -> bool:
        if not source.fps and self._section.kind not in ("camera", "url", "microphone"):
            # A file as fast as possible loses nothing by its rate limit: it only waits.
            self._wait_until(self._next_wanted)
            return True
        return source.skip()

    def _store(self, slot: int, frame: Picture | Sound, into: Picture | None) -> None:
        if self._section.is_sound:
            sound = np.ascontiguousarray(frame, np.float32)
            memory = self._ring.memory(slot, sound.nbytes)
            memory[:] = sound.reshape(-1).view(np.uint8)
            self._ring.commit(slot, sound.shape[0], self._section.rate, sound.shape[1], Kind.SOUND)
            return
        height, width = frame.shape[:2]
        if height * width * 3 > self._ring.slot_bytes:
            scale = (self._ring.slot_bytes / (height * width * 3)) ** 0.5
            width, height = int(width * scale), int(height * scale)
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(
                np.uint8, copy=False
            )
        if into is None or not np.shares_memory(frame, into):
            np.copyto(self._ring.picture(slot, height, width), frame)
        self._shape = (height, width)
        self._ring.commit(slot, height, width)

    def _slot(self) -> int | None:
        """Return a slot to write to; waits for the reader where no frame may be dropped."""
        while not self._stopping:
            slot = self._ring.begin(newest=self._newest)
            if slot is not None:
                return slot
            readable, _, _ = select.select([self._channel.fileno(), self._space], [], [])
            if self._space in readable:
                os.eventfd_read(self._space)
            if self._channel.fileno() in readable:
                self._obey()
        return None

    def _wait_until(self, moment: float) -> None:
        while not self._stopping and (left := moment - time.monotonic()) > 0:
            if self._readable(left):
                self._obey()

    def _readable(self, timeout: float) -> bool:
        return bool(select.select([self._channel], [], [], timeout)[0])

    def _obey(self) -> None:
        body, _ = self._channel.receive()
        match body["op"]:
            case "stop":
                self._stopping = True
            case "limit":
                self._max_fps = body["max_fps"]


def main() -> None:
    """Entry of the process."""
    log.set_up()
    channel = child.enter(sys.argv[1:])
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
    cv2.setNumThreads(1)
    try:
        settings, fds = channel.receive()
        logger.name = f"capture.{settings['name']}"
        try:
            outcome = Capture(channel, settings, fds).run()
            channel.send({"op": outcome})
        except SourceError as error:
            channel.send({"op": "failed", "message": str(error)})
            sys.exit(3)
    except ChannelClosed:
        sys.exit(0)  # the supervisor is gone


if __name__ == "__main__":
    main()
