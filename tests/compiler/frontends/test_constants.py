"""Inputs that the card sets once and for all."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends.load import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect
from tests.compiler.onnx_models import save


def scaled() -> ModelProto:
    """`y = x * rate`, or `-x` for a rate of 8; and `z`, which has free sizes."""
    then = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["a"])], "then", [], [helper.make_tensor_value_info("a", 1, [1, 3])]
    )
    other = helper.make_graph(
        [helper.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT), helper.make_node("Mul", ["x", "r"], ["b"])],
        "else", [], [helper.make_tensor_value_info("b", 1, [1, 3])],
    )  # fmt: skip
    eight = helper.make_tensor("eight", TensorProto.INT64, [], [8])
    nodes = [
        helper.make_node("Equal", ["rate", "eight"], ["is8"]),
        helper.make_node("If", ["is8"], ["w"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["w", "z"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3]),
        helper.make_tensor_value_info("rate", TensorProto.INT64, []),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, "n"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [eight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_card_sets_an_input_and_decides_a_branch(tmp_path: Path) -> None:
    path = save(scaled(), tmp_path)
    card = msgspec.convert({"constants": {"rate": 3}, "input": {"kind": "tensor"}}, rt.ModelCard)
    options = CompileOptions(tune="none", threads=1, input_shapes={"z": (1, 3)})
    result = compile_model(path, detect(), options, card=card, output=tmp_path / "a.edge")
    assert [spec.name for spec in result.config.inputs] == ["x", "z"]
    assert result.config.provenance.options["constants"] == {"rate": 3}
    artifact = rt.Artifact.open(result.artifact)
    stored = json.loads(artifact.read(artifact.manifest.config))
    assert not {"constants", "states"} & set(stored["pipeline"]), (
        "an older edgec refuses keys that it does not know"
    )
    with rt.load(result.artifact, threads=1) as model:
        assert model.card is not None
        assert model.card.constants is msgspec.UNSET
        x = np.array([[1, 2, 3]], np.float32)
        assert model.run({"x": x, "z": 0 * x})["y"].tolist() == [[3, 6, 9]]


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"gain": 1}, "the card sets the input 'gain', which the model lacks; it has x, rate, z"),
        ({"z": 1}, "the card sets the input 'z' to 1, but its sizes are free"),
    ],
)
def test_constants_that_do_not_fit_are_refused(
    constants: dict[str, float], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputShapeError, match=message):
        load_source(save(scaled(), tmp_path), CompileOptions(constants=constants))
