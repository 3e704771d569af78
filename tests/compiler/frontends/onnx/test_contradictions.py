"""A model whose types or shapes contradict the standard is an error that names the node and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import NodeProto, TensorProto, helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.options import CompileOptions
from tests.compiler.small_models import model_of, save

INTS = TensorProto.INT64


def node(op_type: str, *inputs: str, **attrs: Any) -> NodeProto:
    return helper.make_node(op_type, list(inputs), ["y"], name="here", **attrs)


CASES: dict[str, tuple[NodeProto, dict[str, Any], str]] = {
    "a product's shapes": (node("Gemm", "a", "b"), {"a": [2, 3], "b": [4, 5]}, "4 and 3"),
    "a product of more axes": (node("MatMul", "a", "b"), {"a": [2, 3], "b": [4, 5]}, "Incompatible"),
    "real indices": (node("Gather", "a", "b"), {"a": [2, 3], "b": [2]}, "indices.*float"),
    "two types": (node("Add", "a", "b"), {"a": [3], "b": (INTS, [3])}, "int64"),
    "sizes that do not broadcast": (node("Add", "a", "b"), {"a": [2, 3], "b": [4]}, "Incompatible"),
    "an axis beyond the rank": (node("Softmax", "a", axis=5), {"a": [2, 3]}, "axis"),
    "one input too many": (node("Relu", "a", "a"), {"a": [2, 3]}, "input size 2"),
    "a condition of numbers": (node("Where", "a", "a", "a"), {"a": [2, 3]}, "condition"),
    "negative pads": (
        node("Conv", "a", "b", pads=[-1, 0, 0, 0]),
        {"a": [1, 3, 5, 5], "b": [4, 3, 3, 3]},
        "pads",
    ),
    # what the standard's inference does not see, and every run would
    "channels": (node("Conv", "a", "b"), {"a": [1, 3, 5, 5], "b": [4, 2, 3, 3]}, "channels"),
    "weights of a layer": (
        node("LSTM", "a", "w", "r", hidden_size=4),
        {"a": [2, 1, 3], "w": [1, 16, 5], "r": [1, 16, 4]},
        "Input W",
    ),
    "a scale's length": (node("LayerNormalization", "a", "s"), {"a": [1, 3, 4], "s": [5]}, "Scale"),
    "more indices than axes": (
        node("ScatterND", "a", "i", "u"),
        {"a": [1, 3], "i": (INTS, [4, 4]), "u": [4]},
        "indices",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_contradicts_the_standard(name: str, tmp_path: Path) -> None:
    made, inputs, why = CASES[name]
    path = save(model_of([made], inputs, ["y"]), tmp_path)
    with pytest.raises(ModelError, match=f"(?s){made.op_type} 'here'.*{why}") as caught:
        to_relax(load_source(path, CompileOptions()), fallback_allowed=True)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Mend that node or export the model again")
