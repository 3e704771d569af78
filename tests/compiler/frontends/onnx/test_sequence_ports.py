"""Sequences among inputs and outputs: they become tensors with numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build, save

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def _model(
    nodes: list, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], **constants: object
) -> ModelProto:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "sequences", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _sequence(name: str, shape: list | None = None) -> ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, FLOAT, shape)


def test_elements_of_different_sizes_go_in_and_come_out(tmp_path: Path) -> None:
    """The sizes share a name in the model, which binds only within an element."""
    model = _model(
        [
            helper.make_node("SequenceInsert", ["s", "x"], ["longer"]),
            helper.make_node("ConcatFromSequence", ["longer"], ["joined"], axis=0),
            helper.make_node("SplitToSequence", ["x", "two"], ["parts"], axis=0),
        ],
        [_sequence("s", ["N", 2]), helper.make_tensor_value_info("x", FLOAT, ["N", 2])],
        [_sequence("longer"), _sequence("parts"), helper.make_tensor_value_info("joined", FLOAT, None)],
        two=np.int64(2),
    )
    arrays = {"s.0": np.ones((1, 2), "f"), "s.1": np.full((3, 2), 2, "f"), "x": np.full((3, 2), 3, "f")}
    options = CompileOptions(
        tune="none", threads=1, fallback=False, input_shapes={name: a.shape for name, a in arrays.items()}
    )
    _, artifact = build(save(model, tmp_path), tmp_path, options)
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run(arrays)
    wanted = dict(zip(("longer.0", "longer.1", "longer.2"), arrays.values(), strict=True))
    wanted |= {"parts.0": arrays["x"][:2], "parts.1": arrays["x"][2:]}
    wanted["joined"] = np.concatenate(list(arrays.values()))
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value)


def test_what_a_counting_loop_collects(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["goes_on"]),
            helper.make_node("Cast", ["i"], ["number"], to=FLOAT),
            helper.make_node("Mul", ["x", "number"], ["y"]),
            helper.make_node("SequenceInsert", ["before", "y"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            _sequence("before"),
        ],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []), _sequence("after")],
    )
    nodes = [
        helper.make_node("SequenceEmpty", [], ["empty"], dtype=FLOAT),
        helper.make_node("Loop", ["rounds", "", "empty"], ["out"], body=body),
    ]
    model = _model(
        nodes, [helper.make_tensor_value_info("x", FLOAT, [2])], [_sequence("out")], rounds=np.int64(3)
    )
    x = np.array([1.5, -2.0], "f")
    _, artifact = build(save(model, tmp_path), tmp_path, CompileOptions(tune="none", threads=1))
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run({"x": x})
    assert list(got) == ["out.0", "out.1", "out.2"]
    for k in range(3):
        np.testing.assert_array_equal(got[f"out.{k}"], x * k)


def test_one_element_is_chosen_where_nothing_is_said(tmp_path: Path) -> None:
    node = helper.make_node("SequenceLength", ["s"], ["y"])
    model = _model([node], [_sequence("s", [2, 3])], [helper.make_tensor_value_info("y", INT64, [])])
    source = load_source(save(model, tmp_path), CompileOptions(tune="none"))
    assert [port.name for port in source.inputs] == ["s.0"]
    assert "--input s.0" in source.chosen[0]


def test_an_output_whose_length_only_shows_at_run_time_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("SplitToSequence", ["x", "size"], ["s"])
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, [6, 2]),
        helper.make_tensor_value_info("size", INT64, []),
    ]
    with pytest.raises(
        ModelError, match=r"'s' is a sequence that has a length.*\nJoin it with ConcatFromSequence"
    ):
        load_source(save(_model([node], inputs, [_sequence("s")]), tmp_path), CompileOptions(tune="none"))
