"""Pictures, sounds and arrays are read from files; what is none is refused."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.processing.audio import samples_of
from edgec.runtime.processing.input_files import read_sound
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
