"""Convolutions, plain, transposed and fused with an activation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.activations import activated
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    CannotConvert,
    Node,
    converts,
    is_constant,
    rank_of,
    reshaped,
    shape_of,
    value_of,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced

CONV = {3: relax.op.nn.conv1d, 4: relax.op.nn.conv2d, 5: relax.op.nn.conv3d}
TRANSPOSED = {
    3: relax.op.nn.conv1d_transpose,
    4: relax.op.nn.conv2d_transpose,
    5: relax.op.nn.conv3d_transpose,
}
LAYOUT = {3: ("NCW", "OIW", "IOW"), 4: ("NCHW", "OIHW", "IOHW"), 5: ("NCDHW", "OIDHW", "IODHW")}


def convolution(node: Node, x: Expr, w: Expr, out_dtype: str | None = None) -> Expr:
    """A convolution with a node's ONNX attributes; its sums are of the operands' type, or of `out_dtype`.

    Raises:
        CannotConvert: of other than one to three spatial dimensions.
    """
    shape, kernel = shape_of(x), list(shape_of(w)[2:])
    if len(shape) not in CONV:
        raise CannotConvert(f"convolutions of {len(shape) - 2} spatial dimensions are not compiled")
    spatial = len(kernel)
    strides = [int(s) for s in node.attrs.get("strides") or [1] * spatial]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * spatial]
    pads = spatial_pads(node, shape[2:], kernel, strides, dilations)
    data_layout, kernel_layout, _ = LAYOUT[len(shape)]
    return node.emit(
        CONV[len(shape)](
            x,
            w,
            strides=strides,
            padding=pads,
            dilation=dilations,
            groups=int(node.attrs.get("group", 1)),
            data_layout=data_layout,
            kernel_layout=kernel_layout,
            out_dtype=out_dtype,
        )
    )


def spatial_pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """A node's padding, all begins before all ends, with `auto_pad` resolved."""
    auto = str(node.attrs.get("auto_pad", "NOTSET"))
    if auto == "NOTSET":
        return [int(p) for p in node.attrs.get("pads") or [0] * (2 * len(kernel))]
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    begins, ends = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins + ends


@converts("Conv")
def _conv(node: Node) -> Expr:
    return _biased(node, convolution(node, node.input(0), node.input(1)), 2)


def _biased(node: Node, y: Expr, position: int) -> Expr:
    if not node.has(position):
        return y
    shape = [1, node.shape(position)[0]] + [1] * (rank_of(y) - 2)
    return relax.op.add(y, node.emit(reshaped(node.input(position), shape)))


@converts("ConvTranspose")
def _conv_transpose(node: Node) -> Expr:
    shape, kernel = node.shape(0), node.shape(1)[2:]
    if len(shape) not in CONV:
        raise CannotConvert(f"convolutions of {len(shape) - 2} spatial dimensions are not compiled")
    spatial = len(kernel)
    strides = [int(s) for s in node.attrs.get("strides") or [1] * spatial]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * spatial]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    full = [s * (n - 1) + r for s, n, r in zip(strides, shape[2:], reach, strict=True)]
    begins, sizes = _transposed_extent(node, shape[2:], strides, full)
    weight = node.input(1)
    stored, groups = _stored_weights(node, weight), int(node.attrs.get("group", 1))
    if stored is not None:
        y = _by_phases(
            node, _Filters(_dilated(stored[0], dilations, stored[2]), groups, *stored[1:]), strides
        )
    elif is_constant(weight) and dilations == [1] * spatial and groups == 1:
        y = _by_phases(node, _Filters(value_of(weight), groups), strides)
    else:
        data_layout, _, kernel_layout = LAYOUT[len(shape)]
        y = node.emit(
            TRANSPOSED[len(shape)](
                node.input(0),
                weight,
                strides=strides,
                padding=[0] * (2 * spatial),
                dilation=dilations,
                groups=groups,
                data_layout=data_layout,
                kernel_layout=kernel_layout,
            )
        )
    have = shape_of(y)[2:]
    beyond = [max(b + size - n, 0) for b, size, n in zip(begins, sizes, have, strict=True)]
    if any(beyond):  # positions that no input contributes to
        widths = [0, 0, 0, 0, *itertools.chain.from_iterable((0, extra) for extra in beyond)]
        y = node.emit(relax.op.nn.pad(y, widths))
    picks = {axis + 2: slice(b, b + size) for axis, (b, size) in enumerate(zip(begins, sizes, strict=True))}
    return _biased(node, node.emit(sliced(node, y, picks)), 2)


def _transposed_extent(
    node: Node, sizes: Sequence[int], strides: Sequence[int], full: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Where the output begins within the unpadded one, and its size, per axis."""
    spatial = len(sizes)
    extra = [int(p) for p in node.attrs.get("output_padding") or [0] * spatial]
    auto = str(node.attrs.get("auto_pad", "NOTSET"))
    wanted = [int(s) for s in node.attrs.get("output_shape") or []][-spatial:]
    if not wanted and auto.startswith("SAME"):
        wanted = [min(n * s, f + e) for n, s, f, e in zip(sizes, strides, full, extra, strict=True)]
    if not wanted:
        given = node.attrs.get("pads") if auto == "NOTSET" else None
        pads = [int(p) for p in given or [0] * (2 * spatial)]
        begins, ends = pads[:spatial], pads[spatial:]
        return begins, [f + e - b - n for f, e, b, n in zip(full, extra, begins, ends, strict=True)]
    totals = [max(f + e - w, 0) for f, e, w in zip(full, extra, wanted, strict=True)]
    upper = auto == "SAME_UPPER"
    return [t // 2 if upper else t - t // 2 for t in totals], wanted


def _stored_weights(node: Node, weight: Expr) -> tuple[Array, Array, Array] | None:
    """Integers, scale and zero point of constant weights that are on a grid, one for all or one per output channel."""
    made: Expr = node.builder.lookup_binding(weight) if isinstance(weight, relax.Var) else None
    if op_name(made) != "relax.dequantize" or not all(is_constant(arg) for arg in made.args):
        return None
    stored, scale, zero = (value_of(arg) for arg in made.args)
    known = scale.size == 1 or int(made.attrs.axis) == 1
    return (stored, scale, zero) if known else None


def op_name(expr: Expr) -> str:
    """The operator that an expression calls; empty for any other expression."""
    return str(getattr(getattr(expr, "op", None), "name", ""))


@dataclass(frozen=True)
class _Filters:
    """Weights of a transposed convolution.

    Attributes:
        array: `[inputs, outputs of a group, …]`, real numbers, or integers with `scale` and `zero`.
        groups: of channels.
        scale, zero: the grid of the integers, one for all or one per output of a group.
    """

    array: Array
    groups: int
    scale: Array | None = None
    zero: Array | None = None

    def by_phase(self, strides: Sequence[int]) -> Array:
        """`[groups * phases * outputs of a group, inputs of a group, …]` of a plain convolution, without a stride."""
        channels, outputs, *kernel = self.array.shape
        taps = [-(-k // s) for k, s in zip(kernel, strides, strict=True)]
        phases = list(itertools.product(*[range(s) for s in strides]))
        per_group = channels // self.groups
        plain = np.zeros((self.groups, len(phases), outputs, per_group, *taps), self.array.dtype)
        if self.zero is not None:  # taps that a phase lacks stand for zero
            plain += self.zero.astype(plain.dtype).reshape(-1, *[1] * (plain.ndim - 3))
        grouped = self.array.reshape(self.groups, per_group, *self.array.shape[1:]).swapaxes(1, 2)
        for p, phase in enumerate(phases):
            for tap in itertools.product(*[range(t) for t in taps]):
                at = [r + s * t for r, s, t in zip(phase, strides, tap, strict=True)]
                if all(a < k for a, k in zip(at, kernel, strict=True)):
                    mirrored = tuple(n - 1 - t for n, t in zip(taps, tap, strict=True))
                    into: tuple[Any, ...] = (slice(None), p, ..., *mirrored)
                    plain[into] = grouped[tuple[Any, ...]((..., *at))]
        return plain.reshape(-1, per_group, *taps)


def _dilated(stored: Array, dilations: Sequence[int], zero: Array) -> Array:
    """Integer weights with what stands for zero between their taps."""
    if all(d == 1 for d in dilations):
        return stored
    sizes = [(k - 1) * d + 1 for k, d in zip(stored.shape[2:], dilations, strict=True)]
    wide = np.zeros((*stored.shape[:2], *sizes), stored.dtype)
    wide += zero.astype(stored.dtype).reshape(-1, *[1] * len(sizes))
    between: tuple[Any, ...] = (..., *[slice(None, None, d) for d in dilations])
    wide[between] = stored
    return wide


def _by_phases(node: Node, filters: _Filters, strides: list[int]) -> Expr:
    """A transposed convolution as a plain one, with an output channel for each of its phases.

    Output `y` belongs to phase `y mod stride`, to which only every stride-th tap of the kernel contributes.

    Args:
        node: the node.
        filters: its weights.
        strides: the phases along each axis.
    """
    x, plain = node.input(0), filters.by_phase(strides)
    kernels: Expr = constant(plain)
    groups, outputs = filters.groups, filters.array.shape[1]
    if filters.scale is not None and filters.zero is not None:
        count = len(plain) // outputs if filters.scale.size > 1 else 1
        grid = [constant(np.tile(a, count) if a.ndim else a) for a in (filters.scale, filters.zero)]
        kernels = node.emit(relax.op.dequantize(kernels, *grid, 0))
    data_layout, kernel_layout, _ = LAYOUT[rank_of(x)]
    y = node.emit(
        CONV[rank_of(x)](
            x,
            kernels,
            padding=[t - 1 for t in plain.shape[2:]] * 2,
            groups=groups,
            data_layout=data_layout,
            kernel_layout=kernel_layout,
        )
    )
    batch, _, *sizes = shape_of(y)
    n = len(strides)
    # with groups: [batch, group, strides…, outputs, sizes…]
    first = [batch] if groups == 1 else [batch, groups]
    lead = len(first)
    y = node.emit(reshaped(y, [*first, *strides, outputs, *sizes]))
    order = [
        *range(lead),
        lead + n,
        *itertools.chain.from_iterable((lead + n + 1 + i, lead + i) for i in range(n)),
    ]
    y = node.emit(relax.op.permute_dims(y, order))
    whole = [z * s for z, s in zip(sizes, strides, strict=True)]
    return node.emit(reshaped(y, [batch, groups * outputs, *whole]))


@converts("FusedConv", domain=MICROSOFT)
def _fused_conv(node: Node) -> Expr:
    y = convolution(node, node.input(0), node.input(1))
    if node.has(2):
        shape = [1, -1] + [1] * (rank_of(y) - 2)
        shape[1] = node.shape(2)[0]
        y = node.emit(relax.op.add(y, node.emit(reshaped(node.input(2), shape))))
    if node.has(3):
        y = node.emit(relax.op.add(y, node.input(3)))
    return activated(node, y, str(node.attrs.get("activation", "")), node.attrs.get("activation_params"))
