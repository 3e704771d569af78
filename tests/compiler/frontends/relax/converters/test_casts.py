"""Casts to narrow types, exactly: what the value is after it went through the type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([0.1, -0.1, 1.06, 449.0, 3.14159, -500.0, 0.0, 17.0], "float32")


def test_narrow_floats_round_and_saturate(tmp_path: Path) -> None:
    kinds = ("FLOAT8E4M3FN", "FLOAT8E5M2", "BFLOAT16")
    nodes, expected = [], {}
    for name in kinds:
        kind = getattr(TensorProto, name)
        nodes.append(helper.make_node("Cast", ["x"], [f"{name}.narrow"], to=kind))
        nodes.append(helper.make_node("Cast", [f"{name}.narrow"], [name], to=TensorProto.FLOAT))
        expected[name] = X.astype(helper.tensor_dtype_to_np_dtype(kind)).astype("float32")
    expected["FLOAT8E4M3FN"][[3, 5]] = 448, -448  # the standard saturates, ml_dtypes makes NaN of them
    model = model_of(nodes, {"x": X}, dict.fromkeys(kinds, "float32"))
    assert_native(model, {"x": X}, tmp_path, expected)


def test_the_last_digit_of_bfloat16_is_even_on_ties(tmp_path: Path) -> None:
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8)], "float32")
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": x}, {"y": "float32"})
    assert_native(model, {"x": x}, tmp_path, {"y": np.array([1, 1 + 2**-6, -1], "float32")})


def test_numbers_are_rounded_to_four_bits_and_wrap(tmp_path: Path) -> None:
    x = np.array([3.9, -7.5, 6.5, 8.0, -9.0, 0.5], "float32")
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.INT4),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": x}, {"y": "float32"}, opset=21)
    assert_native(model, {"x": x}, tmp_path, {"y": np.array([4, -8, 6, -8, 7, 0], "float32")})
