"""Recurrent layers against a walk in numpy, to 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

RNG = np.random.default_rng(15)
STEPS, BATCH, INPUTS, HIDDEN = 4, 2, 3, 5


def test_an_rnn_of_two_directions_with_lengths(tmp_path: Path) -> None:
    x = RNG.standard_normal((STEPS, BATCH, INPUTS)).astype("f4")
    w = RNG.standard_normal((2, HIDDEN, INPUTS)).astype("f4")
    r = RNG.standard_normal((2, HIDDEN, HIDDEN)).astype("f4")
    b = RNG.standard_normal((2, 2 * HIDDEN)).astype("f4")
    lengths = np.array([4, 2], "int32")
    names = ["x", "w", "r", "b", "n"]
    node = helper.make_node(
        "RNN", names, ["y", "h"], hidden_size=HIDDEN, direction="bidirectional", activations=["Relu", "Tanh"]
    )
    y = np.zeros((STEPS, 2, BATCH, HIDDEN), "float32")
    last = np.zeros((2, BATCH, HIDDEN), "float32")
    for d, function in enumerate((lambda v: np.maximum(v, 0), np.tanh)):
        for row, count in enumerate(lengths):
            h = np.zeros(HIDDEN)
            for t in range(count)[:: -1 if d else 1]:
                h = function(w[d] @ x[t, row] + r[d] @ h + b[d, :HIDDEN] + b[d, HIDDEN:])
                y[t, d, row] = h
            last[d, row] = h
    constants = {"w": w, "r": r, "b": b, "n": lengths}
    model = model_of([node], {"x": x}, {"y": "float32", "h": "float32"}, constants)
    assert_native(model, {"x": x}, tmp_path, {"y": y, "h": last}, rtol=1e-5, atol=1e-5)


def test_a_gru_that_resets_after_the_product(tmp_path: Path) -> None:
    x = RNG.standard_normal((STEPS, 1, INPUTS)).astype("f4")
    w, r = (RNG.standard_normal((1, 3 * HIDDEN, n)).astype("f4") for n in (INPUTS, HIDDEN))
    b = RNG.standard_normal((1, 6 * HIDDEN)).astype("f4")
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=HIDDEN, linear_before_reset=1)
    bias, h, rows = b[0].reshape(6, HIDDEN), np.zeros(HIDDEN), []
    for t in range(STEPS):
        given, kept = w[0] @ x[t, 0], r[0] @ h
        z, reset = (
            1
            / (
                1
                + np.exp(
                    -(given[i * HIDDEN :][:HIDDEN] + kept[i * HIDDEN :][:HIDDEN] + bias[i] + bias[3 + i])
                )
            )
            for i in (0, 1)
        )
        new = np.tanh(given[2 * HIDDEN :] + reset * (kept[2 * HIDDEN :] + bias[5]) + bias[2])
        h = (1 - z) * new + z * h
        rows.append(h)
    expected = np.array(rows, "float32").reshape(STEPS, 1, 1, HIDDEN)
    model = model_of([node], {"x": x}, {"y": "float32"}, {"w": w, "r": r, "b": b})
    assert_native(model, {"x": x}, tmp_path, {"y": expected}, rtol=1e-5, atol=1e-5)
