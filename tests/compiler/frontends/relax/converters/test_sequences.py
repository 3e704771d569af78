"""Sequences and optional values that are resolved at import: the values of ONNX Runtime, and no fallback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.arange(12, dtype="float32").reshape(3, 4)
CONSTANTS = {"zero": np.array(0), "one": np.array(1), "last": np.array(-1), "parts": np.array([1, 3])}


def op(kind: str, inputs: str, *outputs: str, **attributes: object) -> NodeProto:
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(kind, names, list(outputs), **attributes)


def test_rows_are_taken_apart_changed_and_stacked(tmp_path: Path) -> None:
    nodes = [
        op("SplitToSequence", "x", "rows", axis=0, keepdims=0),
        op("SequenceAt", "rows one", "second"),
        op("SequenceErase", "rows zero", "fewer"),
        op("SequenceInsert", "fewer second zero", "more"),
        op("SequenceLength", "more", "count"),
        op("ConcatFromSequence", "more", "y", axis=-1, new_axis=1),
    ]
    model = model_of(nodes, {"x": X}, {"y": "float32", "count": "int64"}, CONSTANTS)
    expected = {"y": np.stack([X[1], X[1], X[2]], axis=-1), "count": np.array(3)}
    assert_native(model, {"x": X}, tmp_path, expected)


def test_unequal_parts_are_joined_in_another_order(tmp_path: Path) -> None:
    nodes = [
        op("SplitToSequence", "x parts", "s", axis=1),
        op("SequenceAt", "s last", "b"),
        op("SequenceAt", "s zero", "a"),
        op("SequenceEmpty", "", "none"),
        op("SequenceInsert", "none b", "t"),
        op("SequenceInsert", "t a last", "u"),
        op("ConcatFromSequence", "u", "y", axis=1),
    ]
    model = model_of(nodes, {"x": X}, {"y": "float32"}, CONSTANTS)
    assert_native(model, {"x": X}, tmp_path, {"y": np.concatenate([X[:, :1], X[:, 1:]], 1)})


def test_a_scalar_split_leaves_a_smaller_last_part(tmp_path: Path) -> None:
    nodes = [op("SplitToSequence", "x two", "s", axis=0), op("SequenceAt", "s last", "y")]
    model = model_of(nodes, {"x": X}, {"y": "float32"}, {**CONSTANTS, "two": np.array(2)})
    assert_native(model, {"x": X}, tmp_path, {"y": X[2:]})


def test_a_map_over_a_sequence(tmp_path: Path) -> None:
    given = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
    ]
    made = [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)]
    body = helper.make_graph([op("Add", "a b", "c")], "body", given, made)
    nodes = [
        op("SplitToSequence", "x", "s", axis=0, keepdims=0),
        op("SequenceMap", "s bias", "t", body=body),
        op("ConcatFromSequence", "t", "y", axis=0, new_axis=1),
    ]
    bias = np.array([1, 2, 3, 4], "float32")
    model = model_of(nodes, {"x": X}, {"y": "float32"}, {"bias": bias})
    assert_native(model, {"x": X}, tmp_path, {"y": X + bias})


def test_optional_values_with_and_without_an_element(tmp_path: Path) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [3, 4])
    nodes = [
        op("Optional", "x", "full"),
        op("Optional", "", "empty", type=kind),
        op("OptionalHasElement", "full", "yes"),
        op("OptionalHasElement", "empty", "no"),
        op("OptionalGetElement", "full", "z"),
        op("Neg", "z", "y"),
    ]
    model = model_of(nodes, {"x": X}, {"y": "float32", "yes": "bool", "no": "bool"})
    expected = {"y": -X, "yes": np.array(True), "no": np.array(False)}
    assert_native(model, {"x": X}, tmp_path, expected)
