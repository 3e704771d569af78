"""Products of rounded activations with constant weights of 4 or 8 bits in blocks (see `RoundedSpec`).

A block's products are added up in int32 by dot instructions; each sum is scaled once. Codes of 4 bits are split into
bytes of even and of odd elements, in the order in which the activations lie. On x86 the codes are the unsigned factor:
they are moved up by half their range, which the sum of the activations' codes makes up for.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import AllocBuffer, Buffer, PrimFunc, SeqStmt, Stmt

from edgec.compiler.backends.cpu.dot_instructions import operands_for
from edgec.compiler.backends.cpu.templates.column_groups import column_groups
from edgec.compiler.backends.cpu.templates.dot import WORD, multiply_add
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    buffer_dtype,
    const,
    loop,
    runs,
    seq,
    tiles,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.compiler.graph.narrow_products import LANES, RoundedSpec
from edgec.compiler.operands.operands import INT8, UINT8_INT8, Operands
from edgec.targets.target import Target

VERSION = 1
_BYTES = 4  # of a word
_SPARE = 4  # registers that hold no sum


@dataclass(frozen=True)
class Schedule:
    """A candidate.

    Attributes:
        rows: of the register tile.
        blocks: of columns.
        lanes: of a vector register.
        operands: of the dot instruction.
    """

    rows: int
    blocks: int
    lanes: int
    operands: Operands

    def __str__(self) -> str:
        return f"rounded {self.rows}x{self.blocks}"


def emit(spec: RoundedSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Rounded(spec, epilogue, schedule, threads).build()


class _Rounded:
    def __init__(self, spec: RoundedSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.vectors = LANES // schedule.lanes  # of a block of columns
        self.data, self.codes, self.factors, self.sums, self.zeros, self.scales = _inputs(epilogue, spec)
        self.signed = schedule.operands.data == "int8"
        # of codes in the products beyond their signed values
        self.offset = 0 if self.signed and spec.bits == 8 else 1 << (spec.bits - 1)

    def build(self) -> PrimFunc:
        """Whole groups of column blocks, then what is left."""
        groups = column_groups(self.spec.cols, self.schedule.blocks, self.threads, self._columns)
        return self.epilogue.build(groups)

    def _columns(self, first: Expr, blocks: int, lanes: int) -> Stmt:
        """A group of column blocks, of which the last one has `lanes` columns."""

        def run(start: int, rows: int, count: int) -> Stmt:
            return loop(
                count, lambda t: self._tile(first, blocks, lanes, const(start) + t * const(rows), rows), "row"
            )

        return seq([run(*part) for part in runs(tiles(self.spec.rows, self.schedule.rows))])

    def _tile(self, first: Expr, blocks: int, lanes: int, row: Expr, rows: int) -> Stmt:
        spec, wide = self.spec, blocks * self.vectors
        per_group = spec.size // spec.word
        totals = Accumulators(rows * wide, self.schedule.lanes, spec.dtype)
        parts = Accumulators(rows * wide, self.schedule.lanes, WORD)

        def word(at: Expr) -> Stmt:
            steps = []
            for column in range(wide):
                for number, value in enumerate(self._bytes(first, column, at)):
                    for r in range(rows):
                        k = r * wide + column
                        shared = self._activations(
                            row + const(r), at * const(spec.word) + const(_BYTES * number)
                        )
                        steps.append(parts.set(k, self._added(parts.get(k), value, shared)))
            return seq(steps)

        def group(g: Expr) -> Stmt:
            begin = g * const(per_group)
            added = [
                self._scale(totals, parts, first, column, row, r, g, r * wide + column)
                for column in range(wide)
                for r in range(rows)
            ]
            return seq([*parts.fill(0), loop(per_group, lambda w: word(begin + w), "word"), *added])

        body = [*totals.fill(0.0), loop(spec.inner // spec.size, group, "group")]
        stores = [
            self._store(totals, first, row, rows, wide, column, blocks, lanes) for column in range(wide)
        ]
        return SeqStmt([AllocBuffer(parts.buffer), totals.allocate([*body, *stores])])

    def _place(self, first: Expr, column: int, at: Expr) -> list[Expr]:
        """Where the vector `column` of a group of column blocks lies in a buffer of them."""
        block, vector = divmod(column, self.vectors)
        return [first + const(block), at, const(vector * self.schedule.lanes)]

    def _bytes(self, first: Expr, column: int, at: Expr) -> list[Expr]:
        """A vector of words of codes, as vectors of four bytes a lane."""
        lanes = self.schedule.lanes

        def word(value: int) -> Expr:
            return broadcast(tirx.IntImm(WORD, value - (1 << 32) if value >> 31 else value), lanes)

        loaded = vector_load(self.codes, self._place(first, column, at), lanes)
        if self.spec.bits == 8:
            return [loaded ^ word(0x80808080) if self.offset else loaded]
        moved = loaded ^ word(0x88888888)
        return [moved & word(0x0F0F0F0F), (moved >> word(4)) & word(0x0F0F0F0F)]

    def _activations(self, row: Expr, k: Expr) -> Expr:
        """Four codes of a row, in every lane."""
        loaded = tirx.reinterpret(WORD, self.data.vload([row, k], f"int8x{_BYTES}"))
        return broadcast(loaded, self.schedule.lanes)

    def _added(self, sums: Expr, codes: Expr, shared: Expr) -> Expr:
        left, right = (shared, codes) if self.signed else (codes, shared)
        return multiply_add(self.schedule.operands, sums, left, right, self.schedule.lanes)

    def _scale(
        self,
        totals: Accumulators,
        parts: Accumulators,
        first: Expr,
        column: int,
        row: Expr,
        r: int,
        g: Expr,
        k: int,
    ) -> Stmt:
        """Add a block's sums to the totals."""
        lanes, dtype = self.schedule.lanes, self.spec.dtype
        place = self._place(first, column, g)
        real = parts.get(k).astype(f"{dtype}x{lanes}") * broadcast(self.factors[row + const(r), g], lanes)
        beyond = broadcast(tirx.FloatImm(dtype, float(self.offset)), lanes)
        if self.zeros is not None:
            beyond = beyond + vector_load(self.zeros, place, lanes)
        if self.zeros is not None or self.offset:
            real = real - beyond * broadcast(self.sums[row + const(r), g], lanes)
        return totals.set(k, totals.get(k) + real * vector_load(self.scales, place, lanes))

    def _store(
        self,
        totals: Accumulators,
        first: Expr,
        row: Expr,
        rows: int,
        wide: int,
        column: int,
        blocks: int,
        lanes: int,
    ) -> Stmt:
        block, vector = divmod(column, self.vectors)
        begin = vector * self.schedule.lanes
        count = self.schedule.lanes if block < blocks - 1 else max(0, min(self.schedule.lanes, lanes - begin))
        base = (first + const(block)) * const(LANES) + const(begin)

        def line(i: Expr) -> Stmt:
            at = i * const(wide) + const(column)

            def element(lane: Expr) -> Stmt:
                return self.epilogue.store([row + i, base + lane], totals.element(at, lane))

            return (
                vectorised(count, element) if count == self.schedule.lanes else loop(count, element, "lane")
            )

        return unrolled(rows, line) if count else tirx.Evaluate(tirx.IntImm(WORD, 0))


def _inputs(
    epilogue: Epilogue, spec: RoundedSpec
) -> tuple[Buffer, Buffer, Buffer, Buffer, Buffer | None, Buffer]:
    """Codes of the activations and of the weights, factors, sums, zero points, scales: as the definition reads them."""
    (data,) = (one for one in epilogue.inputs if buffer_dtype(one) == "int8")
    (codes,) = (one for one in epilogue.inputs if buffer_dtype(one) == WORD)
    others = [one for one in epilogue.inputs if buffer_dtype(one) == spec.dtype]
    factors, sums = (one for one in others if len(one.shape) == 2)
    *zeros, scales = (one for one in others if len(one.shape) == 3)
    return data, codes, factors, sums, zeros[0] if zeros else None, scales


def candidates(spec: RoundedSpec, target: Target, threads: int) -> list[Schedule]:
    """The schedules worth timing, best guess first."""
    lanes = min(target.fp32_lanes, LANES)
    operands = operands_for(UINT8_INT8 if target.arch == "x86_64" else INT8, target)
    if operands.by_row:
        operands = operands.emulated
    most = max(1, (target.vector_registers - _SPARE) * lanes // (2 * LANES))  # pairs of sums of a block
    found = []
    for blocks in (8, 4, 2, 1) if spec.rows == 1 else (2, 4, 1):
        if blocks > max(1, spec.cols // LANES // threads):
            continue
        rows = min(spec.rows, most // blocks)
        if rows >= 1:
            found.append(Schedule(rows, blocks, lanes, operands))
    return found or [Schedule(1, 1, lanes, operands)]


TEMPLATE = Template(
    "rounded",
    (VERSION,),
    lambda spec: isinstance(spec, RoundedSpec),
    fused_with_epilogue(VERSION, candidates, emit),
)
