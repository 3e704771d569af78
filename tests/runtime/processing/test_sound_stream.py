"""A stream in pieces gives the results of the whole sound."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.runtime.processing.audio import AudioPreprocessor
from edgec.runtime.processing.sound_stream import SoundStream
from tests.runtime.processing.sounds import MEL


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["waveform", "log-mel", "mfcc"]),
    st.sampled_from([0.1, 0.24, 0.5, 1.3]),
    st.lists(st.integers(1, 9000), min_size=1, max_size=6),
)
def test_a_stream_in_pieces_hears_what_the_whole_sound_gives(
    features: str, hop_s: float, pieces: list[int]
) -> None:
    card = msgspec.structs.replace(MEL, features=features, hop_s=hop_s, window_s=0.6)
    shape = {"waveform": (9600,), "log-mel": (29, 40), "mfcc": (29, 10)}[features]
    samples = np.random.default_rng(0).normal(0, 0.1, sum(pieces)).astype(np.float32)
    own = AudioPreprocessor(card, (1, *shape), "float32")
    heard: list[tuple[float, Any]] = []
    listener = SoundStream(own, lambda tensor, seconds: [heard.append((seconds[0], tensor))])  # type: ignore[list-item, func-returns-value]
    for piece in np.split(samples, np.cumsum(pieces)[:-1]):
        before = len(heard)
        assert (listener.push(piece) is None) == (len(heard) == before)
    # A window's last frame may end before the window; a last window waits for the whole hop.
    whole = [one for one in own.windows(samples) if round(one[1] * 16000) <= len(samples)]
    assert abs(len(whole) - len(heard)) <= 2
    for (start, tensor), (expected_start, _, expected) in zip(heard, whole, strict=False):
        assert start == pytest.approx(expected_start)
        np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5)
