"""Batched product of two activations, `[…, rows, inner] × […, inner, cols]`: attention's two products.

A register tile of `rows` × `blocks` vectors passes over the inner dimension; the right operand is read in place, a
vector of columns at a time. The last vector of a row that does not fill its lanes ends at the last column and so
computes some columns twice, to the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm.tirx import PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import MatmulSpec
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.estimates import step_cycles
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    runs,
    seq,
    tiles,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.targets.target import Target

VERSION = 1


@dataclass(frozen=True)
class Schedule:
    """A candidate: rows and column vectors of the register tile."""

    rows: int
    blocks: int

    def __str__(self) -> str:
        return f"matmul {self.rows}x{self.blocks}"


def applies(spec: MatmulSpec) -> bool:
    """Whether the template supports `spec`: a row must fill a vector."""
    return spec.cols >= spec.lanes


def emit(spec: MatmulSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Matmul(spec, epilogue, schedule, threads).build()


def column_parts(cols: int, lanes: int, blocks: int) -> Iterator[tuple[int, int, int, list[int]]]:
    """Tiles of `blocks` vectors of columns: first column, stride, count, and the vectors' offsets in the tile.

    The last vector of a row that does not fill its lanes ends at the last column.
    """
    width = lanes * blocks
    whole, left = divmod(cols, width)
    if whole:
        yield 0, width, whole, [j * lanes for j in range(blocks)]
    if left:
        full, rest = divmod(left, lanes)
        offsets = [j * lanes for j in range(full)]
        yield whole * width, width, 1, offsets + ([left - lanes] if rest else [])


def most_rows(registers: int, blocks: int) -> int:
    """The rows of a tile of `blocks` vectors that stays in registers, beside the operands of a step."""
    spare = blocks + 1 if registers > 16 or blocks <= 2 else 2
    return (registers - spare) // blocks


def tile_cycles(target: Target, rows: int, blocks: int) -> float:
    """Cycles of a step of the inner dimension in a tile; vectors may cross cache lines, which takes a port longer."""
    return step_cycles(target, rows * blocks, rows + 1.5 * blocks)


class _Matmul:
    def __init__(self, spec: MatmulSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.left, self.right = epilogue.inputs

    def build(self) -> PrimFunc:
        parts = [self._rows(*part) for part in runs(tiles(self.spec.rows, self.schedule.rows))]
        return self.epilogue.build(seq(parts))

    def _rows(self, start: int, size: int, count: int) -> Stmt:
        def task(*at: Expr) -> Stmt:
            first = const(start) + at[-1] * const(size)
            parts = column_parts(self.spec.cols, self.spec.lanes, self.schedule.blocks)
            return seq([self._columns(list(at[:-1]), first, size, *part) for part in parts])

        return parallel([*self.spec.batch, count], task, self.threads)

    def _columns(
        self, batch: list[Expr], row: Expr, size: int, start: int, stride: int, count: int, offsets: list[int]
    ) -> Stmt:
        return loop(
            count,
            lambda c: self._tile(batch, row, size, const(start) + c * const(stride), offsets),
            "column",
        )

    def _tile(self, batch: list[Expr], row: Expr, size: int, column: Expr, offsets: list[int]) -> Stmt:
        lanes, blocks = self.spec.lanes, len(offsets)
        acc = Accumulators(size * blocks, lanes, self.spec.dtype)

        def step(k: Expr) -> Stmt:
            def one(i: Expr) -> Stmt:
                value = broadcast(self.left[*batch, row + i, k], lanes)
                steps = []
                for j, offset in enumerate(offsets):
                    vector = vector_load(self.right, [*batch, k, column + const(offset)], lanes)
                    at = i * const(blocks) + const(j)
                    steps.append(acc.set(at, acc.get(at) + value * vector))
                return seq(steps)

            return unrolled(size, one)

        def store(j: int, i: Expr) -> Stmt:
            def element(lane: Expr) -> Stmt:
                place = [*batch, row + i, column + const(offsets[j]) + lane]
                return self.epilogue.store(place, acc.element(i * const(blocks) + const(j), lane))

            return vectorised(lanes, element)

        stores = [unrolled(size, partial(store, j)) for j in range(blocks)]
        return acc.allocate([*acc.fill(0.0), loop(self.spec.inner, step, "k"), *stores])


def candidates(spec: MatmulSpec, target: Target, threads: int) -> list[Any]:
    """The schedules worth timing, best guess first."""
    if not applies(spec):
        return []
    vectors = -(-spec.cols // spec.lanes)
    found: list[tuple[float, str, Schedule]] = []
    for blocks in (1, 2, 3, 4, 5, 6):
        if blocks > vectors:
            continue
        most = most_rows(target.vector_registers, blocks)
        for rows in sorted(
            {max(size for _, size in tiles(spec.rows, r)) for r in (most, most - 1, 8, 6, 4) if 0 < r <= most}
        ):
            made = Schedule(rows, blocks)
            found.append((_cost(spec, made, target), str(made), made))
    return [schedule for _, _, schedule in sorted(found, key=lambda item: item[:2])]


def _cost(spec: MatmulSpec, schedule: Schedule, target: Target) -> float:
    """Cycles for one step of the inner dimension over all tiles."""
    vectors = -(-spec.cols // spec.lanes)
    whole, rest = divmod(vectors, schedule.blocks)
    total = 0.0
    for _, rows in tiles(spec.rows, schedule.rows):
        for blocks, count in ((schedule.blocks, whole), (rest, 1 if rest else 0)):
            total += count * tile_cycles(target, rows, blocks)
    return total


TEMPLATE = Template(
    "matmul",
    (VERSION,),
    lambda spec: isinstance(spec, MatmulSpec),
    fused_with_epilogue(VERSION, candidates, emit),
)
