"""Einsum as a product of matrices, beside numpy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

RNG = np.random.default_rng(4)
SIZES = {"b": 2, "h": 3, "q": 4, "k": 5, "d": 6, "e": 2}


@pytest.mark.parametrize(
    ("equation", "weights"),
    [
        ("bhqd,bhkd->bhqk", False), ("bqhd,bkhd->bhqk", False), ("bhqk,bkhd->bqhd", False), ("bqd,dhe->bhqe", True),
        ("bqhe,hed->bqd", True), ("kd,qd->qk", False), ("bq,b->q", False), ("bq,bq->b", False), ("hd,bqhd->qb", True),
        ("bq,hd->bqhd", False), ("bqd,hd->bq", False), ("bbq,bq->bq", False),
    ],
)  # fmt: skip
def test_any_arrangement_of_letters(equation: str, weights: bool, tmp_path: Path) -> None:
    left, right = (
        RNG.standard_normal([SIZES[letter] for letter in side]).astype("float32")
        for side in equation.split("->")[0].split(",")
    )
    inputs = {"x": left} if weights else {"x": left, "y": right}
    constants = {"y": right} if weights else {}
    node = helper.make_node("Einsum", ["x", "y"], ["z"], equation=equation)
    expected = {"z": np.einsum(equation, left, right)}
    model = model_of([node], inputs, {"z": "float32"}, constants)
    assert_native(model, inputs, tmp_path, expected, rtol=1e-4, atol=1e-5)
