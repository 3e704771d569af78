"""The zoo's convolutional networks in int8, as ONNX Runtime's own static flow makes them: one file for all runtimes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Random weights: what is compared is speed, and each runtime's error against the others.
QUANTISED = ("resnet18", "resnet50", "mobilenetv2", "efficientnet-lite0", "squeezenet1.1")
SAMPLES = 4


def quantise(model: Path, inputs: Mapping[str, npt.NDArray[Any]], output: Path) -> Path:
    """Write `model` with quantised convolutions and products (QDQ, weights by channel) to `output`.

    Args:
        inputs: an input of the right shapes; calibration runs on numbers like these.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rng = np.random.default_rng(0)
    samples = [
        {name: (a * rng.uniform(0.5, 1.5)).astype(a.dtype) for name, a in inputs.items()}
        for _ in range(SAMPLES)
    ]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory(prefix="edgec-quantise-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return output
