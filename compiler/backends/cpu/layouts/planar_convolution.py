"""Which convolutions are computed in rows of pixels rather than in blocks of channels."""

from __future__ import annotations

from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.cpu.layouts.value import Plan, Value
from edgec.compiler.backends.cpu.specs import ConvSpec, PlanarSpec, UnpackSpec, Window
from edgec.compiler.backends.cpu.templates import planar, relayouts, winograd_candidates
from edgec.compiler.backends.cpu.templates.estimates import in_vectors, stream_cycles
from edgec.compiler.graph.rewrite import Array, constant, shape_of

LEAST_PIXELS = 1024  # of an image
RELAYOUT_CYCLES = 6.5  # of a change of layout in caches, for each pixel and block of channels
WORTHWHILE = 1.3  # by how much a kernel in rows of pixels has to be faster


def planar_convolution(plan: Plan, call: Call, weight: Array, window: Window) -> Value | None:
    """A convolution of few output channels in rows of pixels, where that is estimated to be faster than in blocks."""
    batch, channels, height, width = shape_of(call.args[0])
    outs, lanes, (rows, columns) = weight.shape[0], plan.lanes, window.out
    if window.stride[1] != 1 or rows * columns < LEAST_PIXELS or outs >= lanes or width < lanes:
        return None
    (top, left), (kh, kw) = window.pad, window.kernel
    bottom = (rows - 1) * window.stride[0] + (kh - 1) * window.dilation[0] + 1 - height - top
    right = columns + (kw - 1) * window.dilation[1] - width - left
    pad = (top, left, max(0, bottom), max(0, right))
    if min(top, left) < 0:
        return None
    spec = PlanarSpec(
        batch, channels, (height + top + pad[2], width + left + pad[3]), outs, window.kernel, window.dilation,
        window.stride[0], window.out, lanes,
    )  # fmt: skip
    source = UnpackSpec(batch, channels, (height, width), lanes, pad)
    if not planar.applies(spec) or not relayouts.applies(source):
        return None
    blocked = ConvSpec(batch, channels, (height, width), outs, window, lanes, lanes)
    estimate = planar.cycles(spec, in_vectors(plan.target, lanes)) + _relayout_cycles(plan, source)
    if WORTHWHILE * estimate > _blocked_cycles(plan, blocked):
        return None
    if plan.is_blocked(call.args[0]) and plan.state(call.args[0]).plain is None and any(pad):
        data = plan.call(relayouts.unpack(source), "unpack", plan.blocked(call.args[0]))
    else:
        data = plan.plain(call.args[0])
        if any(pad):
            data = plan.emit(relax.op.nn.pad(data, [0, 0, 0, 0, top, pad[2], left, pad[3]]))
    return Value(plan.call(planar.planar(spec), "planar", data, constant(weight)), None)


def _relayout_cycles(plan: Plan, source: UnpackSpec) -> float:
    """Estimated cycles of the change from blocks to rows in front of the kernel."""
    (height, width), lanes = source.size, source.lanes
    pixels = source.batch * height * width
    blocks = -(-source.channels // lanes)
    moved = 4.0 * pixels * (blocks * lanes + source.channels)
    return max(RELAYOUT_CYCLES * blocks * pixels, stream_cycles(plan.target, moved))


def _blocked_cycles(plan: Plan, spec: ConvSpec) -> float:
    """The fewest cycles that a kernel in blocks of channels takes: of multiply-adds alone, or with Winograd's tiles."""
    taps = spec.in_channels * spec.window.kernel[0] * spec.window.kernel[1]
    target = in_vectors(plan.target, spec.lanes)
    direct = spec.batch * spec.window.out[0] * spec.window.out[1] * taps / target.core.fma_per_cycle
    return min([direct, *(cost for cost, _ in winograd_candidates.candidates(spec, target, 1)[:1])])
