"""The table of TensorFlow Lite operators, and what their converters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator, Tensor
from edgec.compiler.frontends.tflite.graph import Refused, Writer, grid, is_quantised

Convert: TypeAlias = Callable[[Writer, Operator], None]
CONVERTERS: dict[str, Convert] = {}

NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3
SAME, VALID = 0, 1
_RANGES = {RELU: (0.0, np.inf), RELU_N1_TO_1: (-1.0, 1.0), RELU6: (0.0, 6.0)}
_INTEGERS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


def converts(*kinds: str) -> Callable[[Convert], Convert]:
    """Register a converter for operators."""

    def register(function: Convert) -> Convert:
        for kind in kinds:
            CONVERTERS[kind] = function
        return function

    return register


def activated(g: Writer, name: str, activation: int, output: int) -> str:
    """The value after the activation that is fused into its operator.

    Raises:
        Refused: an activation without a converter.
    """
    if activation == NONE:
        return name
    if activation not in _RANGES:
        raise Refused(f"it has the fused activation number {activation}")
    low, high = _RANGES[activation]
    if is_quantised(g.tensor(output)):  # the grid's own limits may suffice
        first, last = grid_range(g.tensor(output))
        low = -np.inf if first >= low else low
        high = np.inf if last <= high else high
    return clipped(g, name, low, high)


def clipped(g: Writer, name: str, low: float, high: float) -> str:
    """The value clipped to limits, which may be infinite."""
    if low == -np.inf and high == np.inf:
        return name
    if low == 0 and high == np.inf:
        return str(g.op("Relu", name))
    ends = [np.float32(low) if low > -np.inf else None, np.float32(high) if high < np.inf else None]
    inputs = ["" if end is None else np.array(end) for end in ends]
    return str(g.op("Clip", name, *inputs))


def grid_range(tensor: Tensor) -> tuple[float, float]:
    """The smallest and the largest number that a quantised tensor can represent."""
    quantisation = grid(tensor)
    first, last = _INTEGERS.get(tensor.dtype, (-np.inf, np.inf))
    scale, zero = float(quantisation.scale[0]), int(quantisation.zero_point[0])
    return (first - zero) * scale, (last - zero) * scale


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME: `ceil(size / stride)` positions; an odd pad goes to the end."""
    reach = (kernel - 1) * dilation + 1
    missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return missing // 2, missing - missing // 2
