"""Snapshots and short clips around events: files in a bounded ring on disk, oldest out first.

A thread of the inference process writes them, so that neither an encoder nor a slow card delays a frame. When
the thread falls behind, pictures are skipped and counted, never frames.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.inference.masks import blur
from edgec.device_agent.inference.messages import MediaLimits
from edgec.device_agent.process.space import Reserve
from edgec.device_agent.process.statefile import explain

log = logging.getLogger("media")

_QUALITY = 85
_CLIP_FPS = 5.0
_CLIP_WIDTH = 640
_BROKER_WIDTH = 640
_BROKER_BYTES = 120_000
"""What fits into a message between processes, and is polite to a broker."""
_WAITING = 16

Picture = NDArray[np.uint8]


class _NoRoom(OSError):
    """The disk has only its reserve left."""


class MediaRing:
    """A folder whose total size is bounded, on a disk of which the reserve is left free."""

    def __init__(self, folder: Path, max_bytes: int, reserve: Reserve | None = None) -> None:
        self._reserve = reserve
        self.folder, self._max_bytes = folder, max_bytes
        self.left_out = 0
        self.problem = ""
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._sizes: deque[tuple[str, int]] = deque()
        self._total = 0

    def save(self, name: str, picture: Picture) -> bool:
        """Store a picture, soon; `False` when the writer is behind. The picture is not copied."""

        def work() -> None:
            ok, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
            if ok:
                self._write(name, jpeg.tobytes())

        return self.submit(work)

    def save_clip(self, name: str, jpegs: list[bytes]) -> bool:
        """Store pictures as a clip (Motion JPEG in AVI), soon."""
        return self.submit(lambda: self._write_clip(name, jpegs))

    def encode_later(self, picture: Picture, into: deque[bytes]) -> bool:
        """Shrink and encode a picture for a possible clip."""

        def work() -> None:
            scale = min(1.0, _CLIP_WIDTH / picture.shape[1])
            small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            ok, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])
            if ok:
                into.append(jpeg.tobytes())

        return self.submit(work)

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job in the writer's thread; `False` when it is behind. An `OSError` of the job is reported."""
        if self._thread is None:
            self._begin()
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.left_out += 1
            return False
        return True

    def _begin(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
            self._sizes.extend((path.name, path.stat().st_size) for path in files)
        except OSError as error:
            self.problem = f"{self.folder}: {explain(error)}"
        self._total = sum(size for _, size in self._sizes)
        self._thread = threading.Thread(target=self._work, name="media", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except OSError as error:
                why = str(error) if isinstance(error, _NoRoom) else explain(error)
                if not self.problem:
                    log.error("pictures cannot be stored: %s", why)
                self.problem = why

    def _write(self, name: str, data: bytes) -> None:
        self._make_room(len(data))
        path = self.folder / name
        temporary = path.with_name(f".{name}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._sizes.append((name, len(data)))
        self._total += len(data)
        self.problem = ""

    def _write_clip(self, name: str, jpegs: list[bytes]) -> None:
        decoded = (cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in jpegs)
        pictures = [picture for picture in decoded if picture is not None]
        if not pictures:
            return
        height, width = pictures[0].shape[:2]
        temporary = self.folder / f".{name}"
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"MJPG"), _CLIP_FPS, (width, height))
        for picture in pictures:
            writer.write(picture)
        writer.release()
        size = temporary.stat().st_size
        try:
            self._make_room(size)
        except _NoRoom:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(self.folder / name)
        self._sizes.append((name, size))
        self._total += size
        self.problem = ""

    def _make_room(self, size: int) -> None:
        """Delete the oldest until the new one fits the limit and leaves the reserve.

        Raises:
            OSError: the reserve would be touched although none is left.
        """
        while self._sizes and (self._total + size > self._max_bytes or self._lacks(size)):
            name, old = self._sizes.popleft()
            (self.folder / name).unlink(missing_ok=True)
            self._total -= old
        if self._reserve is not None and self._lacks(size):
            raise _NoRoom(self._reserve.refusal())

    def _lacks(self, size: int) -> bool:
        return self._reserve is not None and self._reserve.left() < size


@dataclass
class ClipRecorder:
    """Buffers the last seconds of a stream as small pictures, and makes a clip of them around an event."""

    ring: MediaRing
    before_s: float
    after_s: float
    _recent: deque[bytes] = field(default_factory=deque)
    _next_s: float = 0.0
    _name: str = ""
    _until_s: float = 0.0

    def __post_init__(self) -> None:
        self._recent = deque(maxlen=max(2, round((self.before_s + self.after_s) * _CLIP_FPS)))

    def frame(self, picture: Callable[[], Picture], now_s: float) -> None:
        """Buffer a frame, at most five per second; ends the clip that is due."""
        if now_s >= self._next_s:
            self._next_s = now_s + 1 / _CLIP_FPS
            self.ring.encode_later(picture(), self._recent)
        if self._name and now_s >= self._until_s:
            self.ring.save_clip(self._name, list(self._recent))
            self._name = ""

    def event(self, name: str, now_s: float) -> str:
        """Begin a clip, or extend the current one; returns its name."""
        if not self._name:
            self._name = name
            self._until_s = now_s + self.after_s
        return self._name


class BrokerPictures:
    """A small picture of a stream now and then, for users of the broker such as Home Assistant."""

    def __init__(self, ring: MediaRing, interval_s: float, send: Callable[[bytes], None]) -> None:
        self._ring, self._interval_s, self._send = ring, interval_s, send
        self._next_s = 0.0

    def frame(self, picture: Callable[[], Picture], now_s: float) -> None:
        """Encode and send a frame, if it is time."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._interval_s
        frame = picture()

        def work() -> None:
            scale = min(1.0, _BROKER_WIDTH / frame.shape[1])
            small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            for quality in (75, 50, 25):
                ok, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
                if ok and jpeg.size <= _BROKER_BYTES:
                    self._send(jpeg.tobytes())
                    return

        self._ring.submit(work)


class StreamMedia:
    """One stream's snapshots and clips, masked before they leave the pipeline."""

    def __init__(
        self,
        name: str,
        settings: StreamSection,
        ring: MediaRing,
        limits: MediaLimits,
        send: Callable[[bytes], None] = lambda _jpeg: None,
    ) -> None:
        self._name, self._settings, self._ring = name, settings, ring
        every = limits.picture_interval_s
        self._broker = BrokerPictures(ring, every, send) if every else None
        self._clips = (
            ClipRecorder(ring, limits.clip_before_s, limits.clip_after_s) if settings.clips else None
        )
        self._masked: tuple[int, Picture] | None = None

    def frame(self, number: int, data: Picture, now_s: float) -> None:
        """Take a processed frame."""
        if self._broker is not None:
            self._broker.frame(lambda: self._copy(number, data), now_s)
        if self._clips is not None:
            self._clips.frame(lambda: self._copy(number, data), now_s)

    def event(self, number: int, data: Picture, wall_ns: int, now_s: float) -> tuple[str, str]:
        """Take a frame with an event; returns the names of its snapshot and clip, empty where there is none."""
        snapshot = clip = ""
        stem = f"{self._name}-{wall_ns // 1_000_000}"
        if self._settings.snapshots and self._ring.save(f"{stem}.jpg", self._copy(number, data)):
            snapshot = f"{stem}.jpg"
        if self._clips is not None:
            clip = self._clips.event(f"{stem}.avi", now_s)
        return snapshot, clip

    def _copy(self, number: int, data: Picture) -> Picture:
        """Return a masked copy of the frame, made once."""
        if self._masked is None or self._masked[0] != number:
            picture = np.array(data, np.uint8)
            blur(picture, self._settings.masks)
            self._masked = (number, picture)
        return self._masked[1]
