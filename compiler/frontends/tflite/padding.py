"""Borders, gaps, and blocks that move between axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.compiler.frontends.tflite.elementwise import is_real, real_dtype
from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import TO_NCHW, Array, Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts
from edgec.compiler.frontends.tflite.shaping import moved

SYMMETRIC = 1


@converts("PAD", "PADV2", "MIRROR_PAD", inputs=(2, 3), outputs=1)
def _pad(g: Writer, op: Operator) -> None:
    index = op.inputs[0]
    if not g.is_constant(op.inputs[1]):
        _pad_by_input(g, op)
        return
    pads = np.array(g.ints(op.inputs[1]), np.int64).reshape(-1, 2)
    if len(pads) != g.rank(index) or (pads < 0).any():
        raise Refused(f"its amounts are {pads.tolist()} for {g.rank(index)} axes")
    nchw = len(pads) == 4 and index in g.nchw
    order = pads[list(TO_NCHW)] if nchw else pads
    x = g.get_nchw(index) if nchw else g.get(index)
    if op.kind == "MIRROR_PAD":
        y = _mirrored(g, op, x, order, nchw=nchw)
    else:
        amounts, value = order.T.reshape(-1).copy(), _filling(g, op)
        if isinstance(value, str):  # a value known at run time fills what is outside
            shape = g.tensor(index).shape
            sizes = [shape[axis] for axis in TO_NCHW] if nchw else list(shape)
            inside = np.pad(np.ones(sizes, bool), [tuple(pair) for pair in order])
            nothing = np.zeros((), real_dtype(g.tensor(index)))
            y = g.op("Where", inside, g.op("Pad", x, amounts, nothing), value)
        else:
            y = g.op("Pad", x, amounts, value)
    g.put(op.outputs[0], y, nchw=nchw, exact=g.same_grid(index, op.outputs[0]))


def _filling(g: Writer, op: Operator) -> Array | str:
    """The value of a border; that of a quantised tensor is on the tensor's own grid."""
    kind = real_dtype(g.tensor(op.inputs[0]))
    if op.kind != "PADV2":
        return np.zeros((), kind)
    if g.is_constant(op.inputs[2]):
        value = g.real(op.inputs[2]) if kind == "float32" else g.data(op.inputs[2])
        return np.asarray(value.reshape(()).astype(kind))
    return str(g.op("Reshape", g.get(op.inputs[2]), np.zeros(0, np.int64)))


def _pad_by_input(g: Writer, op: Operator) -> None:
    if op.kind == "MIRROR_PAD":
        raise Refused("it mirrors, by amounts that are computed")
    amounts = g.op("Transpose", g.get_int64(op.inputs[1]), perm=[1, 0])
    amounts = g.op("Reshape", amounts, np.array([-1], np.int64))
    moved(g, op, g.op("Pad", g.get(op.inputs[0]), amounts, _filling(g, op)))


def _mirrored(g: Writer, op: Operator, x: str, pads: Array, *, nchw: bool) -> str:
    shape = g.tensor(op.inputs[0]).shape
    shape = tuple(shape[axis] for axis in TO_NCHW) if nchw else shape
    edge = int(op.options.mode == SYMMETRIC)
    for axis, ((before, after), size) in enumerate(zip(pads, shape, strict=True)):
        if max(before, after) > size - 1 + edge:
            raise Refused(f"it mirrors {max(before, after)} of {size} entries")
        if not before and not after:
            continue
        if not edge:
            order = np.pad(np.arange(size, dtype=np.int64), (before, after), mode="reflect")
        else:
            order = np.pad(np.arange(size, dtype=np.int64), (before, after), mode="symmetric")
        x = g.op("Gather", x, order, axis=axis)
    return x


@converts("DILATE", inputs=3, outputs=1)
def _dilate(g: Writer, op: Operator) -> None:
    spread_out(g, op, g.ints(op.inputs[1]), _value_of(g, op.inputs[2]))


def _value_of(g: Writer, index: int) -> str:
    return str(g.op("Reshape", g.get(index), np.zeros(0, np.int64)))


def spread_out(g: Writer, op: Operator, steps: list[int], value: str) -> None:
    """Bind the input with gaps of `steps - 1` entries of a value between its entries."""
    x, shape = g.get(op.inputs[0]), list(g.tensor(op.inputs[0]).shape)
    g.put(op.outputs[0], dilated(g, x, shape, steps, value))


def dilated(g: Writer, x: str, sizes: list[int], steps: list[int], value: str) -> str:
    """The value with gaps between its entries."""
    shape, rank = list(sizes), len(sizes)
    if len(steps) != rank or min(steps, default=1) < 1:
        raise Refused(f"its steps are {steps} for {rank} axes")
    for axis, step in enumerate(steps):
        if step == 1 or shape[axis] == 0:
            continue
        wide = g.op("Unsqueeze", x, np.array([axis + 1], np.int64))
        pads = np.zeros(2 * (rank + 1), np.int64)
        pads[rank + 1 + axis + 1] = step - 1
        wide = g.op("Pad", wide, pads, value)
        shape[axis] *= step
        joined = g.op("Reshape", wide, np.array(shape, np.int64))
        shape[axis] -= step - 1
        ends = (np.array([0]), np.array([shape[axis]]), np.array([axis]))
        x = g.op("Slice", joined, *ends)
    return x


@converts("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", inputs=1, outputs=1)
def _space_depth(g: Writer, op: Operator) -> None:
    batch, height, width, channels = g.shape(op.inputs[0], 4)
    block, into = int(op.options.blockSize), op.kind == "SPACE_TO_DEPTH"
    if block < 1 or (height % block or width % block if into else channels % block**2):
        raise Refused(f"its blocks of {block} do not fit {list(g.shape(op.inputs[0]))}")
    if is_real(g.tensor(op.inputs[0])):
        y = g.op("SpaceToDepth" if into else "DepthToSpace", g.get_nchw(op.inputs[0]), blocksize=block)
        g.put(op.outputs[0], y, nchw=True, exact=g.same_grid(op.inputs[0], op.outputs[0]))
        return
    if into:
        split = [batch, height // block, block, width // block, block, channels]
        out = [batch, height // block, width // block, channels * block**2]
    else:
        split = [batch, height, width, block, block, channels // block**2]
        out = [batch, height * block, width * block, channels // block**2]
    x = g.op("Reshape", g.get(op.inputs[0]), np.array(split, np.int64))
    x = g.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5])
    g.put(op.outputs[0], g.op("Reshape", x, np.array(out, np.int64)))


@converts("SPACE_TO_BATCH_ND", inputs=3, outputs=1)
def _space_to_batch(g: Writer, op: Operator) -> None:
    shape, block = g.tensor(op.inputs[0]).shape, g.ints(op.inputs[1])
    spatial, pads = _spatial(g, op, shape, block)
    amounts = np.zeros((2, len(shape)), np.int64)
    amounts[:, 1 : 1 + spatial] = pads.T
    zero = np.zeros((), real_dtype(g.tensor(op.inputs[0])))
    x = g.op("Pad", g.get(op.inputs[0]), amounts.reshape(-1), zero)
    sizes = [size + int(pads[k].sum()) for k, size in enumerate(shape[1 : 1 + spatial])]
    if any(size % b for size, b in zip(sizes, block, strict=True)):
        raise Refused(f"its blocks of {block} do not divide {sizes}")
    split: list[int] = [shape[0]]
    for size, b in zip(sizes, block, strict=True):
        split += [size // b, b]
    rest = len(shape) - 1 - spatial
    order = [*range(2, 2 * spatial + 1, 2), 0, *range(1, 2 * spatial, 2)]
    order += range(2 * spatial + 1, 2 * spatial + 1 + rest)
    x = g.op("Transpose", g.op("Reshape", x, np.array([*split, *shape[1 + spatial :]], np.int64)), perm=order)
    out = [shape[0] * int(np.prod(block)), *(s // b for s, b in zip(sizes, block, strict=True))]
    moved(g, op, g.op("Reshape", x, np.array([*out, *shape[1 + spatial :]], np.int64)))


def _spatial(g: Writer, op: Operator, shape: tuple[int, ...], block: list[int]) -> tuple[int, Array]:
    """The number of axes with blocks, and the borders `[axes, 2]`."""
    spatial = len(block)
    pads: Any = np.array(g.ints(op.inputs[2]), np.int64).reshape(-1, 2)
    if not 1 <= spatial < len(shape) or len(pads) != spatial or min(block) < 1:
        raise Refused(f"its blocks are {block} for {len(shape)} axes")
    return spatial, pads


@converts("BATCH_TO_SPACE_ND", inputs=3, outputs=1)
def _batch_to_space(g: Writer, op: Operator) -> None:
    shape, block = g.tensor(op.inputs[0]).shape, g.ints(op.inputs[1])
    spatial, crops = _spatial(g, op, shape, block)
    sizes, rest = shape[1 : 1 + spatial], shape[1 + spatial :]
    # files from old converters have wrong batches here
    split = np.array([*block, -1, *sizes, *rest], np.int64)
    order = [spatial]
    for k in range(spatial):
        order += [spatial + 1 + k, k]
    order += range(2 * spatial + 1, 2 * spatial + 1 + len(rest))
    x = g.op("Transpose", g.op("Reshape", g.get(op.inputs[0]), split), perm=order)
    full = [size * b for size, b in zip(sizes, block, strict=True)]
    x = g.op("Reshape", x, np.array([-1, *full, *rest], np.int64))
    end = np.array(full, np.int64) - crops[:, 1]
    moved(g, op, g.op("Slice", x, crops[:, 0].copy(), end, np.arange(1, spatial + 1, dtype=np.int64)))


@converts("STABLEHLO_PAD", inputs=2, outputs=1)
def _stablehlo_pad(g: Writer, op: Operator) -> None:
    """Gaps, then borders; negative borders cut off."""
    options, shape = op.options, g.tensor(op.inputs[0]).shape
    low, high, inner = (
        [int(v) for v in values]
        for values in (options.edgePaddingLow, options.edgePaddingHigh, options.interiorPadding)
    )
    if not len(low) == len(high) == len(inner) == len(shape) or min(inner, default=0) < 0:
        raise Refused(f"its borders are of {len(low)} axes, of {len(shape)}")
    value = _value_of(g, op.inputs[1])
    x = dilated(g, g.get(op.inputs[0]), list(shape), [n + 1 for n in inner], value)
    pads = np.maximum([*low, *high], 0).astype(np.int64)
    x = g.op("Pad", x, pads, value)
    sizes = [max((n - 1) * (k + 1) + 1, 0) for n, k in zip(shape, inner, strict=True)]
    begin = np.array([max(-n, 0) for n in low], np.int64)
    end = np.array([max(n, 0) + s + h for n, s, h in zip(low, sizes, high, strict=True)], np.int64)
    moved(g, op, g.op("Slice", x, begin, end, np.arange(len(shape), dtype=np.int64)))
