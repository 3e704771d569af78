"""Matrix product with constant weights, packed as `[col_blocks, inner, lanes]`.

A tile of `rows` × `blocks` vectors stays in registers while the inner dimension passes; with one row the weights are
read once, in order, and memory sets the pace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import IfThenElse, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import DenseSpec
from edgec.compiler.backends.cpu.templates import dot, squares
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.estimates import (
    chains,
    exchange_cycles,
    l2_cycles,
    last_level_bandwidth,
    step_cycles,
    widening_cycles,
)
from edgec.compiler.backends.cpu.templates.half_sums import CHUNK, HalfSums, in_halves
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    runs,
    seq,
    shuffled,
    stepped,
    tiles,
    unrolled,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.targets.target import Target

VERSION = 1
_LOAD = 1.3  # a load takes this much of a port's time: the ports do not find work in every cycle
# Places of memory that a product of one row reads in order; with eight, it takes 3 to 9 % longer (Zen 4, measured; on
# Cascade Lake six are the fastest of most shapes, too). The factor is of what does not come from the second cache.
STREAMS, MANY_STREAMS = 6, 1.18
REGISTERS = 32  # of ARM's vectors
SINGLE = 3  # by squares, what a row without a partner takes beyond half a pair
MANY_SUMS = 27  # vectors of sums from which several steps a pass cost more than they gain (up to a tenth)


@dataclass(frozen=True)
class Schedule:
    """A candidate.

    Attributes:
        rows: of the register tile.
        blocks: column blocks of the register tile.
        split: partial sums into which each sum is split.
        bands: tasks of rows, each of which computes all columns; with 1, tasks are groups of columns, and all rows.
    """

    rows: int
    blocks: int
    split: int = 1
    bands: int = 1

    def __str__(self) -> str:
        split = f" split{self.split}" if self.split > 1 else ""
        return f"dense {self.rows}x{self.blocks}{split}" + (f" bands{self.bands}" if self.bands > 1 else "")


def emit(spec: DenseSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return Dense(spec, epilogue, schedule, threads).build()


class Dense:
    """The loop nest of a product of so many rows."""

    def __init__(self, spec: DenseSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.data, self.weight = epilogue.inputs
        self.operands = spec.operands

    def build(self) -> PrimFunc:
        """The kernel."""
        bands = self.schedule.bands
        if bands == 1:
            return self.epilogue.build(self.groups(self._columns, self.threads))
        return self.epilogue.build(parallel([bands], self._band, self.threads))

    def groups(self, columns: Callable[[Expr, int], Stmt], threads: int) -> Stmt:
        """Whole groups of column blocks, then what is left: code of its own, with scalar stores at its end.

        Args:
            columns: makes a group of the number of its first block, and of how many they are.
            threads: that the groups are spread over.
        """
        whole, rest = _groups(self.spec, self.schedule.blocks)
        blocks = self.schedule.blocks

        def group(g: Expr) -> Stmt:
            return columns(g * const(blocks), blocks)

        if not rest:
            return parallel([whole], group, threads)
        last = columns(const(whole * blocks), rest)
        if threads == 1 or not whole:
            return seq([loop(whole, group, "group"), last] if whole else [last])
        return parallel([whole + 1], lambda g: IfThenElse(g < const(whole), group(g), last), threads)

    def _band(self, band: Expr) -> Stmt:
        """All columns of a part of the tiles of rows."""
        cut = tiles(self.spec.rows, self.schedule.rows)
        count = const(len(cut))
        low, high = (
            tirx.indexdiv((band + const(end)) * count, const(self.schedule.bands)) for end in range(2)
        )

        def columns(b: Expr, blocks: int) -> Stmt:
            parts, number = [], 0
            for start, rows, together in runs(cut):
                begin = tirx.max(low, const(number))
                extent = tirx.min(high, const(number + together)) - begin
                parts.append(self._rows_from(b, blocks, (start, number, rows), (begin, extent)))
                number += together
            return seq(parts)

        return self.groups(columns, 1)

    def _rows_from(self, b: Expr, blocks: int, run: tuple[int, int, int], part: tuple[Expr, Expr]) -> Stmt:
        """Some tiles of a run of equal ones, given as its first row, its first tile's number and the rows of a tile."""
        start, number, rows = run
        return loop(
            part[1],
            lambda t: self.tile(b, const(start) + (t - const(number)) * const(rows), rows, blocks),
            "row",
            start=part[0],
        )

    def place(self, row: Expr) -> list[Expr]:
        """The indices of a row."""
        return [row]

    def _columns(self, first_block: Expr, blocks: int) -> Stmt:
        parts = runs(tiles(self.spec.rows, self.schedule.rows))
        return seq([self._run(first_block, blocks, *part) for part in parts])

    def _run(self, b: Expr, blocks: int, start: int, rows: int, count: int) -> Stmt:
        return loop(count, lambda t: self.tile(b, const(start) + t * const(rows), rows, blocks), "row")

    def tile(self, b: Expr, first: Expr, rows: int, blocks: int, split: int = 0) -> Stmt:
        """The rows from `first` on of the column blocks from `b` on; `split` is the schedule's where it is 0."""
        spec, operands, split = self.spec, self.operands, split or self.schedule.split
        count = rows * blocks * split
        acc: Accumulators = Accumulators(count, spec.lanes, spec.dtype)
        if in_halves(operands):
            acc = HalfSums(count, spec.lanes, chunked=spec.inner > CHUNK * split)

        def step(k: Expr, part: int) -> Stmt:
            if operands.squares:
                return self._squares(acc, b, first, (rows, blocks), k, part)

            def row(i: Expr) -> Stmt:
                value = broadcast(dot.data(operands, self.data, self.place(first + i), k), spec.lanes)

                def block(j: Expr) -> Stmt:
                    at = (const(part * rows) + i) * const(blocks) + j
                    weight = dot.weights(operands, self.weight, [b + j, k, 0], spec.lanes)
                    return acc.set(at, dot.multiply_add(operands, acc.get(at), value, weight, spec.lanes))

                return unrolled(blocks, block)

            return unrolled(rows, row)

        def steps(k: Expr) -> Stmt:
            return seq([step(k * const(split) + const(part), part) for part in range(split)])

        whole, rest = divmod(spec.inner // operands.depth, split)
        vectors = whole // spec.lanes if split == 1 and self._reads_vectors(rows, blocks) else 0
        together = 4 if split == 1 and rows * blocks < MANY_SUMS else 1
        together = 1 if operands.squares else together
        if isinstance(acc, HalfSums):

            def chunk(first: Expr, count: int) -> Stmt:
                return stepped(count, lambda k: steps(first + k), together, "k")

            body = [*acc.start(), acc.chunks(whole, CHUNK, chunk, "chunk")]
            body += [acc.chunk(step(const(whole * split + k), k)) for k in range(rest)]
        elif vectors:
            body = [
                *acc.fill(0.0),
                loop(vectors, lambda v: self._of_vectors(acc, b, first, (rows, blocks), v), "v"),
            ]
            body += [step(const(k), 0) for k in range(vectors * spec.lanes, whole)]
        else:
            body = [*acc.fill(0.0), stepped(whole, steps, together, "k")] if whole else acc.fill(0.0)
            body += [step(const(whole * split + k), k) for k in range(rest)]
        body += _join(acc, rows * blocks, split)
        if operands.squares:
            firsts = [row * blocks + block for row in range(0, rows - 1, 2) for block in range(blocks)]
            body += squares.settle(acc, [(at, at + blocks) for at in firsts])
        return acc.allocate([*body, *[self._store(acc, b, first, rows, blocks, j) for j in range(blocks)]])

    def _reads_vectors(self, rows: int, blocks: int) -> bool:
        """Whether a tile reads several steps of a row as a vector: ARM multiplies by one word of a vector of them."""
        held = rows * blocks + rows + blocks < REGISTERS
        return (
            held and self.operands.instruction in ("sdot", "smlal") and self.spec.lanes == self.operands.step
        )

    def _of_vectors(
        self, acc: Accumulators, b: Expr, first: Expr, tile: tuple[int, int], number: Expr
    ) -> Stmt:
        """The steps of a vector of each row of a tile of rows × blocks."""
        rows, blocks = tile
        lanes, operands = self.spec.lanes, self.operands
        words, steps = [tirx.Var("words", f"{dot.WORD}x{lanes}") for _ in range(rows)], list[Stmt]()
        for row, var in enumerate(words):
            place = [*self.place(first + const(row)), number * const(lanes * operands.step)]
            vector = self.data.vload(place, f"{operands.data}x{lanes * operands.step}")
            steps.append(tirx.Bind(var, tirx.reinterpret(f"{dot.WORD}x{lanes}", vector)))
        for k in range(lanes):
            at = number * const(lanes) + const(k)
            for row, var in enumerate(words):
                value = broadcast(shuffled([var], [k]), lanes)
                for j in range(blocks):
                    sums = acc.get(row * blocks + j)
                    weight = dot.weights(operands, self.weight, [b + const(j), at, 0], lanes)
                    steps.append(
                        acc.set(row * blocks + j, dot.multiply_add(operands, sums, value, weight, lanes))
                    )
        return seq(steps)

    def _squares(
        self, acc: Accumulators, b: Expr, first: Expr, tile: tuple[int, int], k: Expr, part: int
    ) -> Stmt:
        """Two steps of a tile of rows × blocks: pairs of rows, then the last of an odd number."""
        rows, blocks = tile

        def read(row: int) -> Expr:
            place = [*self.place(first + const(row)), k * const(self.operands.depth)]
            return squares.words(self.data, place, 2)

        def weights(block: int) -> tuple[Expr, Expr]:
            return squares.halves(self.weight, [b + const(block), k, 0, 0])

        def registers(row: int) -> list[int]:
            return [(part * rows + row) * blocks + block for block in range(blocks)]

        steps = []
        for row in range(0, rows - 1, 2):
            places = list(zip(registers(row), registers(row + 1), strict=True))
            pair = shuffled([read(row), read(row + 1)], range(4))
            steps.append(squares.multiply_pair(acc, places, pair, weights))
        if rows % 2:
            last = [shuffled([read(rows - 1)], [at]) for at in (0, 1)]
            steps.append(squares.multiply_single(acc, registers(rows - 1), last, weights))
        return seq(steps)

    def _store(self, acc: Accumulators, b: Expr, first: Expr, rows: int, blocks: int, j: int) -> Stmt:
        def row(i: Expr) -> Stmt:
            at = i * const(blocks) + const(j)
            place = self.place(first + i)
            return _store(self.spec, self.epilogue, acc, b + const(j), j == blocks - 1, at, place)

        return unrolled(rows, row)


def _join(acc: Accumulators, count: int, split: int) -> list[Stmt]:
    return [acc.merge(at, part * count + at) for part in range(1, split) for at in range(count)]


def _store(
    spec: DenseSpec, epilogue: Epilogue, acc: Accumulators, block: Expr, last: bool, at: Expr, row: list[Expr]
) -> Stmt:
    """Store a vector; past the last column nothing is written."""
    lanes = spec.lanes
    base = block * const(lanes)
    rest = spec.cols % lanes
    known = getattr(block, "value", None)
    if last and rest and known is not None and int(known) == spec.cols // lanes:
        return loop(rest, lambda lane: epilogue.store([*row, base + lane], acc.element(at, lane)), "lane")
    return vectorised(lanes, lambda lane: epilogue.store([*row, base + lane], acc.element(at, lane)))


def candidates(spec: DenseSpec, target: Target, threads: int) -> list[Schedule]:
    """The schedules worth timing, best guess first."""
    registers = target.vector_registers - 2
    blocks = -(-spec.cols // spec.lanes)
    independent = chains(target, spec.operands)
    found: list[tuple[float, Schedule]] = []
    for wide in (1, 2, 3, 4, 6, 8):
        if wide > blocks:
            continue
        for rows in sorted(
            {max(size for _, size in tiles(spec.rows, r)) for r in (1, 2, 4, 6, 8, 9, 12, 14)}
        ):
            if rows * wide + wide * spec.operands.depth // spec.operands.step > registers:
                continue
            split = 1
            if rows * wide < independent:
                split = min(4, independent // (rows * wide), spec.inner // spec.operands.depth)
            if rows * wide * split > registers:
                split = 1
            made = Schedule(rows, wide, split)
            found.append((_cost_of_busiest(spec, made, target, threads), made))
            if threads > 1 and len(tiles(spec.rows, rows)) >= threads:
                made = Schedule(rows, wide, split, threads)
                found.append((_cost_of_busiest(spec, made, target, threads), made))
    found.sort(key=lambda pair: (pair[0], str(pair[1])))
    return [schedule for _, schedule in found]


def _groups(spec: DenseSpec, blocks: int) -> tuple[int, int]:
    """Whole groups of so many column blocks, and the blocks that are left, of which the last may not be full."""
    whole = spec.cols // (spec.lanes * blocks)
    return whole, -(-spec.cols // spec.lanes) - whole * blocks


def _cost_of_busiest(spec: DenseSpec, schedule: Schedule, target: Target, threads: int) -> float:
    """Cycles for one step of the inner dimension of all that the busiest thread computes.

    Threads that divide columns read the rows that others wrote; those that divide rows read all weights.
    """
    whole, rest = _groups(spec, schedule.blocks)
    group = _cost(spec, schedule.rows, schedule.blocks, schedule.split, target)
    last = _cost(spec, schedule.rows, rest, schedule.split, target) if rest else 0.0
    count = len(tiles(spec.rows, schedule.rows))
    if schedule.bands > 1:
        share = -(-count // schedule.bands) / count
        weights = spec.cols * spec.operands.weight_bytes * (1 - 1 / threads)
        return (whole * group + last) * share + weights / last_level_bandwidth(target)
    moved = 0.0
    if threads > 1 and spec.rows > 1:
        moved = exchange_cycles(target, spec.rows * spec.operands.data_bytes, threads)
    share = -(-(whole + (rest > 0)) // threads)
    return (share * group if share <= whole else whole * group + last) + moved


def _cost(spec: DenseSpec, rows: int, wide: int, split: int, target: Target) -> float:
    """Cycles for one step of the inner dimension over all rows and one group of columns.

    Multiply-adds, loads and latency; and what comes from the second cache: weights, where a group of columns does not
    stay in the first one, and rows, where a tile of them does not: those all come at the same step.
    """
    operands = spec.operands
    sums = rows * wide
    if operands.squares:
        sums += rows % 2 * SINGLE * wide
    step = step_cycles(target, sums, _LOAD * (rows + wide), operands=operands, split=split)
    step += widening_cycles(target, operands, rows, wide)
    step += 0.8 + 0.1 * (rows + wide)
    step *= 1.04 if rows * wide >= MANY_SUMS else 1.0
    if rows == 1 and wide > STREAMS:
        step *= MANY_STREAMS
    weights = spec.inner * wide * spec.lanes * operands.weight_bytes
    step += wide * (l2_cycles(target, 1.0) if weights > 0.75 * target.l1d_bytes else 0.3)
    if rows * spec.inner * operands.data_bytes > 1.25 * target.l1d_bytes:
        step += l2_cycles(target, 0.2 * rows)
    return step * len(tiles(spec.rows, rows))


TEMPLATE = Template(
    "dense",
    (VERSION,),
    lambda spec: isinstance(spec, DenseSpec),
    fused_with_epilogue(VERSION, candidates, emit),
)
