"""If, Loop and Scan written out, exactly; what depends on the data is declared impossible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper

from edgec.compiler.errors import UnsupportedModel
from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.array([1.0, -2.0, 3.0], "float32")


def graph(nodes: list[NodeProto], inputs: dict[str, tuple[int, list[int]]], *outputs: str) -> GraphProto:
    given = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    kinds = {name: kind for name, (kind, _) in inputs.items()}
    made = [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs]
    return helper.make_graph(nodes, "body", given, made)


def test_a_branch_chosen_when_the_model_runs(tmp_path: Path) -> None:
    double = graph([helper.make_node("Add", ["x", "x"], ["a"])], {}, "a")
    negated = graph([helper.make_node("Neg", ["x"], ["b"])], {}, "b")
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["large"]),
        helper.make_node("If", ["large"], ["y"], then_branch=double, else_branch=negated),
    ]
    for x in (X, -X):
        model = model_of(nodes, {"x": x}, {"y": "float32"}, {"limit": np.array(0, "float32")})
        assert_native(model, {"x": x}, tmp_path, {"y": 2 * x if x.sum() > 0 else -x})


def loop(count: str) -> NodeProto:
    state = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [3])}
    body = graph([helper.make_node("Add", ["s", "x"], ["t"])], state, "go", "t", "t")
    body.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    return helper.make_node("Loop", [count, "", "x"], ["y", "rows"], body=body)


def test_a_loop_of_known_length(tmp_path: Path) -> None:
    model = model_of([loop("n")], {"x": X}, {"y": "float32", "rows": "float32"}, {"n": np.array(3, "int64")})
    assert_native(model, {"x": X}, tmp_path, {"y": 4 * X, "rows": np.stack([2 * X, 3 * X, 4 * X])})


def test_a_loop_of_unknown_length_is_refused(tmp_path: Path) -> None:
    inputs = {"x": X, "n": np.array(3, "int64")}
    model = model_of([loop("n")], inputs, {"y": "float32", "rows": "float32"})
    with pytest.raises(UnsupportedModel, match="number of iterations depends on the data"):
        assert_native(model, inputs, tmp_path, {})


def test_a_scan_from_behind(tmp_path: Path) -> None:
    rows = np.arange(12, dtype="float32").reshape(4, 3)
    state = {"s": (TensorProto.FLOAT, [3]), "row": (TensorProto.FLOAT, [3])}
    body = graph(
        [helper.make_node("Add", ["s", "row"], ["t"]), helper.make_node("Neg", ["t"], ["u"])], state, "t", "u"
    )
    node = helper.make_node(
        "Scan", ["x", "rows"], ["y", "all"], body=body, num_scan_inputs=1, scan_input_directions=[1]
    )
    sums = X + np.cumsum(rows[::-1], axis=0)
    inputs = {"x": X, "rows": rows}
    model = model_of([node], inputs, {"y": "float32", "all": "float32"})
    assert_native(model, inputs, tmp_path, {"y": sums[-1], "all": -sums})
