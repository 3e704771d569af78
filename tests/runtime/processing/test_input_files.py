"""Pictures, sounds and arrays are read from files; what is none is refused."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.processing.audio import samples_of
from edgec.runtime.processing.input_files import read_arrays, read_picture, read_sound
from tests.runtime.processing.sounds import MEL, tone


@pytest.mark.parametrize("width", [1, 2, 4])
def test_wave_files_of_every_width_are_read(tmp_path: Path, width: int) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(8000)
        scaled = np.round(
            np.stack([tone(100, 8000), -tone(100, 8000)], axis=1) * 0.99 * (2.0 ** (8 * width - 1))
        )
        kind = {1: np.uint8, 2: np.int16, 4: np.int32}[width]
        file.writeframes((scaled + (128 if width == 1 else 0)).astype(kind).tobytes())
    samples, rate = read_sound(path)
    assert (samples.shape, rate) == ((8000, 2), 8000)
    np.testing.assert_allclose(samples_of(samples[:, 0].copy(), None, MEL), tone(100, 8000), atol=0.02)


def test_a_file_that_is_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF but not really")
    with pytest.raises(rt.InputError, match=r"a\.wav"):
        read_sound(tmp_path / "a.wav")
    with pytest.raises(rt.InputError, match="No such file"):
        read_sound(tmp_path / "b.wav")


def test_pictures_are_bgr_whatever_their_format(tmp_path: Path) -> None:
    picture = np.zeros((6, 4, 3), np.uint8)
    picture[..., 0] = 200
    assert cv2.imwrite(str(tmp_path / "blue.png"), picture)
    assert np.array_equal(read_picture(tmp_path / "blue.png"), picture)
    assert cv2.imwrite(str(tmp_path / "gray.png"), picture[..., 0])
    assert np.array_equal(read_picture(tmp_path / "gray.png"), np.full((6, 4, 3), 200))


def test_arrays_are_read_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.float32(2))
    arrays = read_arrays(tmp_path / "a.npz")
    assert {name: array.tolist() for name, array in arrays.items()} == {"x": [0, 1, 2], "y": 2.0}


@pytest.mark.parametrize("read", [read_picture, read_arrays])
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_file_of_something_else_is_refused(
    read: Callable[[Path], Any], content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(rt.InputError, match="file: not a"):
        read(path)
    with pytest.raises(rt.InputError, match="nowhere: cannot be read: No such file"):
        read(tmp_path / "nowhere")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([print], dtype=object))
    with pytest.raises(rt.InputError, match="allow_pickle=False"):
        read_arrays(tmp_path / "a.npz")
