"""TensorFlow Lite files beside LiteRT, real ones and damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.compiler.errors import ModelError, UnsupportedModel
from edgec.compiler.frontends.interface import Loaded
from edgec.compiler.frontends.onnx.prepare import ports_of
from edgec.compiler.options import CompileOptions
from tests.compiler.exact import exact_outputs
from tests.compiler.onnx_models import build

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from edgec.compiler.frontends.tflite.flat import read
from edgec.compiler.frontends.tflite.load import load, to_onnx

OPTIONS = CompileOptions(tune="none", threads=1)
EXACT = [  # fp32: rounding of sums only; integers: the same number everywhere
    "mlperf_tiny/ad01_fp32.tflite",
    "mlperf_tiny/ad01_int8.tflite",
    "mlperf_tiny/ic_resnet8_float.tflite",
    "mlperf_tiny/kws_ref_model_int8.tflite",
    "tflm/hello_world_float.tflite",
    "tflm/hello_world_int8.tflite",
    "tflm/micro_speech_int8.tflite",
    "tflm/mnist_lstm_float.tflite",
    "tflm/mnist_lstm_int8.tflite",
    "vision/mobilenet_v1_025_224_float.tflite",
    "vision/mobilenet_v1_025_224_quant.tflite",
    "vision/ultraface_rfb_320_nopost.tflite",
    "audio/dtln_quant_1.tflite",
    "audio/oww_computer_v2.tflite",
]
# A value on a rounding edge may fall on either side; LiteRT's own kernels are as far apart from each other.
ROUNDED = [
    "mlperf_tiny/ic_resnet8_int8.tflite",
    "mlperf_tiny/kws_ref_model_float32.tflite",
    "vision/mobilenet_v2_100_224_quant.tflite",
    "audio/yamnet_521.tflite",
]
# The detector's own kernels disagree about what it sees in noise. Measured: 0.016 in boxes (of 1), 0.012 in scores.
NEAR = {"vision/ssd_mobilenet_v1_coco_quant.tflite": 0.02}


def random_inputs(source: Loaded, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = {}
    for port in ports_of(source.model.graph.input):
        if port.dtype == "float32":
            inputs[port.name] = rng.standard_normal(port.shape).astype(np.float32)
        else:
            low = -128 if port.dtype == "int8" else 0
            inputs[port.name] = rng.integers(low, low + 256, port.shape).astype(port.dtype)
    return inputs


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED, *NEAR])
def test_the_importer_means_what_litert_does(name: str, shared_data: Path) -> None:
    loaded = load(shared_data / "tflite" / name, OPTIONS)
    assert loaded.original is not None
    inputs = random_inputs(loaded, 0)
    expected = loaded.original.run(inputs)
    got = exact_outputs(loaded.model, inputs)
    spread = loaded.original.spread(inputs)
    for output, reference in expected.items():
        assert got[output].dtype == reference.dtype
        a, b = reference.astype(np.float64), got[output].astype(np.float64)
        whole = reference.dtype.kind in "iu"
        if name in EXACT:
            tolerance = 1.0 if whole else 1e-5 * max(1.0, float(np.abs(a).max()))
        else:
            tolerance = NEAR.get(name, max(2 * spread[output], 1e-6))
        assert np.abs(a - b).max() <= tolerance


@pytest.mark.parametrize("name", ["kws_ref_model_int8.tflite", "ic_resnet8_float.tflite"])
def test_compiled_code_does_too(name: str, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "tflite" / "mlperf_tiny" / name
    imported, artifact = build(path, tmp_path, OPTIONS)
    (port,) = imported.source.inputs
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, port.shape) if port.dtype == "int8" else rng.random(port.shape)
    inputs = {port.name: x.astype(port.dtype)}
    assert imported.source.original is not None
    expected = imported.source.original.run(inputs)
    with rt.load(artifact, threads=1) as model:
        got = model.run(inputs)
    for output, reference in expected.items():
        step = 1.0 if port.dtype == "int8" else 1e-5
        assert np.abs(reference.astype(np.float64) - got[output].astype(np.float64)).max() <= step


def test_custom_operators_are_named(shared_data: Path) -> None:
    path = shared_data / "tflite" / "tflm" / "audio_preprocessor_int8.tflite"
    with pytest.raises(UnsupportedModel) as refusal:
        load(path, OPTIONS)
    assert {"SignalWindow", "SignalRfft", "SignalPCAN"} <= {node.op_type for node in refusal.value.nodes}


@settings(max_examples=120, deadline=4000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_refused(shared_data: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["hello_world_int8.tflite", "micro_speech_int8.tflite"]))
    path = shared_data / "tflite" / "tflm" / name
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(8, len(content)))])
    try:
        model = to_onnx(read(damaged, path), path)
    except (ModelError, UnsupportedModel):
        return
    assert model.graph.output
