"""The capture process: one source, read in a process of its own, because a read may hang for ever.

Started as `python -m edgec.device_agent.capture.worker`; the first message is a `StartCapture`. The supervisor ends it
by killing it.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time

import cv2
import numpy as np

from edgec.device_agent.capture.complaints import Complaints
from edgec.device_agent.capture.messages import (
    START_CAPTURE,
    TO_CAPTURE,
    CaptureStarted,
    SourceEnded,
    SourceFailed,
    SourceOpened,
    StartCapture,
)
from edgec.device_agent.capture.source import FrameSource, Picture, Sound
from edgec.device_agent.capture.sources import open_source
from edgec.device_agent.errors import SourceError
from edgec.device_agent.process import child, log
from edgec.device_agent.process.channel import Channel, ChannelClosed
from edgec.device_agent.process.ring import Kind, Ring

logger = logging.getLogger("capture")


class Capture:
    """Reads a source at its pace into a ring."""

    def __init__(self, channel: Channel, start: StartCapture, fds: list[int], complaints: Complaints) -> None:
        self._channel, self._complaints = channel, complaints
        ring_fd, self._ready, self._space = fds
        self._ring = Ring(ring_fd)
        self._newest = start.policy == "newest"
        self._max_fps = start.max_fps
        self._section = start.source
        self._timeout_s = start.timeout_s
        self._shape: tuple[int, ...] | None = None
        self._due = self._next_wanted = 0.0

    def run(self) -> None:
        """Capture until the source ends.

        Raises:
            SourceError: the source cannot be opened, or broke.
        """
        source = open_source(self._section, self._timeout_s)
        self._channel.send(SourceOpened())
        self._due = time.monotonic()
        try:
            while True:
                if source.fps:
                    self._wait_until(self._due)
                    # After a long pause the pace starts afresh, without a burst to catch up.
                    self._due = max(self._due + 1 / source.fps, time.monotonic() - 0.5)
                elif self._readable(0):
                    self._handle()
                if not self._step(source):
                    return
        finally:
            source.close()

    def _step(self, source: FrameSource) -> bool:
        """Process one frame; `False` at the source's end."""
        if self._max_fps:
            now = time.monotonic()
            if now < self._next_wanted - 0.001:
                return self._skip(source, now)
            self._next_wanted = max(self._next_wanted + 1 / self._max_fps, now)
        slot = self._slot()
        into = (
            self._ring.picture(slot, *self._shape[:2]) if self._shape and not self._section.is_sound else None
        )
        self._complaints.take()
        frame = source.read(into)
        complaint = self._complaints.take()
        if frame is None or complaint:
            self._ring.abandon(slot)
            if frame is None:
                return False
            self._ring.count_damaged()
            logger.warning("a damaged picture is left out: %s", complaint)
            return True
        self._store(slot, frame, into)
        os.eventfd_write(self._ready, 1)
        return True

    def _skip(self, source: FrameSource, now: float) -> bool:
        if not source.fps and self._section.kind not in ("camera", "url", "microphone"):
            # A rate limit drops no frame of a file that is read as fast as possible: it only waits.
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

    def _slot(self) -> int:
        """Return a slot to write to; waits for the reader where no frame may be dropped."""
        while (slot := self._ring.begin(newest=self._newest)) is None:
            readable, _, _ = select.select([self._channel.fileno(), self._space], [], [])
            if self._space in readable:
                os.eventfd_read(self._space)
            if self._channel.fileno() in readable:
                self._handle()
        return slot

    def _wait_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            if self._readable(left):
                self._handle()

    def _readable(self, timeout: float) -> bool:
        return bool(select.select([self._channel], [], [], timeout)[0])

    def _handle(self) -> None:
        limit, _ = self._channel.receive(TO_CAPTURE)
        self._max_fps = limit.max_fps


def main() -> None:
    """Entry of the process."""
    complaints = Complaints()
    log.set_up()
    channel = child.enter(sys.argv[1:])
    # Whatever the environment says: by what FFmpeg prints, damaged pictures are known.
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "16"
    cv2.setNumThreads(1)
    try:
        start, fds = channel.receive(START_CAPTURE)
        logger.name = f"capture.{start.name}"
        channel.send(CaptureStarted())
        try:
            Capture(channel, start, fds, complaints).run()
            channel.send(SourceEnded())
        except SourceError as error:
            channel.send(SourceFailed(str(error)))
            sys.exit(3)
    except ChannelClosed:
        sys.exit(0)  # the supervisor is gone


if __name__ == "__main__":
    main()
