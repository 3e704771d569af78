"""MaxPool with the indices of its maxima, and MaxUnpool."""

from __future__ import annotations

import itertools
import math

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.convolution import spatial_pads
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    dtype_of,
    reshaped,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced


@converts("MaxPool")
def _max_pool(node: Node) -> list[Expr]:
    """With its second output: the index of each maximum in the flattened input.

    That index is a constant per tap plus a constant per window, so a single arg-max yields it.
    """
    if len(node.outputs) < 2 or not node.outputs[1]:
        raise LeaveToTvm
    x, shape, kernel = node.input(0), node.shape(0), [int(k) for k in node.attrs["kernel_shape"]]
    n, spatial = len(kernel), list(node.shape(0)[2:])
    strides = [int(s) for s in node.attrs.get("strides") or [1] * n]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * n]
    pads = spatial_pads(node, spatial, kernel, strides, dilations)
    up = math.ceil if node.attrs.get("ceil_mode", 0) else math.floor
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [up((size + pads[i] + pads[i + n] - reach[i]) / strides[i]) + 1 for i, size in enumerate(spatial)]
    widths = [0] * 4
    for i in range(n):
        last = (out[i] - 1) * strides[i] + reach[i]
        widths += [pads[i], max(last - spatial[i] - pads[i], 0)]
    lowest = -math.inf if dtype_of(x).startswith("float") else None
    if any(widths) and lowest is None:
        raise CannotConvert("pads around integers are not compiled")
    padded = node.emit(relax.op.nn.pad(x, widths, pad_value=lowest)) if any(widths) else x
    parts = []
    for tap in itertools.product(*[range(k) for k in kernel]):
        picks = {}
        for i in range(n):
            first = tap[i] * dilations[i]
            picks[i + 2] = slice(first, first + (out[i] - 1) * strides[i] + 1, strides[i])
        parts.append(node.emit(reshaped(node.emit(sliced(node, padded, picks)), [*shape[:2], *out, 1])))
    stacked = node.emit(relax.op.concat(parts, n + 2))
    best = node.emit(relax.op.argmax(stacked, axis=n + 2))
    steps = _strides_of(spatial, column_major=bool(node.attrs.get("storage_order", 0)))
    grid = np.indices(out).reshape(n, -1)
    base = sum((grid[i] * strides[i] - pads[i]) * steps[i] for i in range(n))
    offsets = [
        sum(t * d * s for t, d, s in zip(tap, dilations, steps, strict=True))
        for tap in itertools.product(*[range(k) for k in kernel])
    ]
    planes = np.arange(shape[0] * shape[1]).reshape(*shape[:2], *[1] * n) * math.prod(spatial)
    start = (planes + np.asarray(base).reshape(1, 1, *out)).astype("int64")
    moved = node.emit(relax.op.take(constant(np.asarray(offsets, "int64")), best))
    return [relax.op.max(stacked, axis=n + 2), relax.op.add(moved, constant(start))]


def _strides_of(sizes: list[int], *, column_major: bool) -> list[int]:
    order = list(range(len(sizes))) if column_major else list(range(len(sizes) - 1, -1, -1))
    steps, product = [0] * len(sizes), 1
    for axis in order:
        steps[axis] = product
        product *= sizes[axis]
    return steps


@converts("MaxUnpool")
def _max_unpool(node: Node) -> Expr:
    """Values written back to the indices that they came from, zeros elsewhere.

    Indices refer to the output size that the kernel alone implies; a larger output is padded with zeros.
    """
    shape, kernel = list(node.shape(0)), [int(k) for k in node.attrs["kernel_shape"]]
    n = len(kernel)
    strides = [int(s) for s in node.attrs.get("strides") or [1] * n]
    pads = [int(p) for p in node.attrs.get("pads") or [0] * (2 * n)]
    own = [(shape[i + 2] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + n] for i in range(n)]
    given = node.array(2)
    out = [int(s) for s in given.reshape(-1)][2:] if given is not None else own
    flat = node.emit(reshaped(node.input(0), [math.prod(shape)]))
    places = node.emit(reshaped(node.input(1), [math.prod(shape)]))
    whole = [*shape[:2], *own]
    zeros = relax.op.zeros((math.prod(whole),), dtype_of(flat))
    filled = node.emit(relax.op.scatter_elements(node.emit(zeros), places, flat, axis=0))
    y = node.emit(reshaped(filled, whole))
    if out == own:
        return y
    if any(a < b for a, b in zip(out, own, strict=True)):
        raise CannotConvert(f"the output {out} is smaller than {own}")
    widths = [0] * 4
    for a, b in zip(own, out, strict=True):
        widths += [0, b - a]
    return relax.op.nn.pad(y, widths)
