"""Operators without a converter are replaced by their definition in the standard, and no others."""

from __future__ import annotations

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgec.compiler.frontends.onnx.functions import expand
from edgec.compiler.frontends.onnx.shape_inference import infer_shapes
from tests.compiler.onnx_models import model_of


def test_only_what_has_no_converter_is_expanded() -> None:
    nodes = [
        helper.make_node("HardSwish", ["x"], ["a"]),
        helper.make_node("Mish", ["a"], ["y"]),
    ]
    before = infer_shapes(model_of(nodes, {"x": [5]}, ["y"], opset=18))
    after = expand(before, lambda node: node.op_type != "Mish")
    assert after is not None
    kinds = [node.op_type for node in after.graph.node]
    assert "Mish" not in kinds
    assert kinds[0] == "HardSwish"
    x = {"x": np.linspace(-3, 3, 5, dtype="float32")}
    wanted, got = (ReferenceEvaluator(m).run(None, x)[0] for m in (before, after))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_nothing_to_replace() -> None:
    model = infer_shapes(model_of([helper.make_node("Mish", ["x"], ["y"])], {"x": [5]}, ["y"], opset=18))
    assert expand(model, lambda node: True) is None
    # no definition either: left to the importer, which names it
    odd = model_of([helper.make_node("Warp", ["x"], ["y"], domain="acme")], {"x": [5]}, ["y"])
    assert expand(odd, lambda node: False) is None
