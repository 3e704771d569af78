"""Opening and reading sources; runs in a capture process, which may be killed at any moment."""

from __future__ import annotations

import logging
import wave
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.errors import SourceError

Picture = NDArray[np.uint8]
Sound = NDArray[np.float32]

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
log = logging.getLogger("source")


class FrameSource(Protocol):
    """What a capture process reads from."""

    fps: float
    """Frame rate to play at; 0 when the source paces itself (cameras, streams)."""

    def read(self, into: Picture | None) -> Picture | Sound | None:
        """Return the next frame, in `into` if it fits; `None` at the end.

        Raises:
            SourceError: the source failed.
        """

    def skip(self) -> bool:
        """Skip one frame as cheaply as possible; `False` at the end."""

    def close(self) -> None:
        """Release the device or file."""


def open_source(section: SourceSettings, timeout_s: float) -> FrameSource:
    """Open a source.

    Raises:
        SourceError: it cannot be opened; names the source and what to check.
    """
    match section.kind:
        case "test":
            return TestPattern(section)
        case "folder":
            return Folder(section)
        case "sound":
            return SoundFile(section)
        case "microphone":
            return Microphone(section)
        case _:
            return Video(section, timeout_s)


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

    def read(self, into: Picture | None) -> Picture | Sound | None:
        """Return the next frame, or None at the end."""
        for _ in range(2):
            good, frame = self._capture.read() if into is None or self._size else self._capture.read(into)
            if good:
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

    def read(self, into: Picture | None) -> Picture | Sound | None:
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

    def read(self, into: Picture | None) -> Picture | Sound | None:
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


class SoundFile:
    """A sound file in chunks, mono float32 in -1…1, resampled to the wanted rate."""

    def __init__(self, section: SourceSettings) -> None:
        samples, rate = read_sound(section.path or Path())
        self._samples = resample(samples, rate, section.rate)
        self._chunk = max(1, round(section.rate * section.chunk_ms / 1000))
        self.fps = section.rate / self._chunk if section.pace == "real" else 0.0
        self._loop, self._at = section.loop, 0

    def read(self, into: Picture | None) -> Picture | Sound | None:
        """Return the next frame, or None at the end."""
        if self._at >= len(self._samples):
            if not self._loop:
                return None
            self._at = 0
        chunk = self._samples[self._at : self._at + self._chunk]
        self._at += self._chunk
        if len(chunk) < self._chunk:
            chunk = np.concatenate([chunk, np.zeros(self._chunk - len(chunk), np.float32)])
        return chunk[:, None]

    def skip(self) -> bool:
        """Skip one frame."""
        return self.read(None) is not None

    def close(self) -> None:
        """Release it."""
        self._samples = np.zeros(0, np.float32)


class Microphone:
    """PortAudio's default or named input, mono float32."""

    fps = 0.0

    def __init__(self, section: SourceSettings) -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:
            raise SourceError(
                "microphones need PortAudio: pip install 'edgec[audio]' and libportaudio2"
            ) from error
        self._chunk = max(1, round(section.rate * section.chunk_ms / 1000))
        try:
            self._stream = sounddevice.InputStream(
                samplerate=section.rate,
                channels=1,
                dtype="float32",
                device=section.device,
                blocksize=self._chunk,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            raise SourceError(f"cannot open {describe(section)}: {error}") from error

    def read(self, into: Picture | None) -> Picture | Sound | None:
        """Return the next frame, or None at the end."""
        samples, overflowed = self._stream.read(self._chunk)
        if overflowed:
            log.warning("the microphone's buffer overflowed: samples are missing")
        return np.asarray(samples, np.float32)

    def skip(self) -> bool:
        """Skip one frame."""
        return self.read(None) is not None

    def close(self) -> None:
        """Release it."""
        self._stream.close()


def read_sound(path: Path) -> tuple[Sound, int]:
    """Return a sound file's samples, mono float32, and their rate in Hz.

    Raises:
        SourceError: no such file, or a format that cannot be read.
    """
    if not path.is_file():
        raise SourceError(f"there is no sound file {path}")
    try:
        with wave.open(str(path)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError):
        return _read_with_soundfile(path)
    if width == 1:
        samples = np.frombuffer(raw, np.uint8).astype(np.float32) / np.float32(128) - np.float32(1)
    elif width in (2, 4):
        whole = np.frombuffer(raw, "<i2" if width == 2 else "<i4")
        samples = whole.astype(np.float32) / np.float32(2 ** (8 * width - 1))
    else:
        return _read_with_soundfile(path)
    return samples.reshape(-1, channels).mean(axis=1, dtype=np.float32), rate


def _read_with_soundfile(path: Path) -> tuple[Sound, int]:
    try:
        import soundfile
    except ImportError as error:
        raise SourceError(f"{path} is not a plain WAV file: pip install 'edgec[audio]' to read it") from error
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SourceError(f"{path} cannot be read as sound: {error}") from error
    return samples.mean(axis=1, dtype=np.float32), int(rate)


def resample(samples: Sound, rate: int, wanted: int) -> Sound:
    """Return `samples` at another rate, by cutting or padding the spectrum (ideal low-pass)."""
    if rate == wanted or not len(samples):
        return samples
    count = round(len(samples) * wanted / rate)
    spectrum = np.fft.rfft(samples)
    bins = count // 2 + 1
    cut = np.zeros(bins, np.complex128)
    kept = min(bins, len(spectrum))
    cut[:kept] = spectrum[:kept]
    return np.asarray(np.fft.irfft(cut, count), np.float32) * np.float32(count / len(samples))


def describe(section: SourceSettings) -> str:
    """Describe the source for people, without its secrets."""
    from edgec.device_agent.process.log import redact

    match section.kind:
        case "camera":
            return f"camera {section.index} (/dev/video{section.index})"
        case "url":
            return redact(section.url or "")
        case "microphone":
            return f"microphone {section.device or 'default'}"
        case "test":
            return "test pattern"
        case _:
            return str(section.path)
