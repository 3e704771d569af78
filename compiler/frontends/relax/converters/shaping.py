"""The same elements in another shape or order, or repeated."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    axis_of,
    converts,
    is_constant,
    reshaped,
    value_of,
)


@converts("Reshape")
def _reshape(node: Node) -> Expr:
    shape = node.shape(0)
    wanted = node.ints("shape", 1)
    if wanted is None:
        raise CannotConvert("its shape is missing")
    if not node.attrs.get("allowzero", 0):
        wanted = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(wanted)]
    total = int(np.prod(shape))
    if -1 in wanted:
        rest = int(np.prod([size for size in wanted if size != -1]))
        wanted[wanted.index(-1)] = total // rest if rest else 0
    if int(np.prod(wanted)) != total or -1 in wanted:
        raise CannotConvert(f"the shape {list(shape)} cannot become {wanted}")
    return node.input(0) if tuple(wanted) == shape else reshaped(node.input(0), wanted)


@converts("Pad")
def _pad(node: Node) -> Expr:
    """Constants around an image, as an operator that layouts know; other pads are TVM's."""
    known = all(is_constant(expr) for expr in node.inputs[1:] if expr is not None)
    pads = node.ints("pads", 1) if known else None
    if pads is None or node.dtype(0) != "float32" or node.rank(0) != 4 or len(pads) != 8 or node.has(3):
        raise LeaveToTvm
    mode = node.attrs.get("mode", "constant")
    if mode not in ("constant", b"constant") or min(pads) < 0:
        raise LeaveToTvm
    value = node.attrs.get("value", 0.0) if not node.has(2) else float(value_of(node.input(2)).reshape(-1)[0])
    return relax.op.nn.pad(
        node.input(0), [width for axis in range(4) for width in pads[axis::4]], "constant", value
    )


@converts("Flatten")
def _flatten(node: Node) -> Expr:
    shape = node.shape(0)
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return reshaped(node.input(0), [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))])


@converts("Squeeze")
def _squeeze(node: Node) -> Expr:
    shape = node.shape(0)
    axes = node.ints("axes", 1)
    gone = {axis_of(a, len(shape)) for a in axes} if axes is not None else None
    kept = [s for i, s in enumerate(shape) if (s != 1 if gone is None else i not in gone)]
    return reshaped(node.input(0), kept)


@converts("Unsqueeze")
def _unsqueeze(node: Node) -> Expr:
    shape, axes = list(node.shape(0)), node.ints("axes", 1)
    if axes is None:
        raise CannotConvert("its axes are missing")
    rank = len(shape) + len(axes)
    for axis in sorted(axis_of(a, rank) for a in axes):
        shape.insert(axis, 1)
    return reshaped(node.input(0), shape)


@converts("Expand")
def _expand(node: Node) -> Expr:
    shape, wanted = node.shape(0), node.ints("shape", 1)
    if wanted is None:
        raise CannotConvert("its shape is missing")
    full = np.broadcast_shapes(shape, tuple(wanted))
    return node.input(0) if full == shape else relax.op.broadcast_to(node.input(0), full)


@converts("Tile")
def _tile(node: Node) -> Expr:
    repeats = node.ints("repeats", 1)
    if repeats is None:
        raise CannotConvert("its repeats are missing")
    out = [size * times for size, times in zip(node.shape(0), repeats, strict=True)]
    if 0 in out:
        return constant(np.zeros(out, node.dtype(0)))
    # Not relax's tile: LLVM 22 miscompiles its index arithmetic modulo the sizes for AVX-512
    # (a [2,3,4,5] tensor tiled 3×6×4×2 came out as noise).
    narrow, wide = [], []
    for size, times in zip(node.shape(0), repeats, strict=True):
        narrow += [1, size]
        wide += [times, size]
    spread = node.emit(relax.op.broadcast_to(node.emit(reshaped(node.input(0), narrow)), wide))
    return reshaped(spread, out)


@converts("Transpose")
def _transpose(node: Node) -> Expr:
    shape = node.shape(0)
    order = [int(a) for a in node.attrs.get("perm", range(len(shape) - 1, -1, -1))]
    if order == list(range(len(shape))):
        return node.input(0)
    moved = [a for a in order if shape[a] != 1]
    if moved == sorted(moved):  # only axes of size 1 move: the data stay where they are
        return reshaped(node.input(0), [shape[a] for a in order])
    return relax.op.permute_dims(node.input(0), order)


@converts("SpaceToDepth")
def _space_to_depth(node: Node) -> Expr:
    """Mode `CRD`, with a block's columns and rows after the channel; TVM supports only the other order."""
    if str(node.attrs.get("mode", "DCR")) != "CRD":
        raise LeaveToTvm
    (batch, channels, height, width), size = node.shape(0), int(node.attrs["blocksize"])
    rows, columns = height // size, width // size
    blocks = node.emit(relax.op.reshape(node.input(0), (batch, channels, rows, size, columns, size)))
    behind = node.emit(relax.op.permute_dims(blocks, [0, 1, 3, 5, 2, 4]))
    return relax.op.reshape(behind, (batch, channels * size * size, rows, columns))
