"""A sound is drawn: tones where their frequency is, and time rolls to the left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.device_agent.view.spectrogram import HEIGHT, WIDTH, Spectrogram


def tone(hertz: float, rate: int, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_is_bright_at_its_frequency(rate: int, hertz: int) -> None:
    drawn = Spectrogram(rate)
    drawn.push(tone(hertz, rate, 3.0))
    levels = drawn._levels[:, -100:].mean(axis=1)
    assert abs(int(levels.argmax()) - drawn._row_of(hertz)) <= 4
    assert drawn._levels[:, : WIDTH // 3].max() == 0, "nothing was heard before"
    assert drawn.picture().shape == (HEIGHT, WIDTH, 3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=12))
def test_chunks_of_any_size_draw_the_same(sizes: list[int]) -> None:
    sound = np.random.default_rng(3).normal(0, 0.1, sum(sizes)).astype(np.float32)
    whole, parts = Spectrogram(16000), Spectrogram(16000)
    whole.push(sound)
    start = 0
    for size in sizes:
        parts.push(sound[start : start + size])
        start += size
    np.testing.assert_array_equal(whole._levels, parts._levels)
