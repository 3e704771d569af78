"""A kernel that computes wrongly is found by its node, and a failing model is cut down to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from edgec.compiler.errors import CompilerError
from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify import reduce
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.layers import compare_layers, open_up
from edgec.compiler.verify.reduce import reduce_model
from edgec.compiler.verify.trial import Failure, Request, Trials, attempt
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


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """The inputs on which the model fails."""
    np.savez(tmp_path / "values.npz", x=X)
    return tmp_path / "values.npz"


@dataclass
class Judged(Trials):
    """Trials that compile nothing: `judge` says how a model fails on its inputs."""

    judge: Callable[[ModelProto, Arrays], Failure | None]

    def __enter__(self) -> Judged:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, request: Request) -> Failure | None:
        if request.values:
            return attempt(request)
        with np.load(request.inputs) as file:  # the inputs of every piece are at hand
            return self.judge(onnx.load(request.model), dict(file))


def kinds_of(model: ModelProto) -> tuple[str, ...]:
    return tuple(node.op_type for node in model.graph.node)


def test_a_model_is_cut_down_to_the_nodes_that_fail(
    path: Path, values: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any piece with the third and the fourth node fails, on three columns or more."""
    tried: list[tuple[object, ...]] = []

    def judge(model: ModelProto, inputs: Arrays) -> Failure | None:
        result = ReferenceEvaluator(model).run(None, inputs)[-1]  # pieces are whole models
        tried.append((kinds_of(model), result.shape))
        wrong = {"Sin", "Exp"} <= set(kinds_of(model)) and result.shape[1] >= 3
        return Failure("VerificationFailed", "off", "off") if wrong else None

    monkeypatch.setattr(reduce, "Trials", lambda: Judged(judge))
    reduced = reduce_model(path, "host", OPTIONS, values)
    assert reduced.nodes == ("third", "fourth")
    assert kinds_of(onnx.load_model_from_string(reduced.model)) == ("Sin", "Exp")
    np.testing.assert_allclose(reduced.inputs["b"], np.sqrt(np.abs(X[:1, :3])), rtol=1e-5)
    assert reduced.failure.kind == "VerificationFailed"
    assert not reduced.exhausted
    whole, *tries = tried
    assert whole == (("Abs", "Sqrt", "Sin", "Exp", "Tanh"), (2, 4))
    assert reduced.tries == len(tries) == len(set(tries))


def test_another_kind_of_failure_is_not_mistaken_for_it(
    path: Path, values: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(model: ModelProto, inputs: Arrays) -> Failure | None:
        kind = "VerificationFailed" if len(model.graph.node) > 3 else "UnsupportedModel"
        return Failure(kind, "", kind)

    monkeypatch.setattr(reduce, "Trials", lambda: Judged(judge))
    reduced = reduce_model(path, "host", OPTIONS, values)
    assert len(reduced.nodes) == 4
    assert reduced.failure.kind == "VerificationFailed"


def test_a_model_that_matches_has_nothing_to_reduce(path: Path, values: Path) -> None:
    with pytest.raises(CompilerError, match="there is nothing to reduce"):
        reduce_model(path, "host", OPTIONS, values)
