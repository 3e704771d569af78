"""Col2Im: columns of blocks, added up where they overlap."""

from __future__ import annotations

import itertools
import math

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts,
    converts_dynamic,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import part_of, viewed
from edgec.compiler.frontends.relax.dims import dims_of


@converts("Col2Im")
@converts_dynamic("Col2Im")
def _col2im(node: Node) -> Expr:
    image, block = node.array(1), node.array(2)
    if image is None or block is None:
        raise CannotConvert("its image or block shape is missing")
    sizes, kernel = [int(s) for s in image], [int(k) for k in block]
    n = len(sizes)
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * n]
    strides = [int(s) for s in node.attrs.get("strides") or [1] * n]
    pads = [int(p) for p in node.attrs.get("pads") or [0] * (2 * n)]
    batch, rows, _ = dims_of(node.input(0))
    taps = math.prod(kernel)
    if not isinstance(rows, int):
        raise CannotConvert("its number of channels is known only at run time")
    channels = rows // taps
    spread = [
        (size + pads[i] + pads[i + n] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, size in enumerate(sizes)
    ]
    columns = viewed(node, node.input(0), [batch, channels, taps, *spread])
    full = [size + pads[i] + pads[i + n] for i, size in enumerate(sizes)]
    total: Expr | None = None
    for number, tap in enumerate(itertools.product(*[range(k) for k in kernel])):
        part = part_of(node, columns, {2: slice(number, number + 1)})
        part = viewed(node, part, [batch, channels, *spread])
        placed = _placed(node, part, [t * d for t, d in zip(tap, dilations, strict=True)], strides, full)
        total = placed if total is None else node.emit(relax.op.add(total, placed))
    picks = {i + 2: slice(pads[i], pads[i] + size) for i, size in enumerate(sizes)}
    return part_of(node, total, picks)


def _placed(node: Node, part: Expr, first: list[int], strides: list[int], full: list[int]) -> Expr:
    """A tensor `[batch, channels, *spread]` spread out by `strides` and padded with zeros to the sizes `full`."""
    for axis, (begin, stride, size) in enumerate(zip(first, strides, full, strict=True), start=2):
        shape = dims_of(part)
        if stride > 1:
            wide = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
            widths = [0] * (2 * len(wide))
            widths[2 * (axis + 1) + 1] = stride - 1
            part = node.emit(relax.op.nn.pad(viewed(node, part, wide), widths))
            shape[axis] *= stride
            part = viewed(node, part, shape)
            keep = shape[axis] - (stride - 1)
            part = part_of(node, part, {axis: slice(0, keep)})
            shape[axis] = keep
        widths = [0] * (2 * len(shape))
        widths[2 * axis], widths[2 * axis + 1] = begin, size - begin - shape[axis]
        if any(widths):
            part = node.emit(relax.op.nn.pad(part, widths))
    return part
