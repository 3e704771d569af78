"""The trained keyword model, compiled, hears spoken digits of a speaker that it was not trained on, from a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.models import build
from edgec.protocol.topics import Kind
from edgec.runtime.artifact.reader import Artifact
from edgec.runtime.processing.compiled import FEATURES
from edgec.runtime.processing.input_files import read_sound
from tests.device_agent.harness import FleetEnd, wait_for

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONFIG = """
[models.words]
artifact = "words.edge"
[streams.kitchen]
source = { kind = "sound", path = "speech.wav", rate = 16000, loop = false, pace = "real" }
model = "words"
policy = "every"
slots = 8
[streams.kitchen.tracker]
confirm = 2
lost_s = 0.3
"""


def write_speech(recordings: Path, output: Path, count: int) -> list[str]:
    """Digits in turn, with silence between, 8 kHz; returns their words."""
    import wave

    parts, words = [np.zeros(8000, np.float32)], []
    for number in range(count):
        samples, rate = read_sound(recordings / f"{number % 10}_theo_{number // 10}.wav")
        assert rate == 8000
        loud = samples.reshape(len(samples), -1)[:, 0] / np.abs(samples).max() * np.float32(0.5)
        parts += [loud, np.zeros(12000, np.float32)]
        words.append(DIGITS[number % 10])
    noise = np.random.default_rng(0).normal(0, 0.002, sum(map(len, parts)))
    with wave.open(str(output), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(
            ((np.concatenate(parts) + noise) * 32000).clip(-32768, 32767).astype("<i2").tobytes()
        )
    return words


@pytest.mark.long
def test_spoken_digits_become_events(
    tmp_path: Path, shared_data: Path, fleet: FleetEnd, agent_of: Any
) -> None:
    build("keywords-digits", tmp_path / "words")
    command = [
        "compile",
        "words/model.onnx",
        "--card",
        "words/model.toml",
        "--tune",
        "none",
        "-o",
        "words.edge",
    ]
    subprocess.run([sys.executable, "-m", "edgec.cli.main", *command], cwd=tmp_path, check=True)
    assert Artifact.open(tmp_path / "words.edge").config.around == (FEATURES,)
    said = write_speech(shared_data / "audio" / "fsdd", tmp_path / "speech.wav", 20)
    agent = agent_of(CONFIG)
    agent.start(PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    health = fleet.health(lambda h: h["streams"][0]["state"] == "ended", "the end of the file", 60)
    stream = health["streams"][0]
    wait_for(lambda: len(fleet.of(Kind.EVENT)) >= stream["events"], "the last events")
    heard = [e["data"]["label"] for e in fleet.of(Kind.EVENT) if e["data"]["phase"] == "new"]
    right = matched(said, heard)
    print(f"said {len(said)}, heard {len(heard)}, right in order {right}: {heard}")
    assert right >= 0.6 * len(said)
    assert len(heard) - right <= 0.2 * len(said)
    assert stream["errors"] == 0


def matched(said: list[str], heard: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(heard) + 1)
    for word in said:
        before = row[:]
        for place, other in enumerate(heard):
            row[place + 1] = before[place] + 1 if word == other else max(before[place + 1], row[place])
    return row[-1]
