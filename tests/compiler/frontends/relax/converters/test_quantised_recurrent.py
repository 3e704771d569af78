"""LSTMs that ONNX Runtime's dynamic quantiser wrote, natively compiled, against ONNX Runtime on one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build, model_of

STEPS, INPUTS = 6, 9


def quantised(folder: Path, batch: int, hidden: int, lengths: list[int] | None, **how: Any) -> Path:
    """A layer with integer weights, and the file that has it."""
    direction = how.pop("direction", "forward")
    rng, ways = np.random.default_rng(3), 2 if direction == "bidirectional" else 1
    weights = {
        "w": (rng.standard_normal((ways, 4 * hidden, INPUTS)) / 3).astype("f4"),
        "r": (rng.standard_normal((ways, 4 * hidden, hidden)) / np.sqrt(hidden)).astype("f4"),
        "b": rng.standard_normal((ways, 8 * hidden)).astype("f4"),
    }
    if lengths is not None:
        weights["n"] = np.array(lengths, "int32")
    node = helper.make_node("LSTM", ["x", *weights], ["y", "h", "c"], hidden_size=hidden, direction=direction)
    real, stored = folder / "real.onnx", folder / "bytes.onnx"
    onnx.save(model_of([node], {"x": [STEPS, batch, INPUTS]}, ["y", "h", "c"], weights), real)
    quantize_dynamic(real, stored, **how)
    assert [one.op_type for one in onnx.load(stored).graph.node] == ["DynamicQuantizeLSTM"]
    return stored


@pytest.mark.parametrize(
    ("batch", "hidden", "lengths", "how"),
    [
        (2, 20, None, {"weight_type": QuantType.QInt8, "per_channel": True, "direction": "reverse"}),
        (3, 16, [6, 3, 4], {"weight_type": QuantType.QUInt8, "direction": "bidirectional"}),
    ],
    ids=["channels-reverse", "unsigned-lengths-both"],
)
def test_layers_of_the_dynamic_quantiser(
    batch: int, hidden: int, lengths: list[int] | None, how: dict[str, Any], tmp_path: Path
) -> None:
    model = quantised(tmp_path, batch, hidden, lengths, **how)
    x = (2 * np.random.default_rng(4).standard_normal((STEPS, batch, INPUTS))).astype("f4")
    one = ort.SessionOptions()
    one.intra_op_num_threads = 1  # on several, rows of a batch are rounded in groups
    wanted = ort.InferenceSession(str(model), one).run(None, {"x": x})
    _, artifact = build(model, tmp_path, CompileOptions(tune="none", threads=1, fallback=False))
    with rt.load(artifact, threads=1) as loaded:
        made = loaded.run({"x": x})
    for name, theirs in zip("yhc", wanted, strict=True):
        np.testing.assert_allclose(made[name], theirs, rtol=0, atol=3e-6, err_msg=name)
