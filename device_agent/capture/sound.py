"""Sources of sound: files and microphones."""

from __future__ import annotations

import logging
import wave
from pathlib import Path

import numpy as np

from edgec.device_agent.capture.source import Picture, Sound, describe
from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.errors import SourceError

log = logging.getLogger("source")


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
