"""Models in bfloat16: stored so, computed with in float32, rounded after each node."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.frontends.relax import converters
from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters import CannotConvert, Node
from edgec.compiler.frontends.relax.converters.registry import DYNAMIC
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.layers import compare_layers
from edgec.targets import detect
from tests.compiler.onnx_models import build, model_of, save

RNG = np.random.default_rng(11)
HALF = ml_dtypes.bfloat16


def cast(name: str, result: str, to: int) -> object:
    return helper.make_node("Cast", [name], [result], to=to)


def rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(HALF).astype("float32")


def compiled(model: object, folder: Path, x: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Nodes that ONNX Runtime runs, and the output."""
    imported, artifact = build(save(model, folder), folder)  # type: ignore[arg-type]
    with rt.load(artifact, threads=1) as loaded:
        return [node for part in imported.segments for node in part.nodes], loaded.run({"x": x})["y"]


def test_products_and_shapes(tmp_path: Path) -> None:
    """A product with weights in bfloat16, and a reshape whose sizes follow from the input's."""
    nodes = [
        cast("x", "h", TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["p"], name="product"),
        helper.make_node("Add", ["p", "b"], ["s"], name="sum"),
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["s", "sizes"], ["r"], name="shape"),
        cast("r", "y", TensorProto.FLOAT),
    ]
    w, b = RNG.standard_normal((64, 8)).astype(HALF), RNG.standard_normal(8).astype(HALF)
    model = model_of(nodes, {"x": [6, 64]}, ["y"], {"w": w, "b": b, "rest": np.array([2, 4], "int64")})
    x = RNG.standard_normal((6, 64)).astype("float32")
    product = rounded(rounded(x) @ w.astype("float32"))
    foreign, got = compiled(model, tmp_path, x)
    assert not foreign
    np.testing.assert_allclose(got, rounded(product + b.astype("float32")).reshape(6, 2, 4), rtol=2**-7)


def test_rounding(tmp_path: Path) -> None:
    """Ties to even, infinities, numbers too small and too large, and none at all."""
    x = np.frombuffer(
        np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x00012345, 0x80000000], "uint32"),
        "float32",
    )
    x = np.concatenate([x, [np.inf, -np.inf, np.nan, 0.1], RNG.standard_normal(54)]).astype("float32")
    model = model_of(
        [cast("x", "h", TensorProto.BFLOAT16), cast("h", "y", TensorProto.FLOAT)], {"x": [64]}, ["y"]
    )
    _, got = compiled(model, tmp_path, x)
    np.testing.assert_array_equal(got, rounded(x))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


def test_what_only_onnx_runtime_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_node: Node) -> Expr:
        raise CannotConvert("not here")

    converters.load_all()
    monkeypatch.setitem(DYNAMIC, ("", "Compress"), refuse)
    nodes = [
        cast("x", "h", TensorProto.BFLOAT16),
        helper.make_node("Compress", ["h", "keep"], ["c"], name="some", axis=0),
        cast("c", "y", TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": [4, 3]}, ["y"], {"keep": np.array([True, False, True, True])})
    x = RNG.standard_normal((4, 3)).astype("float32")
    foreign, got = compiled(model, tmp_path, x)
    assert "some" in foreign
    np.testing.assert_array_equal(got, rounded(x)[[0, 2, 3]])


def test_inputs_and_outputs_are_float32(tmp_path: Path) -> None:
    """numpy has no bfloat16: what a model takes and gives in it is rounded inside."""
    w = RNG.standard_normal((64, 8)).astype(HALF)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    inputs = {"x": (TensorProto.BFLOAT16, [4, 64])}
    model = model_of([node], inputs, ["y"], {"w": w}, output_type=TensorProto.BFLOAT16)
    x = RNG.standard_normal((4, 64)).astype("float32")
    foreign, got = compiled(model, tmp_path, x)
    assert not foreign
    assert got.dtype == "float32"
    layers = compare_layers(
        tmp_path / "model.onnx", detect(), CompileOptions(tune="none", threads=1), {"x": x}
    )
    assert "y" in [layer.error.name for layer in layers if layer.error.ok]
    np.testing.assert_allclose(got, rounded(rounded(x) @ w.astype("float32")), rtol=2**-7)
