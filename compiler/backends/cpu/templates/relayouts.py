"""Changes between NCHW and blocks of channels: square tiles of pixels and channels are transposed in registers.

Tiles follow a row, or the whole image as one row, and the last one ends with it: it moves some pixels twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tvm import te, tirx
from tvm.tirx import PrimFunc, Stmt

from edgec.compiler.backends.cpu.compute import prim_func
from edgec.compiler.backends.cpu.specs import PackSpec, UnpackSpec, encode
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    seq,
    transpose,
    transposed,
    vector_load,
)
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.compiler.graph.anchors import ANCHOR, WHOLE
from edgec.targets.target import Target

VERSION = 1


@dataclass(frozen=True)
class Schedule:
    """The only candidate; `flat` moves an image as one row."""

    flat: bool

    def __str__(self) -> str:
        return "transpose" + (" flat" if self.flat else "")


def pack(spec: PackSpec) -> PrimFunc:
    """The definition: NCHW to blocked; the lanes beyond the last channel become zero."""
    lanes = spec.lanes
    data = te.placeholder((spec.batch, spec.channels, *spec.size), spec.dtype, "data")

    def body(n: Expr, b: Expr, y: Expr, x: Expr, v: Expr) -> Expr:
        c = b * lanes + v
        if spec.channels % lanes == 0:
            return data[n, c, y, x]
        return tirx.if_then_else(c < spec.channels, data[n, c, y, x], tirx.const(0, spec.dtype))

    shape = (spec.batch, -(-spec.channels // lanes), *spec.size, lanes)
    out = te.compute(shape, body, name="pack", attrs={ANCHOR: encode(spec)})
    return prim_func([data], out, spec).with_attr(WHOLE, True)


def unpack(spec: UnpackSpec) -> PrimFunc:
    """The definition: blocked to NCHW, with zeros around."""
    lanes, (top, left, bottom, right), (height, width) = spec.lanes, spec.pad, spec.size
    data = te.placeholder((spec.batch, -(-spec.channels // lanes), *spec.size, lanes), spec.dtype, "data")

    def body(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        value = data[n, c // lanes, y - top, x - left, c % lanes]
        if not any(spec.pad):
            return value
        inside = tirx.all(y >= top, y < height + top, x >= left, x < width + left)
        return tirx.if_then_else(inside, value, tirx.const(0, spec.dtype))

    shape = (spec.batch, spec.channels, height + top + bottom, width + left + right)
    out = te.compute(shape, body, name="unpack", attrs={ANCHOR: encode(spec)})
    return prim_func([data], out, spec).with_attr(WHOLE, True)


def applies(spec: PackSpec | UnpackSpec) -> bool:
    """Whether there is a schedule for `spec`."""
    return spec.lanes & (spec.lanes - 1) == 0 and bool(candidates(spec))


def _row(length: int, lanes: int, tile: Callable[[Expr], Stmt]) -> list[Stmt]:
    """`tile(first pixel)` along a row of at least `lanes` pixels."""
    whole, rest = divmod(length, lanes)
    steps = [loop(whole, lambda t: tile(t * const(lanes)), "tile")]
    return [*steps, tile(const(length - lanes))] if rest else steps


def _emit_pack(spec: PackSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    (data,), out, lanes = epilogue.inputs, epilogue.output, spec.lanes
    blocks = -(-spec.channels // lanes)
    rows, width = (1, spec.size[0] * spec.size[1]) if schedule.flat else spec.size

    def block(n: Expr, y: Expr, b: Expr, count: int) -> Stmt:
        def tile(x: Expr) -> Stmt:
            held = Accumulators(2 * lanes, lanes, spec.dtype)
            zero = broadcast(tirx.const(0, spec.dtype), lanes)
            load = [
                held.set(
                    i, vector_load(data, [n, b * const(lanes) + const(i), y, x], lanes) if i < count else zero
                )
                for i in range(lanes)
            ]
            first = transposed(lanes)
            store = [out.vstore([n, b, y, x + const(i), const(0)], held.get(first + i)) for i in range(lanes)]
            return held.allocate([*load, *transpose(held, lanes), *store])

        return seq(_row(width, lanes, tile))

    def task(n: Expr, y: Expr) -> Stmt:
        whole, rest = divmod(spec.channels, lanes)
        parts = [loop(whole, lambda b: block(n, y, b, lanes), "b")] if whole else []
        return seq([*parts, block(n, y, const(whole), rest)] if rest else parts)

    if schedule.flat and spec.channels % lanes == 0:
        return epilogue.build(
            parallel([spec.batch, blocks], lambda n, b: block(n, const(0), b, lanes), threads)
        )
    return epilogue.build(parallel([spec.batch, rows], task, threads))


def _emit_unpack(spec: UnpackSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    (data,), out, lanes = epilogue.inputs, epilogue.output, spec.lanes
    top, left, bottom, right = spec.pad
    rows, width = (1, spec.size[0] * spec.size[1]) if schedule.flat else spec.size

    def block(n: Expr, y: Expr, b: Expr, count: int) -> Stmt:
        def tile(x: Expr) -> Stmt:
            held = Accumulators(2 * lanes, lanes, spec.dtype)
            load = [held.set(i, vector_load(data, [n, b, y, x + const(i), 0], lanes)) for i in range(lanes)]
            first = transposed(lanes)
            store = [
                out.vstore(
                    [n, b * const(lanes) + const(i), y + const(top), x + const(left)], held.get(first + i)
                )
                for i in range(count)
            ]
            return held.allocate([*load, *transpose(held, lanes), *store])

        def sides(i: Expr) -> Stmt:
            return seq(
                [
                    fill(n, b * const(lanes) + i, y + const(top), 0, left),
                    fill(n, b * const(lanes) + i, y + const(top), left + width, right),
                ]
            )

        edges = [loop(count, sides, "edge")] if left or right else []
        return seq([*_row(width, lanes, tile), *edges])

    def fill(n: Expr, c: Expr, y: Expr, start: int, length: int) -> Stmt:
        zero = tirx.const(0, spec.dtype)
        if not length:
            return tirx.Evaluate(const(0))
        return loop(length, lambda x: tirx.BufferStore(out, zero, [n, c, y, const(start) + x]), "x")

    def task(n: Expr, y: Expr) -> Stmt:
        whole, rest = divmod(spec.channels, lanes)
        parts = [loop(whole, lambda b: block(n, y, b, lanes), "b")] if whole else []
        return seq([*parts, block(n, y, const(whole), rest)] if rest else parts)

    def border(first: int, n: Expr, c: Expr, y: Expr) -> Stmt:
        return fill(n, c, const(first) + y, 0, left + width + right)

    body = [parallel([spec.batch, rows], task, threads)]
    for first, count in ((0, top), (top + spec.size[0], bottom)):
        if count:
            body.append(parallel([spec.batch, spec.channels, count], partial(border, first), 1))
    return epilogue.build(seq(body))


def emit(spec: PackSpec | UnpackSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    if isinstance(spec, PackSpec):
        return _emit_pack(spec, epilogue, schedule, threads)
    return _emit_unpack(spec, epilogue, schedule, threads)


def candidates(
    spec: PackSpec | UnpackSpec, _target: Target | None = None, _threads: int = 1
) -> list[Schedule]:
    """The schedules."""
    pixels = spec.size[0] * spec.size[1]
    padded = isinstance(spec, UnpackSpec) and any(spec.pad)
    ragged = spec.size[1] % spec.lanes != 0 and spec.size[1] < 4 * spec.lanes
    if ragged and not padded and pixels >= spec.lanes:
        return [Schedule(flat=True)]
    if spec.size[1] >= spec.lanes:
        return [Schedule(flat=False)]
    return []


TEMPLATE = Template(
    "relayout",
    (VERSION,),
    lambda spec: isinstance(spec, PackSpec | UnpackSpec),
    fused_with_epilogue(VERSION, candidates, emit),
)
