"""Random weights never change."""

from __future__ import annotations

import hashlib

import numpy as np

from edgec.models.graph import random_weights


def test_random_weights_are_pinned() -> None:
    """The stream is part of what users compare across machines: it never changes."""
    values = random_weights.uniform("edgec", (1001,), -1.0, 1.0)
    assert values.dtype == np.float32
    assert abs(float(values.mean())) < 0.06
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    assert digest == "24e757a77c356e82d1111f27679fd5b99c05a0f4bbc83b48beb65727c0c12f71"
    assert random_weights.uniform("edgec2", (1001,), -1.0, 1.0)[0] != values[0]
    assert abs(random_weights.symmetric("k", (10_000,), 0.5).std() - 0.5) < 0.02
