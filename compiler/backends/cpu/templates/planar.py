"""Convolution of few output channels on NCHW tensors: the lanes are neighbouring pixels of a row.

In blocks of channels such a convolution would leave most lanes idle. The input comes with its padding, so no tile has
borders; the last vector of a row ends with it and computes some pixels twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import te
from tvm.tirx import PrimFunc, Stmt

from edgec.compiler.backends.cpu.compute import prim_func
from edgec.compiler.backends.cpu.specs import PlanarSpec, encode
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.estimates import fetch_cycles, step_cycles, stream_cycles
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    seq,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.matmul import column_parts
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.compiler.graph.anchors import ANCHOR
from edgec.targets.target import Target

VERSION = 1
CROSSING = 1.5  # ports that a load takes which may cross cache lines


@dataclass(frozen=True)
class Schedule:
    """A candidate: output channels and vectors of pixels of the register tile."""

    channels: int
    vectors: int

    def __str__(self) -> str:
        return f"planar {self.channels}x{self.vectors}"


def planar(spec: PlanarSpec) -> PrimFunc:
    """The definition."""
    data = te.placeholder((spec.batch, spec.in_channels, *spec.size), spec.dtype, "data")
    weight = te.placeholder((spec.out_channels, spec.in_channels, *spec.kernel), spec.dtype, "weight")
    ic = te.reduce_axis((0, spec.in_channels), "ic")
    ky = te.reduce_axis((0, spec.kernel[0]), "ky")
    kx = te.reduce_axis((0, spec.kernel[1]), "kx")

    def body(n: Expr, o: Expr, y: Expr, x: Expr) -> Expr:
        value = data[n, ic, y * spec.stride + ky * spec.dilation[0], x + kx * spec.dilation[1]]
        return te.sum(value * weight[o, ic, ky, kx], axis=[ic, ky, kx])

    shape = (spec.batch, spec.out_channels, *spec.out)
    out = te.compute(shape, body, name="planar", attrs={ANCHOR: encode(spec)})
    return prim_func([data, weight], out, spec)


def emit(spec: PlanarSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    data, weight = epilogue.inputs
    lanes = spec.lanes

    def tile(n: Expr, y: Expr, x: Expr, first: int, count: int, offsets: list[int]) -> Stmt:
        acc = Accumulators(count * len(offsets), lanes, spec.dtype)

        def tap(ic: Expr, ky: Expr, kx: Expr) -> Stmt:
            row = y * const(spec.stride) + ky * const(spec.dilation[0])
            column = x + kx * const(spec.dilation[1])
            steps = []
            for j, offset in enumerate(offsets):
                vector = vector_load(data, [n, ic, row, column + const(offset)], lanes)
                for o in range(count):
                    at = o * len(offsets) + j
                    factor = broadcast(weight[first + o, ic, ky, kx], lanes)
                    steps.append(acc.set(at, acc.get(at) + vector * factor))
            return seq(steps)

        def taps(ic: Expr) -> Stmt:
            return loop(
                spec.kernel[0],
                lambda ky: loop(spec.kernel[1], lambda kx: tap(ic, ky, kx), "kx"),
                "ky",
            )

        def store(j: int, o: Expr) -> Stmt:
            place = [n, const(first) + o, y, x + const(offsets[j])]
            return vectorised(
                lanes,
                lambda lane: epilogue.store(
                    [*place[:3], place[3] + lane], acc.element(o * const(len(offsets)) + const(j), lane)
                ),
            )

        stores = [unrolled(count, partial(store, j)) for j in range(len(offsets))]
        return acc.allocate([*acc.fill(0.0), loop(spec.in_channels, taps, "ic"), *stores])

    def row(n: Expr, y: Expr) -> Stmt:
        parts: list[Stmt] = []
        for first in range(0, spec.out_channels, schedule.channels):
            count = min(schedule.channels, spec.out_channels - first)
            for start, width, repeats, offsets in column_parts(spec.out[1], lanes, schedule.vectors):

                def one(
                    t: Expr,
                    first: int = first,
                    count: int = count,
                    start: int = start,
                    width: int = width,
                    offsets: list[int] = offsets,
                ) -> Stmt:
                    return tile(n, y, const(start) + t * const(width), first, count, offsets)

                parts.append(loop(repeats, one, "tile"))
        return seq(parts)

    return epilogue.build(parallel([spec.batch, spec.out[0]], row, threads))


def applies(spec: PlanarSpec) -> bool:
    """Whether the template supports `spec`: a row must fill a vector."""
    return spec.out[1] >= spec.lanes


def candidates(spec: PlanarSpec, target: Target, _threads: int) -> list[Schedule]:
    """The schedules worth timing, best guess first."""
    if not applies(spec):
        return []
    longest = -(-spec.out[1] // spec.lanes)
    found: list[tuple[float, str, Schedule]] = []
    for channels in range(1, min(spec.out_channels, 8) + 1):
        for vectors in range(1, min(longest, 12) + 1):
            if channels * vectors + vectors + 1 > target.vector_registers:
                continue
            made = Schedule(channels, vectors)
            found.append((_cost(spec, made, target), str(made), made))
    return [made for _, _, made in sorted(found, key=lambda item: item[:2])]


def _cost(spec: PlanarSpec, schedule: Schedule, target: Target) -> float:
    """Cycles of a tap over a row of all channels."""
    total = 0.0
    for first in range(0, spec.out_channels, schedule.channels):
        count = min(schedule.channels, spec.out_channels - first)
        for _, _, repeats, offsets in column_parts(spec.out[1], spec.lanes, schedule.vectors):
            loads = CROSSING * len(offsets) + 0.5 * count  # a factor may be part of the multiply-add
            total += repeats * (step_cycles(target, count * len(offsets), loads) + 0.5)
    return total


def cycles(spec: PlanarSpec, target: Target) -> float:
    """Estimated cycles of a call on one thread: multiply-adds, and the input from outer caches.

    A row of tiles reads its input rows once for each group of output channels, in short pieces from plane to plane.
    """
    best = candidates(spec, target, 1)[0]
    rows, taps = spec.batch * spec.out[0], spec.in_channels * spec.kernel[0] * spec.kernel[1]
    read = 4.0 * spec.in_channels * spec.kernel[0] * spec.size[1]
    passes = -(-spec.out_channels // best.channels)
    image = 4.0 * spec.batch * spec.in_channels * spec.size[0] * spec.size[1]
    busy = rows * taps * _cost(spec, best, target)
    return busy + rows * passes * fetch_cycles(target, read, read) + stream_cycles(target, image)


TEMPLATE = Template(
    "planar",
    (VERSION,),
    lambda spec: isinstance(spec, PlanarSpec),
    fused_with_epilogue(VERSION, candidates, emit),
)
