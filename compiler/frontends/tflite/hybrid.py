"""Products of float32 activations with constant int8 weights (dynamic range quantisation), in integers.

LiteRT rounds each row of the activations to a grid of its own; so do these, and multiply integers:

    sum((x - X) * w) = sum(x * w) - X * sum(w)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.cells import on_own_grid
from edgec.compiler.frontends.tflite.graph import Writer, grid

UNSIGNED = np.array(128, np.float32)  # from int8 to uint8


def is_integer(g: Writer, index: int) -> bool:
    """Whether weights are constant, of int8, and symmetric."""
    tensor = g.tensor(index)
    known = tensor.data is not None and tensor.data.dtype == np.int8 and tensor.quantisation is not None
    return known and not grid(tensor).zero_point.any()


def product(g: Writer, x: str, index: int) -> str:
    """Rows times the weights `[outputs, inputs]`, as real numbers."""
    weights, scales = g.data(index), grid(g.tensor(index)).scale
    codes, scale, point = _bytes(g, x, [-1])
    sums = g.op("MatMulInteger", codes, np.ascontiguousarray(weights.T))
    columns = weights.sum(axis=1, dtype=np.int32)
    return _real(g, sums, g.op("Mul", point, columns), scale, scales.reshape(-1 if scales.size > 1 else ()))


def convolution(
    g: Writer, x: str, index: int, order: tuple[int, ...], axes: list[int], attrs: dict[str, Any]
) -> str:
    """A convolution of an image `[1, channels, height, width]`, or of each of its points, as real numbers.

    Args:
        g: the graph.
        x: the image.
        index: the weights.
        order: brings their axes into the order of ONNX.
        axes: those that share a grid: all but the first, or the channels alone of a convolution of points.
        attrs: of the convolution.
    """
    weights = np.ascontiguousarray(g.data(index).transpose(order))
    scales = grid(g.tensor(index)).scale
    codes, scale, point = _bytes(g, x, axes)
    channels = scales.reshape((1, -1, 1, 1) if scales.size > 1 else ())
    if len(axes) == 1:
        sums = g.op("ConvInteger", codes, weights, **attrs)
        own = weights.sum(axis=(1, 2, 3), dtype=np.int32).reshape(1, -1, 1, 1)
        return _real(g, sums, g.op("Mul", point, own), scale, channels)
    flat = g.op("Reshape", g.op("Cast", point, to=TensorProto.UINT8), np.zeros(0, np.int64))
    sums = g.op("ConvInteger", codes, weights, flat, **attrs)
    return _real(g, sums, None, scale, channels)


def _bytes(g: Writer, x: str, axes: list[int]) -> tuple[str, str, str]:
    """Activations as uint8, their scale, and their zero point as int32."""
    stored, scale, zero_point = on_own_grid(g, x, axes)
    codes = g.op("Cast", g.op("Add", stored, UNSIGNED), to=TensorProto.UINT8)
    return codes, scale, g.op("Cast", g.op("Add", zero_point, UNSIGNED), to=TensorProto.INT32)


def _real(g: Writer, sums: str, less: str | None, scale: str, scales: np.ndarray) -> str:
    whole = sums if less is None else g.op("Sub", sums, less)
    factor = g.op("Mul", scale, scales.astype(np.float32))
    return str(g.op("Mul", g.op("Cast", whole, to=TensorProto.FLOAT), factor))
