"""MediaPipe's custom operators, after their definitions for the CPU in its `util/tflite/operations`.

LiteRT does not have them. The parameters of the older ones are C structures, those of the others flexbuffers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import SAME, VALID, activated, converts, same_padding

POOL, UNPOOL, DECONVOLUTION = "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "Convolution2DTransposeBias"
MATRIX, WARP, MOVE = "Landmarks2TransformMatrix", "TransformTensorBilinear", "TransformLandmarks"
KINDS = frozenset({POOL, UNPOOL, DECONVOLUTION, MATRIX, WARP, MOVE})
LOWEST = np.array(np.finfo(np.float32).min)


def _struct(op: Operator, count: int) -> list[int]:
    """The first integers of a C structure of parameters."""
    if len(op.custom_options) < 4 * count:
        raise Refused(f"its parameters have {len(op.custom_options)} bytes, and {4 * count} are needed")
    return [int(v) for v in np.frombuffer(op.custom_options[: 4 * count], "<i4")]


def _padding(number: int) -> int:
    if number not in (1, 2):
        raise Refused(f"it has the padding number {number}")
    return SAME if number == 1 else VALID


def _options(op: Operator) -> dict[str, Any]:
    from flatbuffers import flexbuffers

    options = flexbuffers.Loads(op.custom_options)
    if not isinstance(options, dict):
        raise Refused("its parameters are not a map")
    return options


@converts(DECONVOLUTION, inputs=3, outputs=1)
def _deconvolution(g: Writer, op: Operator) -> None:
    padding, stride_w, stride_h = _struct(op, 3)
    size, weights = g.shape(op.inputs[0], 4), g.real(op.inputs[1])
    if weights.ndim != 4 or weights.shape[3] != size[3]:
        raise Refused(f"its filters of shape {list(weights.shape)} do not fit {size[3]} channels")
    pads = []
    for length, kernel, stride in zip(size[1:3], weights.shape[1:3], (stride_h, stride_w), strict=True):
        missing = max(0, kernel - (length - 1) % stride - 1) if _padding(padding) == SAME else 0
        pads.append((missing // 2, missing - missing // 2))
    y = g.op(
        "ConvTranspose",
        g.get_nchw(op.inputs[0]),
        weights.transpose(3, 0, 1, 2).copy(),
        g.real(op.inputs[2]),
        kernel_shape=list(weights.shape[1:3]),
        strides=[stride_h, stride_w],
        pads=[begin for begin, _ in pads] + [end for _, end in pads],
    )
    g.put(op.outputs[0], y, nchw=True)


@converts(POOL, inputs=1, outputs=2)
def _pool(g: Writer, op: Operator) -> None:
    """The largest value of each window, and its place in it (plus 0.1, as the original stores it)."""
    padding, stride_w, stride_h, width, height, activation = _struct(op, 6)
    size = g.shape(op.inputs[0], 4)
    kernel, strides = (height, width), (stride_h, stride_w)
    counts, pads = [], []
    for length, k, s in zip(size[1:3], kernel, strides, strict=True):
        same = _padding(padding) == SAME
        counts.append(-(-length // s) if same else (length - k + s) // s)
        pads.append(same_padding(length, k, s, 1) if same else (0, 0))
    (top, bottom), (left, right) = pads
    amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    x = g.op("Pad", g.get_nchw(op.inputs[0]), amounts, LOWEST)
    windows = []
    for row in range(height):
        for column in range(width):
            begin = np.array([row, column], np.int64)
            step = np.array(strides, np.int64)
            end = begin + (np.array(counts, np.int64) - 1) * step + 1
            part = g.op("Slice", x, begin, end, np.array([2, 3], np.int64), step)
            windows.append(g.op("Unsqueeze", part, np.array([0], np.int64)))
    both = windows[0] if len(windows) == 1 else g.op("Concat", *windows, axis=0)
    largest = g.op("ReduceMax", both, np.array([0], np.int64), keepdims=0)
    place = g.op("Cast", g.op("ArgMax", both, axis=0, keepdims=0), to=TensorProto.FLOAT)
    g.put(op.outputs[0], activated(g, largest, activation, op.outputs[0]), nchw=True)
    g.put(op.outputs[1], g.op("Add", place, np.array(0.1, np.float32)), nchw=True)


@converts(UNPOOL, inputs=2, outputs=1)
def _unpool(g: Writer, op: Operator) -> None:
    """Values at the places that pooling returned, zeros elsewhere.

    Places within a window are floats (MediaPipe), places within a picture integers (TensorFlow).
    """
    padding, stride_w, stride_h, width, height = _struct(op, 5)
    batch, rows, columns, channels = g.shape(op.inputs[0], 4)
    if g.shape(op.inputs[1], 4) != (batch, rows, columns, channels):
        raise Refused("its values and places have different shapes")
    x = g.get(op.inputs[0])
    if g.tensor(op.inputs[1]).dtype == "int32":
        out = (rows * stride_h, columns * stride_w)
        if _padding(padding) == VALID:
            out = ((rows - 1) * stride_h + height, (columns - 1) * stride_w + width)
        flat = np.array([batch, -1], np.int64)
        zeros = np.zeros((batch, out[0] * out[1] * channels), np.float32)
        places = g.op("Reshape", g.get_int64(op.inputs[1]), flat)
        y = g.op("ScatterElements", zeros, places, g.op("Reshape", x, flat), axis=1)
        g.put(op.outputs[0], g.op("Reshape", y, np.array([batch, *out, channels], np.int64)))
        return
    if (stride_h, stride_w) != (height, width):
        raise Refused("its windows overlap or leave gaps")
    split = np.array([batch, rows, 1, columns, 1, channels], np.int64)
    places = g.op("Reshape", g.op("Floor", g.get(op.inputs[1])), split)
    own = np.arange(height * width, dtype=np.float32).reshape(1, 1, height, 1, width, 1)
    chosen = g.op("Where", g.op("Equal", places, own), g.op("Reshape", x, split), np.zeros((), np.float32))
    full = np.array([batch, rows * height, columns * width, channels], np.int64)
    g.put(op.outputs[0], g.op("Reshape", chosen, full))


@converts(MATRIX, inputs=1, outputs=1)
def _matrix(g: Writer, op: Operator) -> None:
    """`[1, 4, 4]`: from a crop around some landmarks, upright between two of them, to the picture."""
    options = _options(op)
    if "scale_x" not in options:
        raise Refused("it is of the first version, which no published model has")
    shape = g.shape(op.inputs[0], 3, 4)
    if int(np.prod(shape)) != shape[-1] * shape[-2] or np.prod(shape) % 3:
        raise Refused(f"its landmarks have the shape {list(shape)}")
    marks = g.op("Reshape", g.get(op.inputs[0]), np.array([-1, 3], np.int64))
    turn = _turned(g, marks, options)
    subset = np.array(options["subset_idxs"], np.int64).reshape(-1)
    chosen = g.op("Gather", marks, subset, axis=0)
    x, y = (_column(g, chosen, k) for k in (0, 1))
    cos, sin = turn
    along = g.op("Sub", g.op("Mul", x, cos), g.op("Mul", y, sin))
    across = g.op("Add", g.op("Mul", x, sin), g.op("Mul", y, cos))
    half, sizes, middle = np.array(0.5, np.float32), [], []
    for value in (along, across):
        low, high = (
            g.op(kind, value, np.array([0], np.int64), keepdims=1) for kind in ("ReduceMin", "ReduceMax")
        )
        sizes.append(g.op("Sub", high, low))
        middle.append(g.op("Mul", g.op("Add", low, high), half))
    centre_x = g.op("Add", g.op("Mul", middle[0], cos), g.op("Mul", middle[1], sin))
    centre_y = g.op("Sub", g.op("Mul", middle[1], cos), g.op("Mul", middle[0], sin))
    width, height = float(options["output_width"]), float(options["output_height"])
    scale_x = g.op("Mul", sizes[0], np.array(options["scale_x"] / width, np.float32))
    scale_y = g.op("Mul", sizes[1], np.array(options["scale_y"] / height, np.float32))
    nothing, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    rows = []
    for first, second, centre in (
        (g.op("Mul", cos, scale_x), g.op("Mul", sin, scale_y), centre_x),
        (g.op("Neg", g.op("Mul", sin, scale_x)), g.op("Mul", cos, scale_y), centre_y),
    ):
        back = g.op("Mul", first, np.array(width / 2, np.float32))
        back = g.op("Add", back, g.op("Mul", second, np.array(height / 2, np.float32)))
        rows += [first, second, nothing, g.op("Sub", centre, back)]
    rows += [nothing, nothing, one, nothing, nothing, nothing, nothing, one]
    matrix = g.op("Concat", *[x if isinstance(x, str) else g.constant(x) for x in rows], axis=0)
    g.put(op.outputs[0], g.op("Reshape", matrix, np.array([1, 4, 4], np.int64)))


def _column(g: Writer, marks: str, number: int) -> str:
    """`[count, 1]`."""
    return str(g.op("Gather", marks, np.array([number], np.int64), axis=1))


def _turned(g: Writer, marks: str, options: dict[str, Any]) -> tuple[str, str]:
    """Cosine and sine of the rotation that brings the line between two landmarks to the wanted angle."""
    ends = [
        g.op("Gather", marks, np.array([int(options[f"{side}_rotation_idx"])], np.int64), axis=0)
        for side in ("left", "right")
    ]
    delta = g.op("Sub", ends[1], ends[0])
    dx, dy = (_column(g, delta, k) for k in (0, 1))
    length = g.op("Sqrt", g.op("Add", g.op("Mul", dx, dx), g.op("Mul", dy, dy)))
    same = g.op("Equal", length, np.array(0, np.float32))  # the angle of two equal points is zero
    cos = g.op("Where", same, np.array(1, np.float32), g.op("Div", dx, length))
    sin = g.op("Where", same, np.array(0, np.float32), g.op("Div", dy, length))
    wanted = float(options.get("target_rotation_radians", 0.0))
    c, s = np.array(np.cos(wanted), np.float32), np.array(np.sin(wanted), np.float32)
    turned_cos = g.op("Add", g.op("Mul", cos, c), g.op("Mul", sin, s))
    return turned_cos, g.op("Sub", g.op("Mul", cos, s), g.op("Mul", sin, c))


def _affine(g: Writer, matrix: int) -> tuple[str, str]:
    """The two rows of a `[1, 4, 4]` matrix that make x and y, each `[4, 1]`."""
    if g.shape(matrix, 3)[1:] != (4, 4):
        raise Refused("its matrix is not 4 by 4")
    flat = g.op("Reshape", g.get(matrix), np.array([16, 1], np.int64))
    rows = [g.op("Slice", flat, np.array([at]), np.array([at + 4]), np.array([0])) for at in (0, 4)]
    return rows[0], rows[1]


@converts(WARP, inputs=2, outputs=1)
def _warp(g: Writer, op: Operator) -> None:
    """Pixels between pixel centres by a matrix, bilinear; zero outside the centres of the outermost pixels."""
    options = _options(op)
    height, width = int(options["output_height"]), int(options["output_width"])
    batch, rows, columns, _ = g.shape(op.inputs[0], 4)
    if batch != 1:
        raise Refused("its batch is larger than 1")
    # places in the output, moved by half a pixel there and back
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    places = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], axis=-1).reshape(-1, 4).astype(np.float32)
    grid, inside = [], []
    for row, length in zip(_affine(g, op.inputs[1]), (columns, rows), strict=True):
        at = g.op("Sub", g.op("MatMul", places, row), np.array(0.5, np.float32))
        low = g.op("GreaterOrEqual", at, np.array(0, np.float32))
        high = g.op("LessOrEqual", at, np.array(length - 1, np.float32))
        inside.append(g.op("And", low, high))
        scaled = g.op("Mul", at, np.array(2 / max(length - 1, 1), np.float32))
        grid.append(g.op("Sub", scaled, np.array(1, np.float32)))
    sampling = g.op("Reshape", g.op("Concat", *grid, axis=1), np.array([1, height, width, 2], np.int64))
    value = g.op(
        "GridSample",
        g.get_nchw(op.inputs[0]),
        sampling,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=1,
    )
    mask = g.op("Reshape", g.op("And", *inside), np.array([1, 1, height, width], np.int64))
    g.put(op.outputs[0], g.op("Where", mask, value, np.array(0, np.float32)), nchw=True)


@converts(MOVE, inputs=2, outputs=1)
def _move(g: Writer, op: Operator) -> None:
    """x and y of landmarks by a matrix; z stays."""
    shape = g.shape(op.inputs[0], 3)
    if shape[2] not in (2, 3) or shape[0] != 1:
        raise Refused(f"its landmarks have the shape {list(shape)}")
    marks = g.op("Reshape", g.get(op.inputs[0]), np.array([-1, shape[2]], np.int64))
    plane = marks if shape[2] == 2 else g.op("Slice", marks, np.array([0]), np.array([2]), np.array([1]))
    moved = []
    for row in _affine(g, op.inputs[1]):
        linear, offset = (
            g.op("Slice", row, np.array([a]), np.array([b]), np.array([0])) for a, b in ((0, 2), (3, 4))
        )
        moved.append(g.op("Add", g.op("MatMul", plane, linear), offset))
    if shape[2] == 3:
        moved.append(_column(g, marks, 2))
    g.put(op.outputs[0], g.op("Reshape", g.op("Concat", *moved, axis=1), np.array(shape, np.int64)))
