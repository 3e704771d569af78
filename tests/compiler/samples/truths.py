"""Results written out from the standard's text, for operators that the evaluator of the `onnx` package gets wrong.

It takes pads of pools for NaN and cannot combine `ceil_mode` with others, forgets the magnitude in norms of odd order,
applies the softmax of operator set 13 to older ones, and takes as many channels for LRN as there are images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.compiler.samples.sample import Array


def pooled(op: str, x: Array, attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    """AveragePool, LpPool or MaxPool (with its indices), element by element."""
    axes, sizes = x.ndim - 2, x.shape[2:]
    kernel = attrs["kernel_shape"]
    strides, dilations = attrs.get("strides") or [1] * axes, attrs.get("dilations") or [1] * axes
    spans = [_span(sizes[i], kernel[i], strides[i], dilations[i], i, attrs) for i in range(axes)]
    y = np.zeros((*x.shape[:2], *(out for out, _, _ in spans)), x.dtype)
    indices = np.zeros(y.shape, "int64")
    for place in itertools.product(*map(range, y.shape)):
        taps, counted = [], 0
        for tap in itertools.product(*map(range, kernel)):
            at = [
                p * s + t * d - begin
                for p, s, t, d, (_, begin, _) in zip(place[2:], strides, tap, dilations, spans, strict=True)
            ]
            inside = all(0 <= a < n for a, n in zip(at, sizes, strict=True))
            padded = all(-b <= a < n + e for a, n, (_, b, e) in zip(at, sizes, spans, strict=True))
            counted += padded if attrs.get("count_include_pad") else inside
            taps += [(*place[:2], *at)] if inside else []
        values = np.asarray([x[tap] for tap in taps], "float64")
        if op == "MaxPool":
            y[place] = values.max()
            best = taps[int(values.argmax())]
            order = "F" if attrs.get("storage_order") else "C"
            plane = best[0] * x.shape[1] + best[1]
            indices[place] = plane * math.prod(sizes) + np.ravel_multi_index(best[2:], sizes, order=order)  # type: ignore[call-overload]
        elif op == "AveragePool":
            y[place] = values.sum() / counted
        else:
            p = attrs.get("p", 2)
            y[place] = (np.abs(values) ** p).sum() ** (1 / p)
    return y, indices


def _span(
    size: int, kernel: int, stride: int, dilation: int, axis: int, attrs: Mapping[str, Any]
) -> tuple[int, int, int]:
    """How many windows there are along an axis, and the pads before and after it."""
    reach, auto = (kernel - 1) * dilation + 1, attrs.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        out = math.ceil(size / stride)
        total = max((out - 1) * stride + reach - size, 0)
        less, more = total // 2, total - total // 2
        return (out, less, more) if auto == "SAME_UPPER" else (out, more, less)
    axes = len(attrs["kernel_shape"])
    pads = attrs.get("pads") or [0] * (2 * axes)
    begin, end = (0, 0) if auto == "VALID" else (pads[axis], pads[axis + axes])
    rounded = math.ceil if attrs.get("ceil_mode") else math.floor
    out = rounded((size + begin + end - reach) / stride) + 1
    if (out - 1) * stride >= size + begin:
        out -= 1
    return out, begin, end


def whole_pool(op: str, x: Array, p: int) -> Array:
    """The global pools."""
    axes, wide = tuple(range(2, x.ndim)), x.astype("float64")
    if op == "GlobalMaxPool":
        return wide.max(axes, keepdims=True).astype(x.dtype)
    if op == "GlobalAveragePool":
        return wide.mean(axes, keepdims=True).astype(x.dtype)
    return np.asarray((np.abs(wide) ** p).sum(axes, keepdims=True) ** (1 / p)).astype(x.dtype)


def normalised(x: Array, axis: int, p: int) -> Array:
    """LpNormalization; what has no length stays zero."""
    wide = np.abs(x.astype("float64"))
    size = (wide**p).sum(axis, keepdims=True) ** (1 / p)
    return (x / np.where(size == 0, 1, size)).astype(x.dtype)


def old_softmax(op: str, x: Array, axis: int) -> Array:
    """Softmax, LogSoftmax and Hardmax before operator set 13: over all axes from `axis` on."""
    rows = x.reshape(math.prod(x.shape[: axis % x.ndim]), -1).astype("float64")
    if op == "Hardmax":
        return (np.arange(rows.shape[1]) == rows.argmax(1)[:, None]).astype(x.dtype).reshape(x.shape)
    powers = np.exp(rows - rows.max(1, keepdims=True))
    total = powers.sum(1, keepdims=True)
    shares = powers / total if op == "Softmax" else rows - rows.max(1, keepdims=True) - np.log(total)
    return shares.reshape(x.shape).astype(x.dtype)


def local_response(x: Array, attrs: Mapping[str, Any]) -> Array:
    """LRN."""
    size, wide = attrs["size"], x.astype("float64") ** 2
    sums = np.zeros_like(wide)
    for c in range(x.shape[1]):
        first, last = c - (size - 1) // 2, c + size // 2
        sums[:, c] = wide[:, max(first, 0) : last + 1].sum(1)
    return (x / (attrs["bias"] + attrs["alpha"] / size * sums) ** attrs["beta"]).astype(x.dtype)
