"""Sources of pictures: cameras, network streams and video files, folders, and the test pattern.

They are read in a capture process, which may be killed at any moment.
"""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np

from edgec.device_agent.capture.source import Picture, describe
from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.errors import SourceError

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
log = logging.getLogger("source")


class Video:
    """A camera, a network stream or a video file, through OpenCV."""

    def __init__(self, section: SourceSettings, timeout_s: float) -> None:
        self._section = section
        self._timeout_ms = int(timeout_s * 1000)
        self._size = (section.width, section.height) if section.width and section.height else None
        self._capture = self._open()
        self._is_file = section.kind == "file"
        own = self._capture.get(cv2.CAP_PROP_FPS) if self._is_file else 0.0
        rate = section.fps or (own if 0 < own < 1000 else 25.0)
        self.fps = rate if self._is_file and section.pace == "real" else 0.0
        self._any = False

    def _open(self) -> cv2.VideoCapture:
        section = self._section
        if section.kind == "camera":
            capture = cv2.VideoCapture(section.index or 0, cv2.CAP_V4L2)
            for key, value in (
                (cv2.CAP_PROP_FRAME_WIDTH, section.width),
                (cv2.CAP_PROP_FRAME_HEIGHT, section.height),
                (cv2.CAP_PROP_FPS, section.fps),
            ):
                if value:
                    capture.set(key, value)
            hint = "is it plugged in, and may this user read it (group video)?"
        elif section.kind == "url":
            limits = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                self._timeout_ms,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                self._timeout_ms,
            ]
            capture = cv2.VideoCapture(section.url or "", cv2.CAP_FFMPEG, limits)
            hint = "is the address right and the camera reachable?"
        else:
            path = section.path or Path()
            if not path.is_file():
                raise SourceError(f"there is no video file {path}")
            capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
            hint = "is it a video that FFmpeg can read?"
        if not capture.isOpened():
            raise SourceError(f"cannot open {describe(section)}: {hint}")
        return capture

    def read(self, into: Picture | None) -> Picture | None:
        """Return the next frame, or None at the end."""
        for _ in range(2):
            ok, frame = self._capture.read() if into is None or self._size else self._capture.read(into)
            if ok:
                self._any = True
                return self._fitted(frame)
            if not self._is_file:
                raise SourceError(f"{describe(self._section)} stopped delivering frames")
            if not self._any:
                raise SourceError(f"{describe(self._section)} contains no readable frame")
            if not self._section.loop:
                return None
            self._capture.release()
            self._capture = self._open()
        raise SourceError(f"{describe(self._section)} cannot be rewound")

    def _fitted(self, frame: np.ndarray) -> Picture:
        if frame.ndim == 2:
            frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
        if self._size and self._section.kind != "camera" and (frame.shape[1], frame.shape[0]) != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        return frame.astype(np.uint8, copy=False)

    def skip(self) -> bool:
        """Skip one frame."""
        return bool(self._capture.grab()) or self.read(None) is not None

    def close(self) -> None:
        """Release it."""
        self._capture.release()


class Folder:
    """The pictures of a folder in order of their names; unreadable files are skipped with a warning."""

    def __init__(self, section: SourceSettings) -> None:
        folder = section.path or Path()
        if not folder.is_dir():
            raise SourceError(f"there is no folder {folder}")
        self._files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
        if not self._files:
            raise SourceError(f"{folder} contains no pictures ({', '.join(sorted(_PICTURES))})")
        self._folder, self._loop = folder, section.loop
        self._size = (section.width, section.height) if section.width and section.height else None
        self.fps = (section.fps or 5.0) if section.pace == "real" else 0.0
        self._next = 0
        self._bad: set[int] = set()

    def read(self, into: Picture | None) -> Picture | None:
        """Return the next frame, or None at the end."""
        while True:
            if self._next == len(self._files):
                if not self._loop:
                    return None
                self._next = 0
            number, self._next = self._next, self._next + 1
            frame = None if number in self._bad else cv2.imread(str(self._files[number]), cv2.IMREAD_COLOR)
            if frame is not None:
                return np.asarray(cv2.resize(frame, self._size) if self._size else frame, np.uint8)
            if number not in self._bad:
                self._bad.add(number)
                log.warning("%s cannot be read as a picture: skipped", self._files[number].name)
            if len(self._bad) == len(self._files):
                raise SourceError(f"no file in {self._folder} can be read as a picture")

    def skip(self) -> bool:
        """Skip one frame."""
        return self.read(None) is not None

    def close(self) -> None:
        """Release it."""
        self._files = []


class TestPattern:
    """A test pattern, the same on every machine: a red and a blue square that cross a grey ramp."""

    __test__ = False  # the name is no test for pytest

    def __init__(self, section: SourceSettings) -> None:
        self._width, self._height = section.width or 640, section.height or 480
        self.fps = (section.fps or 25.0) if section.pace == "real" else 0.0
        ramp = np.linspace(40, 120, self._width, dtype=np.uint8)
        self._ground = np.repeat(np.broadcast_to(ramp, (self._height, self._width))[..., None], 3, axis=2)
        self._number = 0

    def read(self, into: Picture | None) -> Picture | None:
        """Return the next frame, or None at the end."""
        shape = (self._height, self._width, 3)
        frame = into if into is not None and into.shape == shape else np.empty(shape, np.uint8)
        np.copyto(frame, self._ground)
        side = max(8, min(self._width, self._height) // 5)
        for colour, speed, row in (((0, 0, 255), 2, 0.15), ((255, 0, 0), -3, 0.6)):
            left = (self._number * speed) % max(1, self._width - side)
            top = int(row * self._height)
            frame[top : top + side, left : left + side] = colour
        self._number += 1
        return frame

    def skip(self) -> bool:
        """Skip one frame."""
        self._number += 1
        return True

    def close(self) -> None:
        """Release it."""
        self._number = 0
