"""Real files that are refused, or very old; the rest is `scripts/compile_all.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build, model_of

SHAPES = {
    "silero_vad": {"input": (1, 512)},
    "ppocrv3_en_det": {"x": (1, 3, 320, 320)},
    "bodypix": {"input": (1, 240, 320, 3)},
    "lstm_bidi_bytes": {"input": (1, 32)},
}


def test_an_operator_that_nobody_knows(shared_data: Path) -> None:
    path = shared_data / "onnx/negative/kws_dscnn_requantshift.onnx"
    with pytest.raises(UnsupportedModel, match=r"RequantShift \(ai.onnx\) at 'RequantShift_17'") as caught:
        to_relax(load_source(path, CompileOptions()), fallback_allowed=True)
    assert {node.op_type for node in caught.value.nodes} == {"RequantShift"}
    assert len(caught.value.nodes) == 10


def test_a_file_from_before_the_standard(shared_data: Path, tmp_path: Path) -> None:
    """Its convolutions add their bias by an attribute of then; written as of today it computes the same."""
    path = shared_data / "onnx/negative/superres_ir1_pytorch02.onnx"
    old = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in old.initializer}
    nodes, value = [], "x"
    for number in range(4):
        conv, bias = old.node[3 * number], old.node[3 * number + 1]
        kept = {a.name: list(a.ints) for a in conv.attribute if a.ints}
        nodes.append(helper.make_node("Conv", [value, conv.input[1], bias.input[1]], [f"c{number}"], **kept))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        value = f"r{number}"
    nodes[-1] = helper.make_node("DepthToSpace", ["c3"], ["y"], blocksize=3, mode="CRD")
    today = model_of(
        nodes, {"x": [1, 1, 224, 224]}, ["y"], {k: v for k, v in stored.items() if v.dtype == "f"}
    )
    x = np.random.default_rng(0).random((1, 1, 224, 224), "float32")
    (expected,) = ort.InferenceSession(today.SerializeToString()).run(None, {"x": x})
    imported, artifact = build(path, tmp_path)
    assert not imported.segments
    with rt.load(artifact, threads=1) as loaded:
        np.testing.assert_allclose(loaded.run({"1": x})["27"], expected, atol=1e-5)


@pytest.mark.long
def test_every_other_real_model_is_imported_whole(shared_data: Path) -> None:
    for path in sorted((shared_data / "onnx").rglob("*.onnx")):
        if path.stem == "kws_dscnn_requantshift":
            continue
        shapes = next((given for part, given in SHAPES.items() if part in path.name), {})
        imported = to_relax(load_source(path, CompileOptions(input_shapes=shapes)))
        assert not imported.segments, path.name
