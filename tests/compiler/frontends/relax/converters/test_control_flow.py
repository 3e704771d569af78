"""If, Loop and Scan, exactly: written out where they are short, else as branches and loops of the compiled program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper

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


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_a_loop_whose_length_is_an_input(count: int, tmp_path: Path) -> None:
    inputs = {"x": X, "n": np.array(count, "int64")}
    model = model_of([loop("n")], inputs, {"y": "float32", "rows": "float32"})
    rows = np.array([(i + 2) * X for i in range(count)], "float32").reshape(count, 3)
    assert_native(model, inputs, tmp_path, {"y": (count + 1) * X, "rows": rows})


def test_a_loop_that_ends_by_its_condition(tmp_path: Path) -> None:
    """Doubled until the sum is above the limit; the limit of iterations is never reached."""
    state = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [3])}
    nodes = [
        helper.make_node("Add", ["s", "s"], ["t"]),
        helper.make_node("ReduceSum", ["t"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "limit"], ["more"]),
    ]
    body = graph(nodes, state, "more", "t")
    body.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    node = helper.make_node("Loop", ["", "", "x"], ["y"], body=body)
    for limit, factor in ((1.0, 2), (100.0, 64), (1e6, 2**19)):
        inputs = {"x": X, "limit": np.array(limit, "float32")}
        model = model_of([node], inputs, {"y": "float32"})
        assert_native(model, inputs, tmp_path, {"y": factor * X})


def test_a_state_that_grows(tmp_path: Path) -> None:
    state = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, None)}
    body = graph([helper.make_node("Concat", ["s", "x"], ["t"], axis=0)], state, "go", "t")  # type: ignore[arg-type]
    body.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    nodes = [
        helper.make_node("Loop", ["n", "", "x"], ["long"], body=body),
        helper.make_node("Neg", ["long"], ["y"]),
    ]
    for count in (0, 4, 33):
        inputs = {"x": X, "n": np.array(count, "int64")}
        model = model_of(nodes, inputs, {"y": "float32"})
        assert_native(model, inputs, tmp_path, {"y": -np.tile(X, count + 1)})


def test_branches_of_different_shapes_and_outer_values(tmp_path: Path) -> None:
    rows = graph([helper.make_node("Concat", ["x", "x"], ["a"], axis=0)], {}, "a")
    product = graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Softmax", ["p"], ["b"], axis=-1)],
        {},
        "b",
    )
    nodes = [
        helper.make_node("If", ["large"], ["z"], then_branch=rows, else_branch=product),
        helper.make_node("ReduceMax", ["z"], ["y"], keepdims=0),
    ]
    x, w = np.arange(6, dtype="float32").reshape(2, 3), np.ones((3, 5), "float32")
    for large in (True, False):
        inputs = {"x": x, "large": np.array(large)}
        model = model_of(nodes, inputs, {"y": "float32", "z": "float32"}, {"w": w})
        wanted = np.concatenate([x, x]) if large else np.full((2, 5), 0.2, "float32")
        assert_native(model, inputs, tmp_path, {"y": wanted.max(), "z": wanted}, atol=1e-6)


def test_a_scan_of_many_steps_along_another_axis(tmp_path: Path) -> None:
    columns = np.arange(300, dtype="float32").reshape(3, 100)
    state = {"s": (TensorProto.FLOAT, [3]), "column": (TensorProto.FLOAT, [3])}
    body = graph(
        [helper.make_node("Add", ["s", "column"], ["t"]), helper.make_node("Neg", ["t"], ["u"])],
        state,
        "t",
        "u",
    )
    ways = {"scan_input_axes": [1], "scan_output_axes": [1], "scan_output_directions": [1]}
    node = helper.make_node("Scan", ["x", "columns"], ["y", "all"], body=body, num_scan_inputs=1, **ways)
    sums = X[:, None] + np.cumsum(columns, axis=1)
    inputs = {"x": X, "columns": columns}
    model = model_of([node], inputs, {"y": "float32", "all": "float32"})
    assert_native(model, inputs, tmp_path, {"y": sums[:, -1], "all": -sums[:, ::-1]})


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
