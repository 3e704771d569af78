"""From samples to features: the definitions, written out in numpy."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.card import AudioInput
from edgec.runtime.processing.audio import AudioPreprocessor, mel_filters, resample, samples_of
from tests.runtime.processing.sounds import MEL, tone


def test_log_mel_is_what_its_definition_says() -> None:
    window = np.random.default_rng(0).normal(0, 0.1, 16000)
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + f / 700) for f in (60, 3800)), 42) / 2595) - 1)
    expected = np.empty((49, 40))
    for frame in range(49):
        samples = window[320 * frame :][:512] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512))
        power = np.abs(np.fft.rfft(samples)) ** 2
        for band in range(40):
            low, middle, high = edges[band : band + 3]
            hertz = np.arange(257) * 16000 / 512
            triangle = np.clip(
                np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0, None
            )
            expected[frame, band] = (np.log(power @ triangle + 1e-6) + 6) * 0.25
    own = AudioPreprocessor(MEL, (1, 1, 49, 40), "float32").tensor(window.astype(np.float32))
    np.testing.assert_allclose(own[0, 0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_a_tone_falls_into_the_band_that_holds_it(scale: Any) -> None:
    card = msgspec.structs.replace(MEL, mel_scale=scale)
    energy = AudioPreprocessor(card, (1, 49, 40), "float32").features(tone(1000, 16000)).mean(axis=0)
    band = mel_filters(card)[:, int(energy.argmax())] * np.arange(257)[:, None].T * 16000 / 512
    peak = np.flatnonzero(mel_filters(card)[:, int(energy.argmax())]) * 16000 / 512
    assert peak.min() <= 1000 <= peak.max()
    assert band.shape == (1, 257)


def test_mfcc_is_the_orthonormal_cosine_transform_of_log_mel() -> None:
    mel = AudioPreprocessor(MEL, (1, 49, 40), "float32")
    cepstra = AudioPreprocessor(
        msgspec.structs.replace(MEL, features="mfcc", coefficients=40, mean=0.0, scale=1.0),
        (1, 49, 40),
        "float32",
    )
    plain = AudioPreprocessor(msgspec.structs.replace(MEL, mean=0.0, scale=1.0), (1, 49, 40), "float32")
    window = tone(440, 16000)
    # An orthonormal transform keeps lengths.
    np.testing.assert_allclose(
        np.linalg.norm(cepstra.features(window), axis=1),
        np.linalg.norm(plain.features(window), axis=1),
        rtol=1e-4,
    )
    assert mel.features(window).shape == (49, 40)


@pytest.mark.parametrize(("rate", "wanted"), [(8000, 16000), (44100, 16000), (48000, 16000), (16000, 22050)])
def test_another_rate_keeps_a_tone_and_drops_what_cannot_be_told(rate: int, wanted: int) -> None:
    found = resample(tone(1000, rate), rate, wanted)
    expected = tone(1000, wanted)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=0.01)
    if rate > wanted:
        assert np.abs(resample(tone(0.49 * rate, rate), rate, wanted)[200:-200]).max() < 0.02


def test_windows_step_through_the_sound() -> None:
    card = AudioInput(sample_rate=100, window_s=1.0, hop_s=0.5)
    own = AudioPreprocessor(card, (1, 100), "float32")
    spans = [(start, end) for start, end, _ in own.windows(np.zeros(250, np.float32))]
    assert spans == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.5, 2.5)]
    assert len(list(own.windows(np.zeros(30, np.float32)))) == 1
    (_, _, padded), *_ = own.windows(np.ones(30, np.float32))
    assert padded[0, :30].all()
    assert not padded[0, 30:].any()


@pytest.mark.parametrize(
    "sound", [None, np.zeros((2, 2, 2)), np.zeros(0, np.float32), np.zeros(4, np.complex64)]
)
def test_what_is_no_sound_is_refused(sound: Any) -> None:
    with pytest.raises(rt.InputError, match=r"sound|samples"):
        samples_of(sound, None, MEL)


def test_integers_and_channels_become_mono_floats() -> None:
    stereo = np.array([[16384, 0], [-32768, -32768]], np.int16)
    np.testing.assert_allclose(samples_of(stereo, 16000, MEL), [0.25, -1.0])


def test_a_card_that_does_not_fit_the_model_says_both_shapes() -> None:
    with pytest.raises(rt.InputError, match=r"shape \[49, 40\], but the model expects \[1, 98, 40\]"):
        AudioPreprocessor(MEL, (1, 98, 40), "float32").tensor(np.zeros(16000, np.float32))
