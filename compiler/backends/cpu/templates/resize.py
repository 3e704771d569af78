"""Linear interpolation of blocked images.

Where an output row or column reads, and by what factors, is in tables that the compiler made: no coordinate is computed
at run time. A task makes an output row: it blends two input rows into one, and pairs of that one's pixels into pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import te, tirx
from tvm.tirx import Buffer, PrimFunc, Stmt

from edgec.compiler.backends.cpu.compute import prim_func
from edgec.compiler.backends.cpu.specs import ResizeSpec, encode
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    INDEX,
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.compiler.graph.anchors import ANCHOR
from edgec.compiler.graph.rewrite import Array
from edgec.targets.target import Target

VERSION = 1
# Coordinates in the input of output pixel `at`, given the sizes of input and output.
COORDINATES: dict[str, Callable[[Array, int, int], Array]] = {
    "half_pixel": lambda at, size, out: (at + 0.5) * (size / out) - 0.5,
    "pytorch_half_pixel": lambda at, size, out: (at + 0.5) * (size / out) - 0.5 if out > 1 else at,
    "asymmetric": lambda at, size, out: at * (size / out),
    "align_corners": lambda at, size, out: at * ((size - 1) / max(1, out - 1)),
}


@dataclass(frozen=True)
class Schedule:
    """A candidate; `rows_first` blends whole rows before pixels, which pays unless most columns are skipped."""

    rows_first: bool

    def __str__(self) -> str:
        return "resize " + ("rows first" if self.rows_first else "by pixels")


def tables(size: int, out: int, mode: str) -> tuple[Array, Array]:
    """What the outputs along an axis read.

    Args:
        size: of the input.
        out: size of the output.
        mode: a key of `COORDINATES`.

    Returns:
        `[out, 2]` both: the two neighbours as int32, and their factors as float32.
    """
    at = COORDINATES[mode](np.arange(out, dtype=np.float64), size, out)
    first = np.floor(at)
    places = np.clip(np.stack([first, first + 1], axis=1), 0, size - 1).astype(np.int32)
    part = at - first
    return places, np.stack([1 - part, part], axis=1).astype(np.float32)


def resize(spec: ResizeSpec) -> PrimFunc:
    """The definition: of an image and the tables of rows and columns."""
    (height, width), lanes = spec.out, spec.lanes
    data = te.placeholder((spec.batch, spec.blocks, *spec.size, lanes), spec.dtype, "data")
    rows = te.placeholder((height, 2), "int32", "rows")
    row_factors = te.placeholder((height, 2), spec.dtype, "row_factors")
    columns = te.placeholder((width, 2), "int32", "columns")
    column_factors = te.placeholder((width, 2), spec.dtype, "column_factors")

    def body(n: Expr, b: Expr, y: Expr, x: Expr, v: Expr) -> Expr:
        def pixel(i: int) -> Expr:
            place = columns[x, i].astype(INDEX)
            upper, lower = (
                data[n, b, rows[y, k].astype(INDEX), place, v] * row_factors[y, k] for k in (0, 1)
            )
            return upper + lower

        return pixel(0) * column_factors[x, 0] + pixel(1) * column_factors[x, 1]

    shape = (spec.batch, spec.blocks, height, width, lanes)
    out = te.compute(shape, body, name="resize", attrs={ANCHOR: encode(spec)})
    return prim_func([data, rows, row_factors, columns, column_factors], out, spec)


def _operands(epilogue: Epilogue) -> tuple[Buffer, ...]:
    """The image, the tables of rows, the tables of columns.

    The epilogue has them in the order in which the definition reads them, where an index comes before what it indexes:
    among tables of a type, rows come before columns.
    """
    (data,) = (b for b in epilogue.inputs if len(b.ty.shape) == 5)
    places = [b for b in epilogue.inputs if len(b.ty.shape) == 2 and str(b.ty.dtype.dtype) == "int32"]
    factors = [b for b in epilogue.inputs if len(b.ty.shape) == 2 and not any(b.same_as(p) for p in places)]
    return data, places[0], factors[0], places[-1], factors[-1]  # equal tables may be one


def emit(spec: ResizeSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    data, rows, row_factors, columns, column_factors = _operands(epilogue)
    lanes = spec.lanes

    def blended(n: Expr, b: Expr, y: Expr, column: Expr) -> Expr:
        """A pixel between two input rows."""
        upper, lower = (
            vector_load(data, [n, b, rows[y, k].astype(INDEX), column, 0], lanes)
            * broadcast(row_factors[y, k], lanes)
            for k in (0, 1)
        )
        return upper + lower

    def row(place: list[Expr], pixel: Callable[[Expr], Expr]) -> Stmt:
        def column(x: Expr) -> Stmt:
            acc = Accumulators(1, lanes, spec.dtype)
            left, right = (
                pixel(columns[x, k].astype(INDEX)) * broadcast(column_factors[x, k], lanes) for k in (0, 1)
            )
            store = vectorised(lanes, lambda lane: epilogue.store([*place, x, lane], acc.element(0, lane)))
            return acc.allocate([acc.set(0, left + right), store])

        return loop(spec.out[1], column, "x")

    def task(n: Expr, y: Expr, b: Expr) -> Stmt:
        if not schedule.rows_first:
            return row([n, b, y], lambda column: blended(n, b, y, column))
        held = tirx.decl_buffer((spec.size[1] * lanes,), spec.dtype, "row", scope="global", data_alignment=64)

        def blend(column: Expr) -> Stmt:
            return held.vstore([column * const(lanes)], blended(n, b, y, column))

        def pixel(column: Expr) -> Expr:
            return vector_load(held, [column * const(lanes)], lanes)

        steps = [tirx.AllocBuffer(held), loop(spec.size[1], blend, "column"), row([n, b, y], pixel)]
        return tirx.SeqStmt(steps)

    return epilogue.build(parallel([spec.batch, spec.out[0], spec.blocks], task, threads))


def candidates(spec: ResizeSpec, _target: Target | None = None, _threads: int = 1) -> list[Schedule]:
    """The schedules worth timing, best guess first."""
    rows_first = spec.size[1] <= 2 * spec.out[1]
    return [Schedule(rows_first), Schedule(not rows_first)]


TEMPLATE = Template(
    "resize",
    (VERSION,),
    lambda spec: isinstance(spec, ResizeSpec),
    fused_with_epilogue(VERSION, candidates, emit),
)
