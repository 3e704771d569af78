"""Extremes along axes, exactly; a row of infinities stays infinite."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.extremes import extremes
from tests.compiler.kernels.compiled import evaluate


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
def test_against_numpy(largest: bool, keepdims: bool) -> None:
    x = np.random.default_rng(3).standard_normal((2, 3, 4)).astype("float32")
    x[0], x[1, :, 0] = -np.inf, np.inf
    wanted = (np.max if largest else np.min)(x, axis=(0, 2), keepdims=keepdims)
    got = evaluate(
        lambda a: extremes(a, [0, 2], keepdims=keepdims, largest=largest), x, out=np.zeros_like(wanted)
    )
    np.testing.assert_array_equal(got, wanted)
    masked = x[:1]
    wanted = (np.max if largest else np.min)(masked, axis=2, keepdims=keepdims)
    got = evaluate(
        lambda a: extremes(a, [2], keepdims=keepdims, largest=largest), masked, out=np.zeros_like(wanted)
    )
    np.testing.assert_array_equal(got, np.full_like(wanted, -np.inf))
