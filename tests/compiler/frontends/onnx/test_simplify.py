"""Before and after simplification: fewer nodes, the same numbers, and every value traced to its source node."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from edgec.compiler.frontends.onnx import simplify as stage
from edgec.compiler.frontends.onnx.equivalence import computes_alike, is_close
from edgec.compiler.frontends.onnx.origins import trace_origins
from edgec.compiler.frontends.onnx.ort_session import outputs_of
from edgec.compiler.frontends.onnx.simplify import simplify
from tests.compiler.onnx_models import model_of

RNG = np.random.default_rng(21)


def convolutional() -> ModelProto:
    nodes = [
        helper.make_node("Identity", ["x"], ["i"], name="detour"),
        helper.make_node("Conv", ["i", "w"], ["c"], kernel_shape=[3, 3], name="conv"),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="norm"),
        helper.make_node("Add", ["one", "one"], ["two"], name="constant"),
        helper.make_node("Mul", ["n", "two"], ["y"], name="double"),
    ]
    channel = {name: RNG.random(4).astype("float32") + 0.5 for name in "gbmv"}
    constants = {"w": RNG.standard_normal((4, 2, 3, 3)).astype("float32"), **channel}
    constants["one"] = np.array(1, "float32")
    return model_of(nodes, {"x": [1, 2, 6, 6]}, ["y"], constants)


def test_detours_constants_and_batch_norms_go() -> None:
    before = convolutional()
    after = simplify(before)
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    x = {"x": RNG.standard_normal((1, 2, 6, 6)).astype("float32")}
    (wanted,), (got,) = outputs_of(before, x), outputs_of(after, x)  # type: ignore[misc]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    sources = {name: i for i, node in enumerate(before.graph.node) for name in node.output}
    names = {node.name: i for i, node in enumerate(before.graph.node)}
    origins = trace_origins(after, sources, names)
    (convolution,) = after.graph.node
    assert before.graph.node[origins[convolution.output[0]]].name == "double"  # it makes the last one's value


def test_a_form_that_computes_otherwise_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convolutional()
    other = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 2, 6, 6]}, ["y"])
    monkeypatch.setattr(stage, "fold", lambda candidate: other)
    assert simplify(model) is model


def test_what_counts_as_the_same() -> None:
    a = np.array([1.0, -1.0, np.inf, np.nan], "float32")
    assert is_close(a, a * np.float32(1.001))
    assert not is_close(a, a * np.float32(1.1))
    assert not is_close(a, a.astype("float64"))
    assert not is_close(a, a[:3])
    assert not is_close(np.array([1, 2]), np.array([1, 3]))
    relu = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, ["y"])
    negated = model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": [4]}, ["y"])
    absolute = model_of([helper.make_node("Abs", ["x"], ["y"])], {"x": [4]}, ["y"])
    assert computes_alike(relu, absolute)  # on made-up inputs, which are positive
    assert not computes_alike(relu, negated)
