"""Read inputs from files: pictures, sounds, arrays."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from edgec.runtime.errors import InputError

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
SOUNDS = frozenset({".wav", ".ogg", ".flac", ".mp3"})


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture as `[height, width, 3]` BGR, uint8.

    Raises:
        InputError: the file does not exist, or is not a picture.
    """
    import cv2

    content = _bytes_of(path)
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if picture is None:
        raise InputError(f"{path}: not a picture that OpenCV can read")
    return np.asarray(picture, np.uint8)


def read_sound(path: Path) -> tuple[npt.NDArray[Any], int]:
    """Read samples `[n]` or `[n, channels]` and the sample rate; anything but PCM `.wav` needs `soundfile`.

    Raises:
        InputError: the file does not exist or is not a sound, or `soundfile` is missing.
    """
    _bytes_of(path)
    if path.suffix.lower() == ".wav":
        try:
            return _read_wave(path)
        except (wave.Error, EOFError):
            pass  # not plain PCM: soundfile may read it
    try:
        import soundfile
    except ModuleNotFoundError:
        raise InputError(f"{path}: reading this needs soundfile: pip install 'edgec[audio]'") from None
    try:
        samples, rate = soundfile.read(str(path), dtype="float32")
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path}: not a sound that can be read ({error})") from error
    return samples, int(rate)


def _read_wave(path: Path) -> tuple[npt.NDArray[Any], int]:
    with wave.open(str(path), "rb") as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        if width not in (1, 2, 4):
            raise wave.Error(f"{8 * width}-bit samples")
        content = file.readframes(file.getnframes())
    if width == 1:  # 8-bit waves are unsigned
        samples: npt.NDArray[Any] = ((np.frombuffer(content, np.uint8).astype(np.int16) - 128) << 8).astype(
            np.int16
        )
    else:
        samples = np.frombuffer(content, f"<i{width}")
    return (samples.reshape(-1, channels) if channels > 1 else samples), rate


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an `.npz` file by name.

    Raises:
        InputError: the file does not exist, or is not an `.npz` of plain arrays.
    """
    _bytes_of(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError) as error:
        raise InputError(f"{path}: not an .npz file of arrays ({error})") from error


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
