"""Operators that move values: shapes, slices, joins, gathers, pads."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import TO_NCHW, Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import activated, converts


def _moved(g: Writer, op: Operator, name: str, position: int = 0) -> None:
    """Bind a value whose elements are those of an input in another order."""
    g.put(op.outputs[0], name, exact=g.same_grid(op.inputs[position], op.outputs[0]))


@converts("RESHAPE")
def _reshape(g: Writer, op: Operator) -> None:
    if len(op.inputs) > 1 and op.inputs[1] >= 0:
        shape = g.get_int64(op.inputs[1])
    else:
        wanted = getattr(op.options, "newShape", None)
        shape = g.constant(np.array(g.tensor(op.outputs[0]).shape if wanted is None else wanted, np.int64))
    if op.inputs[0] in g.complex:
        re, im = g.complex[op.inputs[0]]
        g.complex[op.outputs[0]] = (g.op("Reshape", re, shape), g.op("Reshape", im, shape))
        return
    _reshaped(g, op, shape)


def _reshaped(g: Writer, op: Operator, shape: str) -> None:
    source, output = op.inputs[0], op.outputs[0]
    if source in g.stored and is_quantised(g.tensor(output)) and g.same_grid(source, output):
        # ONNX Runtime 1.31 moves a DequantizeLinear behind a Reshape, and then fails on the result
        g.put_integers(output, g.op("Reshape", g.stored[source], shape))
    else:
        _moved(g, op, g.op("Reshape", g.get(source), shape))


@converts("DENSIFY", inputs=1, outputs=1)
def _densify(g: Writer, op: Operator) -> None:
    """Sparse constants have their zeros since the file was read."""
    data = g.tensor(op.inputs[0]).data
    if data is not None and not is_quantised(g.tensor(op.inputs[0])):
        g.put_constant(op.outputs[0], data)
    else:
        g.put(op.outputs[0], g.get(op.inputs[0]), exact=True)


@converts("SQUEEZE", "EXPAND_DIMS")
def _squeeze(g: Writer, op: Operator) -> None:
    _reshaped(g, op, g.constant(np.array(g.tensor(op.outputs[0]).shape, np.int64)))


@converts("SHAPE")
def _shape(g: Writer, op: Operator) -> None:
    shape = g.op("Shape", g.get(op.inputs[0]))
    wide = g.tensor(op.outputs[0]).dtype == "int64"
    g.put(op.outputs[0], shape if wide else g.op("Cast", shape, to=TensorProto.INT32))


@converts("TRANSPOSE")
def _transpose(g: Writer, op: Operator) -> None:
    _moved(g, op, g.op("Transpose", g.get(op.inputs[0]), perm=g.ints(op.inputs[1])))


@converts("CONCATENATION")
def _concatenation(g: Writer, op: Operator) -> None:
    rank = g.rank(op.outputs[0])
    axis = op.options.axis % rank
    nchw = rank == 4 and all(i in g.nchw for i in op.inputs)
    parts = [g.get_nchw(i) if nchw else g.get(i) for i in op.inputs]
    y = g.op("Concat", *parts, axis=TO_NCHW.index(axis) if nchw else axis)
    y = activated(g, y, op.options.fusedActivationFunction, op.outputs[0])
    g.put(op.outputs[0], y, nchw=nchw, exact=all(g.same_grid(i, op.outputs[0]) for i in op.inputs))


@converts("PACK")
def _pack(g: Writer, op: Operator) -> None:
    axis = np.array([op.options.axis], np.int64)
    parts = [g.op("Unsqueeze", g.get(i), axis) for i in op.inputs]
    y = g.op("Concat", *parts, axis=int(axis[0]))
    g.put(op.outputs[0], y, exact=all(g.same_grid(i, op.outputs[0]) for i in op.inputs))


@converts("UNPACK")
def _unpack(g: Writer, op: Operator) -> None:
    axis, x = op.options.axis, g.get(op.inputs[0])
    for number, output in enumerate(op.outputs):
        y = g.op("Gather", x, np.array(number, np.int64), axis=axis)
        g.put(output, y, exact=g.same_grid(op.inputs[0], output))


@converts("SPLIT", "SPLIT_V")
def _split(g: Writer, op: Operator) -> None:
    first = op.kind == "SPLIT"
    x, axis = (op.inputs[1], op.inputs[0]) if first else (op.inputs[0], op.inputs[2])
    along = g.ints(axis)[0] % g.rank(x)
    sizes = [g.tensor(i).shape[along] for i in op.outputs]
    nchw = g.rank(x) == 4 and x in g.nchw
    value = g.get_nchw(x) if nchw else g.get(x)
    along = TO_NCHW.index(along) if nchw else along
    if len(sizes) == 1:
        g.put(op.outputs[0], value, nchw=nchw, exact=g.same_grid(x, op.outputs[0]))
        return
    parts = g.op("Split", value, np.array(sizes, np.int64), outputs=len(sizes), axis=along)
    for output, part in zip(op.outputs, parts, strict=True):
        g.put(output, part, nchw=nchw, exact=g.same_grid(x, output))


@converts("SLICE")
def _slice(g: Writer, op: Operator) -> None:
    begin, sizes = np.array(g.ints(op.inputs[1])), np.array(g.ints(op.inputs[2]))
    shape = np.array(g.tensor(op.inputs[0]).shape)
    end = np.where(sizes < 0, shape, begin + sizes)
    _moved(g, op, g.op("Slice", g.get(op.inputs[0]), begin.astype(np.int64), end.astype(np.int64)))


@converts("STRIDED_SLICE")
def _strided_slice(g: Writer, op: Operator) -> None:
    options, shape = op.options, g.tensor(op.inputs[0]).shape
    begin, end, step = (g.ints(i) for i in op.inputs[1:4])
    if options.ellipsisMask or options.newAxisMask:
        raise Refused("it has an ellipsis or new axes")
    starts, ends, gone = [], [], []
    for axis in range(len(begin)):
        first, last, stride, size = begin[axis], end[axis], step[axis], shape[axis]
        if options.shrinkAxisMask >> axis & 1:
            first = first % size if size else 0
            first, last, stride = first, first + 1, 1
            step[axis] = 1
            gone.append(axis)
        else:
            if options.beginMask >> axis & 1:
                first = 0 if stride > 0 else size - 1
            if options.endMask >> axis & 1:
                last = size if stride > 0 else -size - 1
            elif getattr(options, "offset", False):
                last = first + last
        starts.append(first)
        ends.append(last)
    axes = np.arange(len(begin), dtype=np.int64)
    parts = [np.array(values, np.int64) for values in (starts, ends)]
    y = g.op("Slice", g.get(op.inputs[0]), *parts, axes, np.array(step, np.int64))
    y = g.op("Squeeze", y, np.array(gone, np.int64)) if gone else y
    _moved(g, op, y)


@converts("REVERSE_V2")
def _reverse(g: Writer, op: Operator) -> None:
    axes = np.array([axis % g.rank(op.inputs[0]) for axis in g.ints(op.inputs[1])], np.int64)
    last, before_first, back = (np.full(len(axes), to, np.int64) for to in (-1, np.iinfo(np.int64).min, -1))
    _moved(g, op, g.op("Slice", g.get(op.inputs[0]), last, before_first, axes, back))


@converts("GATHER")
def _gather(g: Writer, op: Operator) -> None:
    if getattr(op.options, "batchDims", 0):
        raise Refused("it gathers by batch")
    y = g.op("Gather", g.get(op.inputs[0]), g.get_int64(op.inputs[1]), axis=op.options.axis)
    _moved(g, op, y)


@converts("GATHER_ND")
def _gather_nd(g: Writer, op: Operator) -> None:
    _moved(g, op, g.op("GatherND", g.get(op.inputs[0]), g.get_int64(op.inputs[1])))


@converts("TILE")
def _tile(g: Writer, op: Operator) -> None:
    _moved(g, op, g.op("Tile", g.get(op.inputs[0]), g.get_int64(op.inputs[1])))


@converts("BROADCAST_TO")
def _broadcast_to(g: Writer, op: Operator) -> None:
    _moved(g, op, g.op("Expand", g.get(op.inputs[0]), g.get_int64(op.inputs[1])))


@converts("FILL")
def _fill(g: Writer, op: Operator) -> None:
    _moved(g, op, g.op("Expand", g.get(op.inputs[1]), g.get_int64(op.inputs[0])), 1)


@converts("PAD", "PADV2", "MIRROR_PAD")
def _pad(g: Writer, op: Operator) -> None:
    pads = np.array(g.ints(op.inputs[1]), np.int64).reshape(-1, 2)
    index = op.inputs[0]
    nchw = len(pads) == 4 and index in g.nchw
    order = pads[list(TO_NCHW)] if nchw else pads
    amounts = order.T.reshape(-1)
    x = g.get_nchw(index) if nchw else g.get(index)
    if op.kind == "MIRROR_PAD":
        if op.options.mode != 0:
            raise Refused("it mirrors the edge itself (SYMMETRIC)")
        y = g.op("Pad", x, amounts, mode="reflect")
    else:
        value = g.real(op.inputs[2]).reshape(()) if op.kind == "PADV2" else np.zeros((), np.float32)
        plain = not is_quantised(g.tensor(index)) and g.tensor(index).dtype != "float32"
        y = g.op("Pad", x, amounts, value.astype(g.tensor(index).dtype) if plain else value)
    g.put(op.outputs[0], y, nchw=nchw, exact=g.same_grid(index, op.outputs[0]))


@converts("SPACE_TO_DEPTH", "DEPTH_TO_SPACE")
def _space_depth(g: Writer, op: Operator) -> None:
    kind = "SpaceToDepth" if op.kind == "SPACE_TO_DEPTH" else "DepthToSpace"
    y = g.op(kind, g.get_nchw(op.inputs[0]), blocksize=int(op.options.blockSize))
    g.put(op.outputs[0], y, nchw=True, exact=g.same_grid(op.inputs[0], op.outputs[0]))


@converts("SPACE_TO_BATCH_ND")
def _space_to_batch(g: Writer, op: Operator) -> None:
    shape, block = g.tensor(op.inputs[0]).shape, g.ints(op.inputs[1])
    if len(shape) != 4 or len(block) != 2:
        raise Refused("it is not over the height and width of pictures")
    pads = np.array(g.ints(op.inputs[2]), np.int64).reshape(2, 2)
    x = g.op("Pad", g.get(op.inputs[0]), np.array([0, *pads[:, 0], 0, 0, *pads[:, 1], 0], np.int64))
    batch, height, width, channels = shape
    height, width = height + int(pads[0].sum()), width + int(pads[1].sum())
    split = [batch, height // block[0], block[0], width // block[1], block[1], channels]
    x = g.op("Transpose", g.op("Reshape", x, np.array(split, np.int64)), perm=[2, 4, 0, 1, 3, 5])
    out = [batch * block[0] * block[1], height // block[0], width // block[1], channels]
    _moved(g, op, g.op("Reshape", x, np.array(out, np.int64)))


@converts("BATCH_TO_SPACE_ND")
def _batch_to_space(g: Writer, op: Operator) -> None:
    shape, block = g.tensor(op.inputs[0]).shape, g.ints(op.inputs[1])
    if len(shape) != 4 or len(block) != 2:
        raise Refused("it is not over the height and width of pictures")
    crops = np.array(g.ints(op.inputs[2]), np.int64).reshape(2, 2)
    _, height, width, channels = shape  # files from old converters have wrong batches here
    split = np.array([*block, -1, height, width, channels], np.int64)
    x = g.op("Transpose", g.op("Reshape", g.get(op.inputs[0]), split), perm=[2, 3, 0, 4, 1, 5])
    height, width = height * block[0], width * block[1]
    x = g.op("Reshape", x, np.array([-1, height, width, channels], np.int64))
    end = np.array([height, width], np.int64) - crops[:, 1]
    _moved(g, op, g.op("Slice", x, crops[:, 0].copy(), end, np.array([1, 2], np.int64)))


@converts("ONE_HOT")
def _one_hot(g: Writer, op: Operator) -> None:
    depth = np.array(g.ints(op.inputs[1]), np.int64).reshape(1)
    values = g.op(
        "Concat",
        *[g.op("Reshape", g.get(i), np.array([1], np.int64)) for i in (op.inputs[3], op.inputs[2])],
        axis=0,
    )
    g.put(op.outputs[0], g.op("OneHot", g.get_int64(op.inputs[0]), depth, values, axis=op.options.axis))
