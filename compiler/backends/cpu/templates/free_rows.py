"""Products with constant weights of a number of rows that is known only when they run.

The register tile of `dense` passes over as many rows as it divides; those that are left go through tiles of 8, 4, 2
and 1 rows, as the bits of their number say. Columns and the reduced axis have fixed sizes.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tvm import tirx
from tvm.tirx import ForKind, IfThenElse, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import DenseSpec
from edgec.compiler.backends.cpu.templates.dense import Dense, Schedule, candidates
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.estimates import chains
from edgec.compiler.backends.cpu.templates.loop_nests import Expr, const, loop, seq
from edgec.targets.target import Target

MANY = 168  # rows for which the tile is chosen: a multiple of most heights
PARALLEL_FLOPS = 200_000  # of a run: threads are woken for no fewer


def choose(spec: DenseSpec, target: Target, threads: int) -> Schedule:
    """The tile for many rows; its columns are for all threads where there are enough of them."""
    return candidates(replace(spec, rows=MANY), target, threads)[0]


def emit(spec: DenseSpec, epilogue: Epilogue, schedule: Schedule, target: Target, threads: int) -> PrimFunc:
    """The kernel of `spec`, whose number of rows is that of the operands' leading axes."""
    return _FreeRows(spec, epilogue, schedule, target, threads).build()


class _FreeRows(Dense):
    def __init__(
        self, spec: DenseSpec, epilogue: Epilogue, schedule: Schedule, target: Target, threads: int
    ) -> None:
        super().__init__(spec, epilogue, schedule, threads)
        self.target = target
        self.leading = list(self.data.ty.shape[:-1])
        self.count: Expr = math.prod(self.leading[1:], start=self.leading[0])

    def place(self, row: Expr) -> list[Expr]:
        """The indices of a row along the leading axes; LLVM computes them once a tile."""
        found: list[Expr] = []
        for size in reversed(self.leading[1:]):
            found.append(tirx.floormod(row, size))
            row = tirx.floordiv(row, size)
        return [row, *reversed(found)]

    def build(self) -> PrimFunc:
        """One thread for few operations, all of them for many."""
        per_row = 2 * self.spec.inner * self.spec.cols
        if self.threads == 1:
            return self.epilogue.build(self._shared(1))
        if per_row >= PARALLEL_FLOPS:
            return self.epilogue.build(self._shared(self.threads))
        many = self.count >= const(-(-PARALLEL_FLOPS // per_row))
        return self.epilogue.build(IfThenElse(many, self._shared(self.threads), self._shared(1)))

    def _shared(self, threads: int) -> Stmt:
        """Threads divide columns; tiles of rows where there are too few columns."""
        groups = self.spec.cols // (self.spec.lanes * self.schedule.blocks)
        if threads == 1 or groups >= threads:
            return self.groups(
                lambda b, blocks: seq([self._tiles(b, blocks), *self._rest(b, blocks)]), threads
            )

        def row(t: Expr) -> Stmt:
            first = t * const(self.schedule.rows)
            return self.groups(lambda b, blocks: self.tile(b, first, self.schedule.rows, blocks), 1)

        whole = loop(tirx.floordiv(self.count, const(self.schedule.rows)), row, "task", ForKind.PARALLEL)
        return seq([whole, self.groups(lambda b, blocks: seq(self._rest(b, blocks)), 1)])

    def _tiles(self, b: Expr, blocks: int) -> Stmt:
        """Whole tiles of rows."""
        rows = self.schedule.rows
        count = tirx.floordiv(self.count, const(rows))
        return loop(count, lambda t: self.tile(b, t * const(rows), rows, blocks), "row")

    def _rest(self, b: Expr, blocks: int) -> list[Stmt]:
        """What whole tiles leave: a tile for each bit of the number of rows."""
        left = tirx.floormod(self.count, const(self.schedule.rows))
        made: list[Stmt] = []
        for bit in reversed(range((self.schedule.rows - 1).bit_length())):
            size = 1 << bit
            first = self.count - tirx.floormod(left, const(2 * size))
            some = tirx.floormod(tirx.floordiv(left, const(size)), const(2)) != const(0)
            made.append(IfThenElse(some, self.tile(b, first, size, blocks, self._split(size, blocks)), None))
        return made or [tirx.Evaluate(const(0))]

    def _split(self, rows: int, blocks: int) -> int:
        """Partial sums that hide the latency of few accumulators."""
        registers = self.target.vector_registers - 2
        wanted = chains(self.target, self.spec.operands) // (rows * blocks)
        most = min(4, wanted, registers // (rows * blocks), self.spec.inner // self.spec.operands.step)
        return max(1, most)
