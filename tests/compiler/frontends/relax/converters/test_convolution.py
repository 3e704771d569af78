"""Convolutions against direct sums, to 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

RNG = np.random.default_rng(12)


def test_plain_with_groups_strides_and_automatic_pads(tmp_path: Path) -> None:
    x, w = RNG.standard_normal((1, 4, 7, 6)).astype("f4"), RNG.standard_normal((6, 2, 3, 3)).astype("f4")
    b = RNG.standard_normal(6).astype("f4")
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["grouped"], group=2, strides=[2, 1], dilations=[1, 2]),
        helper.make_node("Conv", ["x", "w"], ["same"], group=2, auto_pad="SAME_LOWER", strides=[2, 2]),
    ]
    model = model_of(nodes, {"x": x}, dict.fromkeys(("grouped", "same"), "float32"), {"w": w, "b": b})

    def summed(x: np.ndarray, strides: tuple[int, int], dilation: int) -> np.ndarray:
        rows = (x.shape[2] - 3) // strides[0] + 1
        columns = (x.shape[3] - 2 * dilation - 1) // strides[1] + 1
        y = np.zeros((1, 6, rows, columns))
        for o, i, j in np.ndindex(6, rows, columns):
            top, left, first = i * strides[0], j * strides[1], o // 3 * 2
            part = x[0, first : first + 2, top : top + 3, left : left + 2 * dilation + 1 : dilation]
            y[0, o, i, j] = (part * w[o]).sum()
        return y.astype("float32")

    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 0)])
    expected = {
        "grouped": summed(x, (2, 1), 2) + b.reshape(1, -1, 1, 1),
        "same": summed(padded, (2, 2), 1),
    }
    assert_native(model, {"x": x}, tmp_path, expected, rtol=1e-5, atol=1e-5)


def test_transposed_with_every_kind_of_extent(tmp_path: Path) -> None:
    x, w = RNG.standard_normal((1, 3, 4, 5)).astype("f4"), RNG.standard_normal((3, 2, 3, 2)).astype("f4")
    extents = {
        "plain": {},
        "pads": {"pads": [1, 0, 1, 1]},
        "extra": {"output_padding": [1, 1]},
        "asked": {"output_shape": [9, 11], "auto_pad": "SAME_UPPER"},
    }
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], [name], strides=[2, 2], **extra)
        for name, extra in extents.items()
    ]
    full = np.zeros((1, 2, 9, 10))
    for i, j in np.ndindex(4, 5):
        full[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2] += np.einsum("c,cohw->ohw", x[0, :, i, j], w)
    expected = {
        "plain": full,
        "pads": full[:, :, 1:-1, :-1],
        "extra": np.pad(full, [(0, 0), (0, 0), (0, 1), (0, 1)]),
        "asked": np.pad(full, [(0, 0), (0, 0), (0, 0), (0, 1)]),
    }
    expected = {name: y.astype("float32") for name, y in expected.items()}
    model = model_of(nodes, {"x": x}, dict.fromkeys(extents, "float32"), {"w": w})
    assert_native(model, {"x": x}, tmp_path, expected, rtol=1e-5, atol=1e-5)
