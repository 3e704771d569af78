"""Inputs whose sizes a caller chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

import edgec.runtime as rt
from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends.tflite.load import load
from edgec.compiler.options import CompileOptions
from tests.compiler.frontends.tflite.models import Cases
from tests.compiler.onnx_models import build


def spectrum(folder: Path, length: int, free: tuple[int, ...] = (0, 1)) -> Path:
    """A model as a spectrogram's front end: frames of a sound of any length, by a convolution."""
    cases = Cases()
    rng = np.random.default_rng(0)
    x = cases.input([1, length], free=free, name="sound")
    cases.fed[0] = np.zeros((1, length), "float32")
    wide = cases.op("EXPAND_DIMS", [x, cases.constant(np.array(1, np.int32))], returned=False)
    wide = cases.op("EXPAND_DIMS", [wide, cases.constant(np.array(-1, np.int32))], returned=False)
    weights = cases.constant(rng.standard_normal((4, 1, 16, 1)).astype("float32"))
    conv = schema.Conv2DOptionsT()
    conv.padding, conv.strideH, conv.strideW = schema.Padding.VALID, 1, 8
    frames = cases.op(
        "CONV_2D", [wide, weights, cases.constant(np.zeros(4, "float32"))], "float32", conv, returned=False
    )
    cases.op(
        "REDUCE_MAX", [frames, cases.constant(np.array([1, 2], np.int32))], options=schema.ReducerOptionsT()
    )
    squeeze = schema.SqueezeOptionsT()
    squeeze.squeezeDims = [1]
    cases.op("SQUEEZE", [frames], options=squeeze)
    for tensor in cases.tensors:
        if not tensor.buffer and tensor.shapeSignature is None:
            tensor.shapeSignature = [-1]
    return cases.save(folder, shaped=False)


@pytest.mark.parametrize("shape", [(1, 160), (1, 1280), (3, 64)])
def test_an_artifact_for_the_size_that_is_asked_for(shape: tuple[int, int], tmp_path: Path) -> None:
    options = CompileOptions(tune="none", threads=1, fallback=False, input_shapes={"sound": shape})
    imported, artifact = build(spectrum(tmp_path, 16), tmp_path, options)
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    assert imported.source.original is not None
    expected = imported.source.original.run({"sound": x})
    with rt.load(artifact, threads=1) as model:
        got = model.run({"sound": x})
    for name, wanted in expected.items():
        assert got[name].shape == wanted.shape
        np.testing.assert_allclose(got[name], wanted, atol=1e-5)


def test_a_size_that_the_file_cannot_have_says_which_is_free(tmp_path: Path) -> None:
    with pytest.raises(InputShapeError, match=r"--input sound:\?x\?"):
        load(spectrum(tmp_path, 1), CompileOptions())


def test_a_size_that_does_not_fit(tmp_path: Path) -> None:
    path = spectrum(tmp_path, 32, free=(1,))
    for shape, told in (
        ((2, 64), r"is 1x\? in the model; 2x64 does not fit"),
        ((1, 4, 16), "does not fit"),
        ((1, 3), "cannot be computed"),
    ):
        with pytest.raises(InputShapeError, match=told):
            load(path, CompileOptions(input_shapes={"sound": shape}))
