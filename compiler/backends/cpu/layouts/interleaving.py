"""Phases of a picture that lie in channels become its pixels: transposed convolutions, and depth to space.

Importers spell it as a reshape that splits the channels, a transpose, and a reshape that joins rows and columns. Where
each phase has whole blocks of channels, pixels move block by block, and nothing becomes a plain tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.ir import Call

from edgec.compiler.backends.cpu import compute, relayout
from edgec.compiler.backends.cpu.layouts.packing import pack_conv
from edgec.compiler.backends.cpu.layouts.value import Plan, Value
from edgec.compiler.backends.cpu.specs import ConvSpec, Window
from edgec.compiler.graph.rewrite import Expr, array_of, constant, dtype_of, op_name, shape_of
from edgec.compiler.operands.operands import FLOAT32

MOST_PADDED = 1.34  # blocks of channels with each phase in blocks of its own, for one without
_ORDER = [0, 3, 4, 1, 5, 2]  # of [batch, rows, columns, channels, height, width] of phases


@dataclass(frozen=True)
class _Phases:
    """`strides` phases of `channels` each, in the channels of `source`."""

    source: Expr
    strides: tuple[int, int]
    channels: int


def interleaved(plan: Plan, call: Call) -> Value | None:
    """The blocked value of the last reshape of such a spelling; None for any other reshape."""
    phases = _phases(plan, call)
    if phases is None or dtype_of(call) != "float32":
        return None
    if phases.channels % plan.lanes == 0 and plan.is_blocked(phases.source):
        data: Expr | None = plan.blocked(phases.source)
    else:
        data = _in_blocks_of_their_own(plan, phases)
    if data is None:
        return None
    made = relayout.interleave(shape_of(data), phases.strides, dtype_of(data))
    return Value(None, plan.call(made, "interleave", data), phases.channels)


def _phases(plan: Plan, call: Call) -> _Phases | None:
    turned = plan.definition(call.args[0])
    if turned is None or op_name(turned) != "permute_dims" or turned.attrs.axes is None:
        return None
    split = plan.definition(turned.args[0])
    if [int(axis) for axis in turned.attrs.axes] != _ORDER or split is None or op_name(split) != "reshape":
        return None
    batch, rows, columns, channels, height, width = shape_of(split)
    source = split.args[0]
    fits = shape_of(source) == (batch, rows * columns * channels, height, width)
    if not fits or shape_of(call) != (batch, channels, height * rows, width * columns):
        return None
    return _Phases(source, (rows, columns), channels)


def _in_blocks_of_their_own(plan: Plan, phases: _Phases) -> Expr | None:
    """The convolution that makes the phases, with channels of zeros where a phase fills no whole blocks."""
    made = plan.definition(phases.source)
    if made is None or op_name(made) != "nn.conv2d" or not plan.is_blocked(made.args[0]):
        return None
    weight, attrs, lanes = array_of(made.args[1]), made.attrs, plan.lanes
    count = phases.strides[0] * phases.strides[1]
    whole = -(-phases.channels // lanes) * lanes
    plain = attrs.data_layout == "NCHW" and int(attrs.groups) == 1 and dtype_of(made) == "float32"
    if weight is None or not plain or plan.operands(weight.shape[1]) is not FLOAT32:
        return None
    if count * whole > MOST_PADDED * -(-count * phases.channels // lanes) * lanes:
        return None
    wide = np.zeros((count, whole, *weight.shape[1:]), weight.dtype)
    wide[:, : phases.channels] = weight.reshape(count, phases.channels, *weight.shape[1:])
    wide = wide.reshape(count * whole, *weight.shape[1:])
    batch, channels, height, width = shape_of(made.args[0])
    out = shape_of(made)
    window = Window(
        (weight.shape[2], weight.shape[3]), (int(attrs.strides[0]), int(attrs.strides[1])),
        (int(attrs.dilation[0]), int(attrs.dilation[1])), (int(attrs.padding[0]), int(attrs.padding[1])),
        (out[2], out[3]),
    )  # fmt: skip
    spec = ConvSpec(batch, channels, (height, width), count * whole, window, lanes, lanes)
    packed = constant(FLOAT32.pack(pack_conv(wide, lanes, spec.chunk)))
    return plan.call(compute.conv2d(spec), "conv2d", plan.blocked(made.args[0]), packed)
