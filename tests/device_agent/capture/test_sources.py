"""Sources: sound keeps its pitch, and absent sources are named."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import pytest

from edgec.device_agent.capture.sound import resample
from edgec.device_agent.capture.sources import open_source
from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.errors import SourceError


def test_sound_files_keep_their_pitch(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    rate = 8000
    sine = np.sin(2 * math.pi * 500 * np.arange(rate) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sine * 20000).astype("<i2").tobytes())
    source = open_source(SourceSettings(kind="sound", path=path, loop=False, pace="fast"), 5)
    chunks = []
    while (chunk := source.read(None)) is not None:
        chunks.append(chunk)
    samples = np.concatenate(chunks)[:, 0]
    assert chunks[0].shape == (1280, 1)
    peak = np.argmax(np.abs(np.fft.rfft(samples[:16000])))
    assert peak == pytest.approx(500, abs=1)
    assert np.allclose(resample(resample(sine.astype(np.float32), 8000, 16000), 16000, 8000), sine, atol=1e-3)


def test_sources_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for section, word in (
        (SourceSettings(kind="file", path=tmp_path / "none.mp4"), "none.mp4"),
        (SourceSettings(kind="file", path=tmp_path / "text.mp4"), "text.mp4"),
        (SourceSettings(kind="folder", path=tmp_path / "empty"), "contains no pictures"),
        (SourceSettings(kind="sound", path=tmp_path / "none.wav"), "none.wav"),
        (SourceSettings(kind="camera", index=97), "/dev/video97"),
    ):
        with pytest.raises(SourceError, match=word):
            open_source(section, 2)
