"""What cannot be compiled runs through ONNX Runtime inside the same artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.relax import converters
from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters import CannotConvert, Node
from edgec.compiler.frontends.relax.converters.registry import DYNAMIC
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import assert_same, build, model_of, save

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _no_determinants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two operators that the standard infers shapes for, one of them only the rank: Det and NonZero."""

    def refuse(_node: Node) -> Expr:
        raise CannotConvert("determinants are not compiled here")

    converters.load_all()
    monkeypatch.setitem(converters.CONVERTERS, ("", "Det"), refuse)
    monkeypatch.setitem(DYNAMIC, ("", "NonZero"), refuse)


def determinant() -> list[object]:
    return [
        helper.make_node("Mul", ["x", "x"], ["a"], name="square"),
        helper.make_node("Det", ["a"], ["d"], name="det"),
        helper.make_node("Abs", ["d"], ["e"], name="abs"),
        helper.make_node("Add", ["e", "e"], ["y"], name="double"),
    ]


def test_one_segment_between_compiled_nodes(tmp_path: Path) -> None:
    model = model_of(determinant(), {"x": [3, 4, 4]}, ["y"])  # type: ignore[arg-type]
    x = RNG.standard_normal((3, 4, 4)).astype("float32")
    assert_same(model, {"x": x}, tmp_path)
    imported, artifact = build(save(model, tmp_path), tmp_path)
    assert [segment.nodes for segment in imported.segments] == [("det",)]
    with rt.load(artifact) as loaded:
        first = loaded.run({"x": x})["y"]
        layers = loaded.profile({"x": x}, repeats=2)
    assert ("det",) in [layer.nodes for layer in layers]
    with rt.load(artifact) as again, rt.load(artifact) as twice:
        np.testing.assert_array_equal(again.run({"x": x})["y"], first)
        np.testing.assert_array_equal(twice.run({"x": 2 * x})["y"], again.run({"x": 2 * x})["y"])


def test_cheap_nodes_between_foreign_ones_go_along(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="one"),
        helper.make_node("Reshape", ["a", "s"], ["b"], name="shape"),
        helper.make_node("Det", ["b"], ["c"], name="two"),
        helper.make_node("Neg", ["c"], ["y"], name="neg"),
    ]
    model = model_of(nodes, {"x": [16, 4, 4]}, ["y"], {"s": np.array([4, 4], "int64")})
    imported, _ = build(save(model, tmp_path), tmp_path)
    assert [segment.nodes for segment in imported.segments] == [("one", "shape", "two")]
    assert_same(model, {"x": RNG.standard_normal((16, 4, 4)).astype("float32")}, tmp_path)


def test_results_whose_size_depends_on_the_data(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("NonZero", ["a"], ["y"])]
    model = model_of(nodes, {"x": [6]}, ["y"], output_type=TensorProto.INT64)
    for x in ([1, -1, 0, 3, 4, -2], [-1, -1, -1, -1, -1, 5]):
        assert_same(model, {"x": np.array(x, "float32")}, tmp_path)


def test_refused_without_fallback_each_node_by_name(tmp_path: Path) -> None:
    path = save(model_of(determinant(), {"x": [3, 4, 4]}, ["y"]), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match=r"Det \(ai.onnx\) at 'det'") as caught:
        build(path, tmp_path, CompileOptions(fallback=False, tune="none"))
    assert [node.node for node in caught.value.nodes] == ["det"]
    assert not list(tmp_path.glob("*.edge"))


def test_a_part_with_sizes_that_are_known_and_sizes_that_are_not(tmp_path: Path) -> None:
    """What is known of one result is not lost to its neighbour."""
    nodes = [
        helper.make_node("Det", ["x"], ["d"], name="det"),
        helper.make_node("NonZero", ["x"], ["places"], name="places"),
        helper.make_node("Relu", ["d"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w"], ["y"], name="product"),
    ]
    weights = {"w": RNG.standard_normal((3, 5)).astype("float32")}
    model = model_of(nodes, {"x": [2, 3, 4, 4]}, ["y", "places"], weights)
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    imported, _ = build(save(model, tmp_path), tmp_path)
    assert [segment.nodes for segment in imported.segments] == [("det", "places")]
    assert_same(model, {"x": RNG.standard_normal((2, 3, 4, 4)).astype("float32")}, tmp_path)
