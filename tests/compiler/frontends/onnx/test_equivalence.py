"""Comparing two models on generated inputs."""

from __future__ import annotations

import tracemalloc

import numpy as np
from onnx import helper

from edgec.compiler.frontends.onnx.equivalence import BLOCK, MOST_NOISE, generated_inputs, is_close
from tests.compiler.onnx_models import model_of


def test_large_inputs_take_their_own_memory_only() -> None:
    """A damaged shape of hundreds of megabytes is generated and compared without copies of it."""
    shape = (1 << 20, 16)
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": list(shape)}, ["y"])
    tracemalloc.start()
    try:
        made = generated_inputs(model)["x"]
        other = made.copy()
        other[-1, -1] += 1e-4
        assert is_close(made, other)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.6 * made.nbytes
    assert made.shape == shape
    assert made.dtype == np.float32
    assert not np.array_equal(made[0], made[1])
    assert made.reshape(-1)[MOST_NOISE] == made[0, 0]
    other[-1, -1] += 1
    assert not is_close(made, other)


def test_outputs_are_close_or_not() -> None:
    a = np.zeros(BLOCK + 3, np.float32)
    a[0], a[1], a[2] = 100, np.nan, np.inf
    b = a.copy()
    b[-1] = 0.5  # within 1 % of the largest
    assert is_close(a, b)
    b[1] = 0
    assert not is_close(a, b)
    assert is_close(a[:0], a[:0])
    assert not is_close(a, a.astype(np.float64))
