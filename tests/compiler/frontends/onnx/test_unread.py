"""Nodes that nobody reads are dropped, and a Resize as tf2onnx writes it compiles without ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.frontends.onnx.unread import drop_unread_nodes
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import assert_same, model_of, save


def test_nodes_that_nobody_reads_cost_nothing(tmp_path: Path) -> None:
    """Neither a chain of them, nor one that could not be compiled, nor one that nobody knows."""
    nodes = [
        helper.make_node("Unique", ["x"], ["u"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Neg", ["u"], ["chained"]),
        helper.make_node("Cast", ["x"], ["text"], to=TensorProto.STRING),
        helper.make_node("Frobnicate", ["x"], ["odd"], domain="acme"),
    ]
    source = load_source(save(model_of(nodes, {"x": [2, 3]}, ["y"]), tmp_path), CompileOptions())
    assert [node.op_type for node in source.model.graph.node] == ["Relu"]
    assert source.nodes[source.origins["y"]].op_type == "Relu"
    assert to_relax(source, fallback_allowed=False).segments == ()


def test_what_a_branch_reads_from_outside_stays() -> None:
    def branch(*nodes: tuple[str, str, str]) -> object:
        value = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [a], [b]) for op, a, b in nodes], "b", [], [value])

    chosen = branch(("Exp", "outer", "e"), ("Sin", "e", "dead"), ("Neg", "e", "r"))
    nodes = [
        helper.make_node("Relu", ["x"], ["outer"]),
        helper.make_node("Abs", ["x"], ["dead"]),
        helper.make_node("If", ["c"], ["y"], then_branch=chosen, else_branch=branch(("Neg", "x", "r"))),
    ]
    made = model_of(nodes, {"x": [3], "c": (TensorProto.BOOL, [])}, ["y"])
    drop_unread_nodes(made.graph)
    assert [node.op_type for node in made.graph.node] == ["Relu", "If"]
    inner = {a.name: [node.op_type for node in a.g.node] for a in made.graph.node[1].attribute}
    assert inner == {"then_branch": ["Exp", "Neg"], "else_branch": ["Neg"]}


@pytest.mark.parametrize(("opset", "mode"), [(11, "nearest"), (13, "linear"), (18, "nearest")])
def test_one_empty_tensor_for_region_and_scales(tmp_path: Path, opset: int, mode: str) -> None:
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    node = helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"], mode=mode, **attributes)
    constants = {"none": np.zeros(0, "float32"), "sizes": np.array([1, 3, 10, 15])}
    made = model_of([node], {"x": [1, 3, 4, 6]}, ["y"], constants, opset=opset)
    source = load_source(save(made, tmp_path), CompileOptions())
    assert to_relax(source, fallback_allowed=False).segments == ()
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 6)).astype("float32")
    assert_same(made, {"x": x}, tmp_path)
