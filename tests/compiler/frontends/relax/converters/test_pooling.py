"""Maxima with their positions, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.random.default_rng(8).permutation(2 * 36).astype("float32").reshape(1, 2, 6, 6)


def test_places_of_the_maxima_and_back(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["y", "at"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxUnpool", ["y", "at"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    blocks = X.reshape(1, 2, 3, 2, 3, 2).transpose(0, 1, 2, 4, 3, 5).reshape(1, 2, 3, 3, 4)
    y = blocks.max(axis=-1)
    at = np.array([int(np.flatnonzero(X.reshape(-1) == v)[0]) for v in y.reshape(-1)]).reshape(y.shape)
    z = np.where(np.isin(X, y), X, 0).astype("float32")
    model = model_of(nodes, {"x": X}, {"y": "float32", "at": "int64", "z": "float32"})
    assert_native(model, {"x": X}, tmp_path, {"y": y, "at": at, "z": z})


def test_places_with_pads_dilations_and_columns_first(tmp_path: Path) -> None:
    node = helper.make_node(
        "MaxPool",
        ["x"],
        ["y", "at"],
        kernel_shape=[3, 3],
        dilations=[2, 2],
        pads=[1, 1, 1, 1],
        storage_order=1,
    )
    model = model_of([node], {"x": X}, {"y": "float32", "at": "int64"})
    padded = np.pad(X, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    y, at = np.zeros((1, 2, 4, 4), "float32"), np.zeros((1, 2, 4, 4), "int64")
    for c, i, j in np.ndindex(2, 4, 4):
        y[0, c, i, j] = padded[0, c, i : i + 5 : 2, j : j + 5 : 2].max()
        row, column = (int(k[0]) for k in np.nonzero(X[0, c] == y[0, c, i, j]))
        at[0, c, i, j] = c * 36 + column * 6 + row
    assert_native(model, {"x": X}, tmp_path, {"y": y, "at": at})
