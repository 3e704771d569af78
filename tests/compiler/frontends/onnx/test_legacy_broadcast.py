"""Files that broadcast as before operator set 7, beside what the standard of then says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import edgec.runtime as rt
from tests.compiler.onnx_models import build, model_of, save

RNG = np.random.default_rng(4)


@pytest.mark.parametrize(
    ("attributes", "shape", "aligned"),
    [
        ({"broadcast": 1, "axis": 1}, (3,), (1, 3, 1, 1)),
        ({"broadcast": 1, "axis": 1}, (3, 4), (1, 3, 4, 1)),
        ({"broadcast": 1}, (5,), (1, 1, 1, 5)),
        ({"broadcast": 1, "axis": 0}, (2, 3, 4, 5), (2, 3, 4, 5)),
    ],
)
@pytest.mark.parametrize("operator", ["Add", "Mul"])
def test_broadcasting_by_attribute(
    operator: str,
    attributes: dict[str, int],
    shape: tuple[int, ...],
    aligned: tuple[int, ...],
    tmp_path: Path,
) -> None:
    b = RNG.standard_normal(shape).astype("float32")
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node(operator, ["r", "b"], ["y"], name="old", **attributes),
    ]
    model = model_of(nodes, {"x": [2, 3, 4, 5]}, ["y"], {"b": b}, opset=6)
    x = RNG.standard_normal((2, 3, 4, 5)).astype("float32")
    imported, artifact = build(save(model, tmp_path), tmp_path)
    assert not imported.segments
    function = np.add if operator == "Add" else np.multiply
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run({"x": x})["y"]
    np.testing.assert_allclose(got, function(np.maximum(x, 0), b.reshape(aligned)), atol=1e-6)
