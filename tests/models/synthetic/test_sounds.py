"""Synthetic sounds, and mixtures at a stated signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.models.synthetic import sounds


def test_sounds_are_sound() -> None:
    rng = np.random.default_rng(0)
    for name in (*sounds.EVENTS, *sounds.OTHERS, *sounds.TRAINING_BACKGROUNDS, *sounds.HELD_BACK_BACKGROUNDS):
        x = sounds.fresh(name, rng, sounds.RATE)
        assert x.dtype == np.float32
        assert x.shape == (sounds.RATE,)
        assert np.isfinite(x).all()
        assert np.abs(x).max() > 0.5


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0])
def test_mix_holds_its_signal_to_noise_ratio(snr_db: float) -> None:
    """With two orthogonal square waves for sounds, the power rises at the onset by just the stated ratio."""

    def source(name: str, rng: np.random.Generator, count: int) -> sounds.Samples:
        period = 4 if name == "alarm" else 2
        return np.where(np.arange(count) % period < period // 2, 1, -1).astype(np.float32)

    clip = sounds.mix(np.random.default_rng(1), ("alarm",), snr_db, source=source)
    assert clip.present.tolist() == [1, 0, 0, 0]
    before, after = (float(np.mean(part**2)) for part in (clip.samples[:40], clip.samples[-1600:]))
    assert after / before == pytest.approx(1 + 10 ** (snr_db / 10), rel=1e-3)
    assert 10 ** (-36 / 20) <= np.abs(clip.samples).max() <= 10 ** (-6 / 20) + 1e-6
    assert not sounds.mix(np.random.default_rng(0), (), 10.0).present.any()
