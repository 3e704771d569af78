"""Pools: averages and norms of windows, maxima with their indices, and MaxUnpool."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.convolution import spatial_pads
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    dtype_of,
    reshaped,
    scalar,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.kernels.windows import window_sums


@dataclass(frozen=True)
class _Windows:
    """How windows slide over the spatial axes of a tensor.

    Attributes:
        sizes: elements of each axis.
        kernel: elements of a window along each axis.
        strides: from a window to the next.
        dilations: from an element of a window to the next.
        pads: before and after each axis.
        out: windows along each axis.
    """

    sizes: list[int]
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[tuple[int, int]]
    out: list[int]

    def widths(self) -> list[int]:
        """What to pad a tensor with, so that every window lies inside; the ends of windows beyond pads included."""
        widths = [0] * 4
        for i, (begin, _) in enumerate(self.pads):
            last = (self.out[i] - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilations[i] + 1
            widths += [begin, max(last - self.sizes[i] - begin, 0)]
        return widths

    def counts(self, *, with_pads: bool) -> Array:
        """How many elements of each window lie inside the tensor (or its pads); of the shape of the windows."""
        whole = np.ones(self.out)
        for i, (begin, end) in enumerate(self.pads):
            first = np.arange(self.out[i])[:, None] * self.strides[i] - begin
            at = first + np.arange(self.kernel[i]) * self.dilations[i]
            low, high = (-begin, self.sizes[i] + end) if with_pads else (0, self.sizes[i])
            inside = ((at >= low) & (at < high)).sum(1)
            whole = whole * inside.reshape([-1 if axis == i else 1 for axis in range(len(self.out))])
        return whole


def _windows(node: Node) -> _Windows:
    sizes, kernel = list(node.shape(0)[2:]), [int(k) for k in node.attrs["kernel_shape"]]
    n = len(kernel)
    strides = [int(s) for s in node.attrs.get("strides") or [1] * n]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * n]
    pads = spatial_pads(node, sizes, kernel, strides, dilations)
    out = []
    for i, size in enumerate(sizes):
        free = size + pads[i] + pads[i + n] - (kernel[i] - 1) * dilations[i] - 1
        count = (-(-free // strides[i]) if node.attrs.get("ceil_mode", 0) else free // strides[i]) + 1
        if (count - 1) * strides[i] >= size + pads[i]:
            count -= 1  # the last window would begin in the pads after the end
        out.append(count)
    if min(out) < 1:
        raise CannotConvert("its windows are larger than its input")
    return _Windows(sizes, kernel, strides, dilations, list(zip(pads[:n], pads[n:], strict=True)), out)


@converts("MaxPool")
def _max_pool(node: Node) -> list[Expr]:
    """With its second output: the index of each maximum in the flattened input.

    That index is a constant per tap plus a constant per window, so a single arg-max yields it.
    """
    if len(node.outputs) < 2 or not node.outputs[1]:
        raise LeaveToTvm
    x, shape, windows = node.input(0), node.shape(0), _windows(node)
    kernel, strides, dilations, out = windows.kernel, windows.strides, windows.dilations, windows.out
    n, widths = len(kernel), windows.widths()
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
    steps = _strides_of(windows.sizes, column_major=bool(node.attrs.get("storage_order", 0)))
    grid = np.indices(out).reshape(n, -1)
    base = sum((grid[i] * strides[i] - windows.pads[i][0]) * steps[i] for i in range(n))
    offsets = [
        sum(t * d * s for t, d, s in zip(tap, dilations, steps, strict=True))
        for tap in itertools.product(*[range(k) for k in kernel])
    ]
    planes = np.arange(shape[0] * shape[1]).reshape(*shape[:2], *[1] * n) * math.prod(windows.sizes)
    start = (planes + np.asarray(base).reshape(1, 1, *out)).astype("int64")
    moved = node.emit(relax.op.take(constant(np.asarray(offsets, "int64")), best))
    return [relax.op.max(stacked, axis=n + 2), relax.op.add(moved, constant(start))]


def _sums(node: Node, x: Expr, windows: _Windows) -> Expr:
    widths = windows.widths()
    padded = node.emit(relax.op.nn.pad(x, widths)) if any(widths) else x
    return node.builder.emit_te(
        window_sums, padded, windows.out, windows.kernel, windows.strides, windows.dilations
    )


@converts("AveragePool")
def _average_pool(node: Node) -> Expr:
    """Where windows reach beyond the pads or have gaps, of which TVM's pools count other elements."""
    windows, with_pads = _windows(node), bool(node.attrs.get("count_include_pad", 0))
    exact = [
        (out - 1) * stride + k == size + begin + end
        for size, k, stride, (begin, end), out in zip(
            windows.sizes, windows.kernel, windows.strides, windows.pads, windows.out, strict=True
        )
    ]
    dense = all(d == 1 for d in windows.dilations) and str(node.attrs.get("auto_pad", "NOTSET")) == "NOTSET"
    if dense and len(windows.sizes) <= 3 and (all(exact) or not node.attrs.get("ceil_mode", 0)):
        raise LeaveToTvm
    counts = windows.counts(with_pads=with_pads).astype(node.dtype(0))
    return relax.op.divide(_sums(node, node.input(0), windows), constant(counts))


@converts("LpPool")
def _lp_pool(node: Node) -> Expr:
    """The p-norm of each window, of which elements in the pads are zeros."""
    x, p = node.input(0), int(node.attrs.get("p", 2))
    return root_of(_sums(node, node.emit(powers_of(x, p)), _windows(node)), p)


@converts("GlobalLpPool")
def _global_lp_pool(node: Node) -> Expr:
    x, p = node.input(0), int(node.attrs.get("p", 2))
    axes = list(range(2, len(node.shape(0))))
    return root_of(node.emit(relax.op.sum(node.emit(powers_of(x, p)), axes, keepdims=True)), p)


def powers_of(x: Expr, p: int) -> Expr:
    """The magnitudes of numbers to a whole power."""
    if p == 2:
        return relax.op.multiply(x, x)
    size = relax.op.abs(x)
    return size if p == 1 else relax.op.power(size, scalar(p, x))


def root_of(x: Expr, p: int) -> Expr:
    """Sums of powers as norms."""
    if p == 1:
        return x
    return relax.op.sqrt(x) if p == 2 else relax.op.power(x, scalar(1 / p, x))


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
