"""A card for log-mel features, and tones."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.runtime.card import AudioInput

MEL = AudioInput(
    features="log-mel", frame_s=0.032, step_s=0.02, mels=40, min_hz=60.0, max_hz=3800.0, mean=-6.0, scale=0.25
)


def tone(hertz: float, rate: int, seconds: float = 1.0) -> Any:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)
