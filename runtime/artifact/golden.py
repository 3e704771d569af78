"""Golden outputs: a fixed input for any model, and a digest of the outputs, by which a device checks its own results.

The compiler records the outputs of the compiled model, computed during verification, in the artifact's evidence
(`GOLDEN_KEY`); the agent compares before it activates an update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.runtime.artifact.config import TensorSpec

GOLDEN_KEY = "golden"
_SAMPLES = 64
_TOLERANCE = 0.01
"""Relative to the output's largest value: thread counts and vector widths change the order of summation."""
_STRAYS = 0.05
"""Share of values that may differ more: a rounding error can tip a comparison or a quantised step."""
Arrays = Mapping[str, npt.NDArray[Any]]


def golden_inputs(specs: Iterable[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    """Create inputs that fit `specs`: a ramp from 0 to 1 (uint8: to 255; other integers: zeros)."""
    inputs = {}
    for spec in specs:
        count = int(np.prod(spec.shape))
        ramp = np.linspace(0, 1, count, dtype=np.float64).reshape(spec.shape)
        whole = np.issubdtype(np.dtype(spec.dtype), np.integer)
        inputs[spec.name] = (ramp * 255 if spec.dtype == "uint8" else ramp * 0 if whole else ramp).astype(
            spec.dtype
        )
    return inputs


def describe(outputs: Arrays) -> dict[str, Any] | None:
    """Summarise outputs as JSON: their shapes and up to 64 evenly spaced values of each.

    Returns None when a value is not finite, because such outputs prove nothing.
    """
    described = []
    for name, array in outputs.items():
        numbers = np.asarray(array).astype(np.float64, copy=False).reshape(-1)
        if not np.isfinite(numbers).all():
            return None
        described.append(
            {
                "name": name,
                "shape": list(np.shape(array)),
                "values": [float(f"{value:.7g}") for value in numbers[_places(numbers.size)]],
                "largest": float(np.abs(numbers).max(initial=0.0)),
            }
        )
    return {"inputs": "ramp", "outputs": described}


def differences(golden: Mapping[str, Any], outputs: Arrays) -> list[str]:
    """Compare outputs with a summary by `describe`; returns a sentence for each output that differs.

    Raises:
        KeyError, TypeError, ValueError: the summary is malformed.
    """
    found = []
    for expected in golden["outputs"]:
        name = expected["name"]
        if name not in outputs or list(np.shape(outputs[name])) != expected["shape"]:
            found.append(f"output {name} is missing or of another shape")
            continue
        numbers = np.asarray(outputs[name]).astype(np.float64, copy=False).reshape(-1)
        values = np.asarray(expected["values"], np.float64)
        got = numbers[_places(numbers.size)]
        if got.shape != values.shape:
            raise ValueError(f"the summary of output {name} has {len(values)} values, not {len(got)}")
        limit = _TOLERANCE * max(float(expected["largest"]), 1e-6)
        # NaN exceeds every limit.
        off = ~(np.abs(got - values) <= limit)
        if off.mean() > _STRAYS if off.size else False:
            worst = float(np.nanmax(np.abs(got - values), initial=0.0))
            found.append(f"output {name}: {off.sum()} of {off.size} values are off, by up to {worst:.4g}")
    return found


def _places(size: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, max(0, size - 1), min(size, _SAMPLES)).astype(np.intp))
