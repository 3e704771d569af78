"""Shapes, joins and parts, and values that are repeated."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.elementwise import real_dtype
from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.folding import unsettled
from edgec.compiler.frontends.tflite.graph import TO_NCHW, Refused, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import activated, converts


def moved(g: Writer, op: Operator, name: str, position: int = 0) -> None:
    """Bind a value whose elements are those of an input in another order."""
    g.put(op.outputs[0], name, exact=g.same_grid(op.inputs[position], op.outputs[0]))


@converts("RESHAPE", inputs=(1, 2), outputs=1)
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
        moved(g, op, g.op("Reshape", g.get(source), shape))


@converts("DENSIFY", inputs=1, outputs=1)
def _densify(g: Writer, op: Operator) -> None:
    """Sparse constants have their zeros since the file was read."""
    data = g.tensor(op.inputs[0]).data
    if data is not None and not is_quantised(g.tensor(op.inputs[0])):
        g.put_constant(op.outputs[0], data)
    else:
        g.put(op.outputs[0], g.get(op.inputs[0]), exact=True)


@converts("SQUEEZE", "EXPAND_DIMS", inputs=(1, 2), outputs=1)
def _squeeze(g: Writer, op: Operator) -> None:
    _reshaped(g, op, g.constant(np.array(g.tensor(op.outputs[0]).shape, np.int64)))


@converts("RANK", inputs=1, outputs=1)
def _rank(g: Writer, op: Operator) -> None:
    g.put_constant(op.outputs[0], np.array(g.rank(op.inputs[0]), np.int32))


@converts("SHAPE", inputs=1, outputs=1)
def _shape(g: Writer, op: Operator) -> None:
    dtype = g.tensor(op.outputs[0]).dtype
    if op.inputs[0] not in unsettled(g.graph):
        g.put_constant(op.outputs[0], np.array(g.tensor(op.inputs[0]).shape, dtype))
        return
    shape = g.op("Shape", g.get(op.inputs[0]))
    g.put(op.outputs[0], shape if dtype == "int64" else g.op("Cast", shape, to=TensorProto.INT32))


@converts("TRANSPOSE", inputs=2, outputs=1)
def _transpose(g: Writer, op: Operator) -> None:
    rank = g.rank(op.inputs[0])
    order = [axis + rank * (axis < 0) for axis in g.ints(op.inputs[1])]
    if sorted(order) != list(range(rank)):
        raise Refused(f"its order of axes is {g.ints(op.inputs[1])}, of {rank} axes")
    moved(g, op, g.op("Transpose", g.get(op.inputs[0]), perm=order))


@converts("CONCATENATION", inputs=(1, None), outputs=1)
def _concatenation(g: Writer, op: Operator) -> None:
    rank = g.rank(op.outputs[0])
    axis = op.options.axis % rank
    nchw = rank == 4 and all(i in g.nchw for i in op.inputs)
    parts = [g.get_nchw(i) if nchw else g.get(i) for i in op.inputs]
    y = g.op("Concat", *parts, axis=TO_NCHW.index(axis) if nchw else axis)
    y = activated(g, y, op.options.fusedActivationFunction, op.outputs[0])
    g.put(op.outputs[0], y, nchw=nchw, exact=all(g.same_grid(i, op.outputs[0]) for i in op.inputs))


@converts("PACK", inputs=(1, None), outputs=1)
def _pack(g: Writer, op: Operator) -> None:
    axis = op.options.axis % (g.rank(op.inputs[0]) + 1)
    parts = [g.op("Unsqueeze", g.get(i), np.array([axis], np.int64)) for i in op.inputs]
    y = g.op("Concat", *parts, axis=axis)
    g.put(op.outputs[0], y, exact=all(g.same_grid(i, op.outputs[0]) for i in op.inputs))


@converts("UNPACK", inputs=1, outputs=(1, None))
def _unpack(g: Writer, op: Operator) -> None:
    rank = g.rank(op.inputs[0])
    axis, x = op.options.axis % rank, g.get(op.inputs[0])
    for number, output in enumerate(op.outputs):
        y = g.op("Gather", x, np.array(number, np.int64), axis=axis)
        g.put(output, y, exact=g.same_grid(op.inputs[0], output))


@converts("SPLIT", "SPLIT_V", inputs=(2, 3), outputs=(1, None))
def _split(g: Writer, op: Operator) -> None:
    first = op.kind == "SPLIT"
    x, axis = (op.inputs[1], op.inputs[0]) if first else (op.inputs[0], op.inputs[2])
    along, whole = g.ints(axis)[0] % g.rank(x), g.tensor(x).shape
    sizes = [whole[along] // len(op.outputs)] * len(op.outputs) if first else g.ints(op.inputs[1])
    if -1 in sizes:
        sizes[sizes.index(-1)] = whole[along] - sum(size for size in sizes if size != -1)
    if len(sizes) != len(op.outputs) or sum(sizes) != whole[along]:
        raise Refused(f"it cuts {whole[along]} into parts of {sizes}")
    nchw = g.rank(x) == 4 and x in g.nchw
    value = g.get_nchw(x) if nchw else g.get(x)
    along = TO_NCHW.index(along) if nchw else along
    if len(sizes) == 1:
        g.put(op.outputs[0], value, nchw=nchw, exact=g.same_grid(x, op.outputs[0]))
        return
    parts = g.op("Split", value, np.array(sizes, np.int64), outputs=len(sizes), axis=along)
    for output, part in zip(op.outputs, parts, strict=True):
        g.put(output, part, nchw=nchw, exact=g.same_grid(x, output))


@converts("TILE", inputs=2, outputs=1)
def _tile(g: Writer, op: Operator) -> None:
    moved(g, op, g.op("Tile", g.get(op.inputs[0]), g.get_int64(op.inputs[1])))


@converts("BROADCAST_TO", inputs=2, outputs=1)
def _broadcast_to(g: Writer, op: Operator) -> None:
    moved(g, op, g.op("Expand", g.get(op.inputs[0]), g.get_int64(op.inputs[1])))


@converts("BROADCAST_ARGS", inputs=2, outputs=1)
def _broadcast_args(g: Writer, op: Operator) -> None:
    """The shape to which two shapes broadcast, of constants or computed ones."""
    a, b = (g.tensor(index) for index in op.inputs)
    length = max(a.shape[0], b.shape[0])
    longer = []
    for index, tensor in zip(op.inputs, (a, b), strict=True):
        ones = np.ones(length - tensor.shape[0], tensor.dtype)
        longer.append(g.op("Concat", ones, g.get(index), axis=0) if len(ones) else g.get(index))
    one = np.array(1, a.dtype)
    g.put(op.outputs[0], g.op("Where", g.op("Equal", longer[0], one), longer[1], longer[0]))


@converts("FILL", inputs=2, outputs=1)
def _fill(g: Writer, op: Operator) -> None:
    moved(g, op, g.op("Expand", g.get(op.inputs[1]), g.get_int64(op.inputs[0])), 1)


@converts("RANGE", inputs=3, outputs=1)
def _range(g: Writer, op: Operator) -> None:
    values = [g.op("Reshape", g.get(i), np.zeros(0, np.int64)) for i in op.inputs]
    g.put(op.outputs[0], g.op("Range", *values))


@converts("MATRIX_DIAG", inputs=1, outputs=1)
def _matrix_diag(g: Writer, op: Operator) -> None:
    x, size = g.get(op.inputs[0]), g.tensor(op.inputs[0]).shape[-1]
    wide = g.op("Unsqueeze", x, np.array([-1], np.int64))
    moved(
        g, op, g.op("Where", np.eye(size, dtype=bool), wide, np.zeros((), real_dtype(g.tensor(op.inputs[0]))))
    )


@converts("MATRIX_SET_DIAG", inputs=2, outputs=1)
def _matrix_set_diag(g: Writer, op: Operator) -> None:
    rows, columns = g.tensor(op.inputs[0]).shape[-2:]
    diagonal = g.get(op.inputs[1])
    amount, rank = columns - min(rows, columns), g.rank(op.inputs[1])
    if amount:
        pads = np.array([0] * (2 * rank - 1) + [amount], np.int64)
        diagonal = g.op("Pad", diagonal, pads, np.zeros((), real_dtype(g.tensor(op.inputs[0]))))
    wide = g.op("Unsqueeze", diagonal, np.array([-2], np.int64))
    moved(g, op, g.op("Where", np.eye(rows, columns, dtype=bool), wide, g.get(op.inputs[0])))
