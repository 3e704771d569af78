"""Products with an epilogue to 1e-5, determinants to 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

RNG = np.random.default_rng(4)


def test_products_of_microsoft(tmp_path: Path) -> None:
    a, b = RNG.standard_normal((2, 4, 3)).astype("float32"), RNG.standard_normal((2, 5, 3)).astype("float32")
    m, n = a[0].T.copy(), RNG.standard_normal((4, 2)).astype("float32")
    nodes = [
        helper.make_node("FusedMatMul", ["a", "b"], ["y"], domain="com.microsoft", transB=1, alpha=0.5),
        helper.make_node(
            "FusedGemm", ["m", "n", "c"], ["z"], domain="com.microsoft", activation="Relu", beta=2.0
        ),
    ]
    c = np.array([0.5, -0.5], "float32")
    expected = {"y": 0.5 * (a @ b.transpose(0, 2, 1)), "z": np.maximum(m @ n + 2 * c, 0)}
    inputs = {"a": a, "b": b, "m": m, "n": n}
    model = model_of(nodes, inputs, {"y": "float32", "z": "float32"}, {"c": c})
    assert_native(model, inputs, tmp_path, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_determinants(size: int, tmp_path: Path) -> None:
    x = RNG.standard_normal((3, size, size)).astype("float32")
    x[1, :, 0] = 0
    x[2, 0, 0] = 0  # needs another pivot
    model = model_of([helper.make_node("Det", ["x"], ["y"])], {"x": x}, {"y": "float32"})
    assert_native(model, {"x": x}, tmp_path, {"y": np.linalg.det(x).astype("float32")}, rtol=1e-4, atol=1e-5)
