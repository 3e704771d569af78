"""A kernel that computes wrongly is found by its node, and a failing model is cut down to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgec.compiler.errors import CompilerError
from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify import reduce
from edgec.compiler.verify.layers import compare_layers, open_up
from edgec.compiler.verify.reduce import Failure, reduce_model
from edgec.targets import detect
from tests.compiler.small_models import model_of, save

OPTIONS = CompileOptions(tune="none", threads=1)
X = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Five nodes in a row, of which a compile can make one kernel."""
    nodes = [
        helper.make_node("Abs", ["x"], ["a"], name="first"),
        helper.make_node("Sqrt", ["a"], ["b"], name="second"),
        helper.make_node("Sin", ["b"], ["c"], name="third"),
        helper.make_node("Exp", ["c"], ["d"], name="fourth"),
        helper.make_node("Tanh", ["d"], ["y"], name="fifth"),
    ]
    return save(model_of(nodes, {"x": [2, 4]}, ["y"]), tmp_path)


def test_every_value_is_an_output_with_its_type(path: Path) -> None:
    opened = open_up(load_source(path, OPTIONS))
    assert [port.name for port in opened.outputs] == ["a", "b", "c", "d", "y"]
    assert {port.shape for port in opened.outputs} == {(2, 4)}
    values = ReferenceEvaluator(opened.model).run(None, {"x": X})
    np.testing.assert_allclose(values[1], np.sqrt(np.abs(X)), rtol=1e-6)


def test_layers_are_compared_in_the_order_of_the_graph(path: Path) -> None:
    layers = compare_layers(path, detect(), OPTIONS, {"x": X})
    assert [layer.node for layer in layers] == ["first", "second", "third", "fourth", "fifth"]
    assert [layer.op_type for layer in layers] == ["Abs", "Sqrt", "Sin", "Exp", "Tanh"]
    assert all(layer.error.ok for layer in layers)


def test_a_model_is_cut_down_to_the_nodes_that_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any piece with the third and the fourth node fails."""
    tried: list[tuple[str, ...]] = []

    def failure(content: bytes, inputs, target, options) -> Failure | None:
        evaluator = ReferenceEvaluator(onnx.load_model_from_string(content))
        evaluator.run(None, dict(inputs))  # pieces are whole models, and their inputs are at hand
        kinds = tuple(node.op_type for node in onnx.load_model_from_string(content).graph.node)
        tried.append(kinds)
        return Failure("VerificationFailed", "off") if {"Sin", "Exp"} <= set(kinds) else None

    monkeypatch.setattr(reduce, "_failure", failure)
    reduced = reduce_model(path, detect(), OPTIONS, {"x": X})
    assert reduced.nodes == ("third", "fourth")
    assert [node.op_type for node in onnx.load_model_from_string(reduced.model).graph.node] == ["Sin", "Exp"]
    np.testing.assert_allclose(reduced.inputs["b"], np.sqrt(np.abs(X)), rtol=1e-5)
    assert reduced.tries == len(tried) == len(set(tried))


def test_another_kind_of_failure_is_not_mistaken_for_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failure(content: bytes, inputs, target, options) -> Failure | None:
        kinds = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
        return Failure("VerificationFailed" if len(kinds) > 3 else "UnsupportedModel", "") if kinds else None

    monkeypatch.setattr(reduce, "_failure", failure)
    assert len(reduce_model(path, detect(), OPTIONS, {"x": X}).nodes) == 4


def test_a_model_that_matches_has_nothing_to_reduce(path: Path) -> None:
    with pytest.raises(CompilerError, match="there is nothing to reduce"):
        reduce_model(path, detect(), OPTIONS, {"x": X})
