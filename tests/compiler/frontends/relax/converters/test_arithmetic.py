"""Powers, remainders and scaling against numpy: integers exactly, float32 to one step (rtol 1e-6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


def test_remainders_have_the_sign_that_is_asked_for(tmp_path: Path) -> None:
    a = np.array([-7, -1, 0, 1, 7, 6], "int32")
    b = np.array([[3], [-3]], "int32")
    nodes = [
        helper.make_node("Mod", ["a", "b"], ["divisor"]),
        helper.make_node("Mod", ["a", "b"], ["dividend"], fmod=1),
    ]
    model = model_of(nodes, {"a": a, "b": b}, dict.fromkeys(("divisor", "dividend"), "int32"))
    expected = {"divisor": np.mod(a, b), "dividend": np.fmod(a, b)}
    assert_native(model, {"a": a, "b": b}, tmp_path, expected)


def test_remainders_of_real_numbers(tmp_path: Path) -> None:
    a = np.array([-7.5, 7.5, 1e6, -0.1, np.inf, 2.0], "float32")
    b = np.array([2.0, -2.0, 0.3, 0.3, 1.0, np.inf], "float32")
    node = helper.make_node("Mod", ["a", "b"], ["y"], fmod=1)
    model = model_of([node], {"a": a, "b": b}, {"y": "float32"})
    with np.errstate(invalid="ignore"):
        assert_native(model, {"a": a, "b": b}, tmp_path, {"y": np.fmod(a, b)}, rtol=1e-6)


def test_powers_of_integers_and_of_other_types(tmp_path: Path) -> None:
    x, n = np.array([1.5, -2.0, 0.0], "float32"), np.array([3, 5, -4], "int32")
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["square"]),
        helper.make_node("Pow", ["n", "three"], ["cube"]),
        helper.make_node("Pow", ["x", "wide"], ["mixed"]),
    ]
    constants = {
        "two": np.array(2, "float32"),
        "three": np.array(3, "int32"),
        "wide": np.array([2.0, 3.0, 1.0], "float64"),
    }
    outputs = {"square": "float32", "cube": "int32", "mixed": "float32"}
    expected = {"square": x * x, "cube": n**3, "mixed": (x ** constants["wide"]).astype("float32")}
    model = model_of(nodes, {"x": x, "n": n}, outputs, constants)
    assert_native(model, {"x": x, "n": n}, tmp_path, expected, rtol=1e-6)


def test_infinities_of_each_sign(tmp_path: Path) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1.0], "float32")
    nodes = [
        helper.make_node("IsInf", ["x"], ["both"]),
        helper.make_node("IsInf", ["x"], ["positive"], detect_negative=0),
        helper.make_node("IsInf", ["x"], ["negative"], detect_positive=0),
    ]
    expected = {"both": np.isinf(x), "positive": x == np.inf, "negative": x == -np.inf}
    model = model_of(nodes, {"x": x}, dict.fromkeys(expected, "bool"))
    assert_native(model, {"x": x}, tmp_path, expected)


def test_extremes_and_sums_of_several_tensors_of_several_shapes(tmp_path: Path) -> None:
    """NaN of any operand is kept, wherever it stands."""
    a = np.array([[1.5, np.nan, -np.inf, 3.0]] * 3, "float32")
    b = np.array([[0.25], [np.inf], [-8.0]], "float32")
    i, k = np.array([-128, 5, 127], "int8"), np.array([[7], [-3]], "int8")
    nodes = [
        helper.make_node("Max", ["a", "b", "c"], ["largest"]),
        helper.make_node("Min", ["c", "b", "a"], ["smallest"]),
        helper.make_node("Sum", ["a", "b", "c"], ["sum"]),
        helper.make_node("Mean", ["a", "b", "c"], ["mean"]),
        helper.make_node("Max", ["i", "k"], ["integers"]),
        helper.make_node("Min", ["a"], ["alone"]),
    ]
    c = np.float32(2.0)
    with np.errstate(invalid="ignore"):
        expected = {
            "largest": np.maximum(np.maximum(a, b), c),
            "smallest": np.minimum(np.minimum(c, b), a),
            "sum": a + b + c,
            "mean": (a + b + c) / np.float32(3),
            "integers": np.maximum(i, k),
            "alone": a,
        }
        outputs = dict.fromkeys(expected, "float32") | {"integers": "int8"}
        model = model_of(nodes, {"a": a, "b": b, "i": i, "k": k}, outputs, {"c": c})
        assert_native(model, {"a": a, "b": b, "i": i, "k": k}, tmp_path, expected, rtol=1e-6)
