"""Products with constant weights of 4 or 8 bits in blocks (see `NarrowSpec`).

For a few rows memory sets the pace: codes are widened in registers, and a block's sum is scaled once. Where there are
more rows than a tile holds, the weights of a group of columns are widened once, into the second cache, for all tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import AllocBuffer, Buffer, PrimFunc, SeqStmt, Stmt

from edgec.compiler.backends.cpu.templates.column_groups import column_groups
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    runs,
    seq,
    stepped,
    tiles,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.compiler.graph.narrow_products import LANES, NarrowSpec
from edgec.targets.target import Target

VERSION = 1
_WORD = 32  # bits


@dataclass(frozen=True)
class Schedule:
    """A candidate: rows of the register tile, and blocks of columns."""

    rows: int
    blocks: int

    def __str__(self) -> str:
        return f"narrow {self.rows}x{self.blocks}"


def emit(spec: NarrowSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Narrow(spec, epilogue, schedule, threads).build()


class _Narrow:
    def __init__(self, spec: NarrowSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.data, self.codes, *others = epilogue.inputs
        self.scales, self.zeros = others[-1], others[0]

    def build(self) -> PrimFunc:
        """Whole groups of column blocks, then what is left."""
        groups = column_groups(self.spec.cols, self.schedule.blocks, self.threads, self._columns)
        return self.epilogue.build(groups)

    def _columns(self, first: Expr, blocks: int, lanes: int) -> Stmt:
        """A group of column blocks, of which the last one has `lanes` columns."""
        spec = self.spec
        if spec.rows <= self.schedule.rows:
            return self._few_rows(first, blocks, lanes)
        panel = tirx.decl_buffer((spec.inner, blocks * LANES), spec.dtype, "panel")
        parts = runs(tiles(spec.rows, self.schedule.rows))
        products = [self._run(panel, first, blocks, lanes, *part) for part in parts]
        return SeqStmt([AllocBuffer(panel), self._widen(panel, first, blocks), *products])

    def _value(self, word: Expr, block: Expr, group: Expr, number: int) -> Expr:
        """Code number `number` of a vector of words, less its zero point."""
        above, kept = _WORD - self.spec.bits * (number + 1), _WORD - self.spec.bits

        def bits(count: int) -> Expr:
            return broadcast(tirx.IntImm("int32", count), LANES)

        moved = word << bits(above) if above else word
        value = (moved >> bits(kept)).astype(f"{self.spec.dtype}x{LANES}")
        if self.spec.zeros:
            value = value - vector_load(self.zeros, [block, group, 0], LANES)
        return value

    def _few_rows(self, first: Expr, blocks: int, lanes: int) -> Stmt:
        """All rows at once: the sums of a block of the reduced axis, then they are scaled and added up."""
        spec, rows = self.spec, self.spec.rows
        count, per_group = rows * blocks, spec.size // spec.word
        sums, parts = (Accumulators(count, LANES, spec.dtype) for _ in range(2))

        def word(group: Expr, w: Expr) -> Stmt:
            return seq([element(group, w, number, j) for number in range(spec.word) for j in range(blocks)])

        def element(group: Expr, w: Expr, number: int, j: int) -> Stmt:
            at = group * const(per_group) + w
            loaded = vector_load(self.codes, [first + const(j), at, 0], LANES)
            value = self._value(loaded, first + const(j), group, number)
            k = at * const(spec.word) + const(number)
            return seq(
                [
                    parts.set(
                        r * blocks + j, parts.get(r * blocks + j) + broadcast(self.data[r, k], LANES) * value
                    )
                    for r in range(rows)
                ]
            )

        def group(g: Expr) -> Stmt:
            scaled = []
            for j in range(blocks):
                scale = vector_load(self.scales, [first + const(j), g, 0], LANES)
                for at in range(j, count, blocks):
                    scaled.append(sums.set(at, sums.get(at) + parts.get(at) * scale))
            return seq([*parts.fill(0.0), loop(per_group, lambda w: word(g, w), "word"), *scaled])

        body = [*sums.fill(0.0), loop(spec.inner // spec.size, group, "group")]
        stores = [self._store(sums, first, const(0), rows, blocks, lanes, j) for j in range(blocks)]
        return SeqStmt([AllocBuffer(parts.buffer), sums.allocate([*body, *stores])])

    def _widen(self, panel: Buffer, first: Expr, blocks: int) -> Stmt:
        """The weights of a group of columns as real numbers `[inner, columns]`."""
        spec = self.spec
        per_group = spec.size // spec.word

        def word(j: int, group: Expr, w: Expr) -> Stmt:
            at = group * const(per_group) + w
            loaded = vector_load(self.codes, [first + const(j), at, 0], LANES)
            scale = vector_load(self.scales, [first + const(j), group, 0], LANES)
            return seq(
                [
                    panel.vstore(
                        [at * const(spec.word) + const(number), const(j * LANES)],
                        self._value(loaded, first + const(j), group, number) * scale,
                    )
                    for number in range(spec.word)
                ]
            )

        def group(g: Expr) -> Stmt:
            return seq([loop(per_group, lambda w, j=j: word(j, g, w), "word") for j in range(blocks)])  # type: ignore[misc]

        return loop(spec.inner // spec.size, group, "group")

    def _run(
        self, panel: Buffer, first: Expr, blocks: int, lanes: int, start: int, rows: int, count: int
    ) -> Stmt:
        def tile(t: Expr) -> Stmt:
            return self._tile(panel, first, blocks, lanes, const(start) + t * const(rows), rows)

        return loop(count, tile, "row")

    def _tile(self, panel: Buffer, first: Expr, blocks: int, lanes: int, row: Expr, rows: int) -> Stmt:
        sums = Accumulators(rows * blocks, LANES, self.spec.dtype)

        def step(k: Expr) -> Stmt:
            def one(i: Expr) -> Stmt:
                value = broadcast(self.data[row + i, k], LANES)

                def block(j: Expr) -> Stmt:
                    at = i * const(blocks) + j
                    return sums.set(
                        at, sums.get(at) + value * vector_load(panel, [k, j * const(LANES)], LANES)
                    )

                return unrolled(blocks, block)

            return unrolled(rows, one)

        body = [*sums.fill(0.0), stepped(self.spec.inner, step, 2, "k")]
        stores = [self._store(sums, first, row, rows, blocks, lanes, j) for j in range(blocks)]
        return sums.allocate([*body, *stores])

    def _store(
        self, sums: Accumulators, first: Expr, row: Expr, rows: int, blocks: int, lanes: int, j: int
    ) -> Stmt:
        base = (first + const(j)) * const(LANES)

        def line(i: Expr) -> Stmt:
            at = i * const(blocks) + const(j)

            def element(lane: Expr) -> Stmt:
                return self.epilogue.store([row + i, base + lane], sums.element(at, lane))

            whole = j < blocks - 1 or lanes == LANES
            return vectorised(LANES, element) if whole else loop(lanes, element, "lane")

        return unrolled(rows, line)


def candidates(spec: NarrowSpec, target: Target, threads: int) -> list[Schedule]:
    """The schedules worth timing, best guess first."""
    vectors = target.vector_registers * target.fp32_lanes // LANES - 4
    found = []
    for blocks in (4, 2, 1):
        if blocks > max(1, spec.cols // LANES // threads):
            continue
        if spec.rows * 2 * blocks <= vectors:  # sums, and those of a block
            found.append(Schedule(spec.rows, blocks))
    if not found:
        for blocks in (2, 1):
            rows = min(spec.rows - 1, 12, vectors // blocks)
            if rows >= 1:
                found.append(Schedule(rows, blocks))
    return found or [Schedule(1, 1)]


TEMPLATE = Template(
    "narrow",
    (VERSION,),
    lambda spec: type(spec) is NarrowSpec,
    fused_with_epilogue(VERSION, candidates, emit),
)
