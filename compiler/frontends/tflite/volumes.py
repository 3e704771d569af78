"""Convolutions over three axes: images with depth or time."""

from __future__ import annotations

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import SAME, activated, converts, same_padding

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 4, 1, 2, 3], [0, 2, 3, 4, 1]


def _sizes(op: Operator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    options = op.options
    strides = (int(options.strideD), int(options.strideH), int(options.strideW))
    dilations = tuple(int(getattr(options, f"dilation{axis}Factor")) or 1 for axis in "DHW")
    return strides, dilations


@converts("CONV_3D", inputs=(2, 3), outputs=1)
def _conv_3d(g: Writer, op: Operator) -> None:
    """Filters are `[depth, height, width, channels in, channels out]`."""
    weights = g.real(op.inputs[1])
    shape = g.shape(op.inputs[0], 5)
    if weights.ndim != 5 or shape[4] % weights.shape[3]:
        raise Refused(f"its filters of shape {list(weights.shape)} do not fit {shape[4]} channels")
    strides, dilations = _sizes(op)
    kernel, pads = weights.shape[:3], [(0, 0)] * 3
    if op.options.padding == SAME:
        pads = [same_padding(*parts) for parts in zip(shape[1:4], kernel, strides, dilations, strict=True)]
    y = g.op(
        "Conv",
        g.op("Transpose", g.get(op.inputs[0]), perm=TO_CHANNELS_FIRST),
        weights.transpose(4, 3, 0, 1, 2).copy(),
        *_bias(g, op, 2),
        kernel_shape=list(kernel),
        strides=list(strides),
        dilations=list(dilations),
        pads=[begin for begin, _ in pads] + [end for _, end in pads],
        group=shape[4] // weights.shape[3],
    )
    _finish(g, op, y)


def _bias(g: Writer, op: Operator, position: int) -> list[str]:
    given = position < len(op.inputs) and op.inputs[position] >= 0
    return [g.constant(g.real(op.inputs[position]))] if given else []


def _finish(g: Writer, op: Operator, y: str) -> None:
    y = g.op("Transpose", y, perm=TO_CHANNELS_LAST)
    g.put(op.outputs[0], activated(g, y, op.options.fusedActivationFunction, op.outputs[0]))


@converts("CONV_3D_TRANSPOSE", inputs=(3, 4), outputs=1)
def _conv_3d_transpose(g: Writer, op: Operator) -> None:
    """Filters are `[depth, height, width, channels out, channels in]`."""
    out, weights = g.ints(op.inputs[0]), g.real(op.inputs[1])
    shape = g.shape(op.inputs[2], 5)
    strides, dilations = _sizes(op)
    begin, end, beyond = [], [], []
    for n, to, k, s, d in zip(shape[1:4], out[1:4], weights.shape[:3], strides, dilations, strict=True):
        extra = (n - 1) * s + (k - 1) * d + 1 - to
        if extra <= -s:
            raise Refused("its output is larger than its input and filters make")
        first = max(extra, 0) // 2 if op.options.padding == SAME else 0
        begin.append(first)
        end.append(max(extra, 0) - first)
        beyond.append(max(-extra, 0))
    y = g.op(
        "ConvTranspose",
        g.op("Transpose", g.get(op.inputs[2]), perm=TO_CHANNELS_FIRST),
        weights.transpose(4, 3, 0, 1, 2).copy(),
        *_bias(g, op, 3),
        kernel_shape=list(weights.shape[:3]),
        strides=list(strides),
        dilations=list(dilations),
        pads=begin + end,
        output_padding=beyond,
    )
    _finish(g, op, y)
