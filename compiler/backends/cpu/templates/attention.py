"""Attention in one kernel: the scores of some queries stay in the cache from the first product to the last.

A task takes some vectors of queries, a query a lane. It transposes them once; each step of the first product then is
a key's element times a vector of queries, the maximum and the sum of the softmax are vectors as well (no sum across
lanes), and the second product reads the scores, a key's side by side, as its left operand. Keys and values are read
in place (see `View`). The softmax is the usual one: maximum, exponentials, sum; the division is applied to the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, Buffer, BufferStore, PrimFunc, Stmt

from edgec.compiler.backends.cpu.templates.estimates import l2_cycles, vector_cycles
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
from edgec.compiler.backends.cpu.templates.matmul import column_parts, most_rows, tile_cycles
from edgec.compiler.backends.cpu.templates.template import Choice, Request, Template
from edgec.compiler.backends.cpu.templates.vector_math import with_vector_math
from edgec.compiler.graph.attention_spec import AttentionSpec
from edgec.compiler.operands.operands import FLOAT32
from edgec.targets.target import Target

VERSION = 1
_EXPONENTIAL = 24  # operations on vectors of an exponential, its load, its store and its share in the sum
LOWEST = -3.4028234663852886e38  # a row whose scores are all -inf gives NaN, as in ONNX Runtime


@dataclass(frozen=True)
class Schedule:
    """A candidate: vectors of queries and keys of the first product's tile, queries and vectors of the second's."""

    vectors: int
    keys: int
    rows: int
    blocks: int

    def __str__(self) -> str:
        return f"attention {self.keys}x{self.vectors} {self.rows}x{self.blocks}"


def emit(spec: AttentionSpec, params: list[Buffer], schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`; `params` are queries, keys, values, the mask if there is one, result."""
    body = _Attention(spec, params, schedule, threads).build()
    return with_vector_math(PrimFunc(params, body)).with_attrs({"tirx.noalias": True, "s_tir": True})


class _Task:
    """The scratch of one task: transposed queries, scores, and a vector each for maximum and sum."""

    def __init__(self, spec: AttentionSpec, vectors: int) -> None:
        self.lanes, self.vectors, self.width = spec.lanes, vectors, vectors * spec.lanes
        self.queries = self._scratch(spec, spec.inner, "queries")
        self.scores = self._scratch(spec, spec.keys, "scores")
        self.top, self.total = (
            tirx.decl_buffer((self.width,), spec.dtype, name, scope="local") for name in ("top", "total")
        )

    def _scratch(self, spec: AttentionSpec, lines: int, name: str) -> Buffer:
        return tirx.decl_buffer((lines * self.width,), spec.dtype, name, scope="global", data_alignment=64)

    def spot(self, line: Expr, vector: Expr) -> Expr:
        """Where a vector of a line of `queries` or `scores` begins."""
        return line * const(self.width) + vector * const(self.lanes)

    def each(self, body: Callable[[Expr], Stmt]) -> Stmt:
        """`body` for the first element of each vector, a lane further each."""

        def one(v: Expr) -> Stmt:
            return vectorised(self.lanes, lambda lane: body(v * const(self.lanes) + lane))

        return unrolled(self.vectors, one)


class _Attention:
    def __init__(self, spec: AttentionSpec, params: list[Buffer], schedule: Schedule, threads: int) -> None:
        self.spec, self.schedule, self.threads = spec, schedule, threads
        self.query, self.key, self.value = params[:3]
        self.mask, self.out = (params[3] if spec.mask else None), params[-1]

    def build(self) -> Stmt:
        lanes = self.spec.lanes
        pieces = tiles(-(-self.spec.rows // lanes), self.schedule.vectors)
        left = self.spec.rows - pieces[-1][0] * lanes  # queries of the last piece
        whole = pieces if left == pieces[-1][1] * lanes else pieces[:-1]
        parts = [self._tasks(start, size, count, size * lanes) for start, size, count in runs(whole)]
        if len(whole) < len(pieces):
            parts.append(self._tasks(*pieces[-1], 1, left))
        return seq(parts)

    def _tasks(self, start: int, vectors: int, count: int, rows: int) -> Stmt:
        lanes = self.spec.lanes

        def task(*at: Expr) -> Stmt:
            first = const(start * lanes) + at[-1] * const(vectors * lanes)
            return self._task(list(at[:-1]), first, vectors, rows)

        return parallel([*self.spec.batch, count], task, self.threads)

    def _task(self, batch: list[Expr], first: Expr, vectors: int, rows: int) -> Stmt:
        spec, task = self.spec, _Task(self.spec, vectors)
        low, zero, one = (tirx.const(x, spec.dtype) for x in (LOWEST, 0.0, 1.0))
        return seq(
            [
                *(AllocBuffer(b) for b in (task.queries, task.scores, task.top, task.total)),
                self._transpose(task, batch, first, rows),
                task.each(lambda i: BufferStore(task.top, low, [i])),
                *(
                    self._scores(task, batch, first, rows, run)
                    for run in runs(tiles(spec.keys, self.schedule.keys))
                ),
                task.each(lambda i: BufferStore(task.total, zero, [i])),
                loop(spec.keys, lambda key: self._exponentials(task, key), "key"),
                task.each(lambda i: BufferStore(task.total, one / task.total[i], [i])),
                *(
                    self._mix(task, batch, first, piece, columns)
                    for piece in runs(tiles(rows, self.schedule.rows))
                    for columns in column_parts(spec.cols, _value_lanes(spec), self.schedule.blocks)
                ),
            ]
        )

    def _transpose(self, task: _Task, batch: list[Expr], first: Expr, rows: int) -> Stmt:
        """The queries, scaled, a query a lane; lanes without one are zero."""
        spec, scale = self.spec, tirx.const(self.spec.scale, self.spec.dtype)

        def line(k: Expr) -> Stmt:
            def one(start: int, width: int, filled: bool) -> Stmt:
                def element(lane: Expr) -> Stmt:
                    place = k * const(task.width) + const(start) + lane
                    row = first + const(start) + lane
                    loaded = self.query[*spec.query.at([*batch, row, k])]
                    return BufferStore(
                        task.queries, loaded * scale if filled else tirx.const(0.0, spec.dtype), [place]
                    )

                return vectorised(width, element)

            steps = []
            for start in range(0, task.width, task.lanes):
                here = min(max(rows - start, 0), task.lanes)
                if here:
                    steps.append(one(start, here, filled=True))
                if here < task.lanes:
                    steps.append(one(start + here, task.lanes - here, filled=False))
            return seq(steps)

        return loop(spec.inner, line, "k")

    def _scores(
        self, task: _Task, batch: list[Expr], first: Expr, rows: int, run: tuple[int, int, int]
    ) -> Stmt:
        """The products of some tiles of keys with all queries of the task, and the maxima."""
        start, size, count = run
        return loop(
            count,
            lambda c: self._score_tile(task, batch, first, rows, const(start) + c * const(size), size),
            "tile",
        )

    def _score_tile(
        self, task: _Task, batch: list[Expr], first: Expr, rows: int, key: Expr, size: int
    ) -> Stmt:
        spec, lanes, vectors = self.spec, task.lanes, task.vectors
        acc = Accumulators(size * vectors, lanes, spec.dtype)

        def step(k: Expr) -> Stmt:
            def one(i: Expr) -> Stmt:
                value = broadcast(self.key[*spec.key.at([*batch, key + i, k])], lanes)
                steps = []
                for v in range(vectors):
                    at = i * const(vectors) + const(v)
                    vector = vector_load(task.queries, [task.spot(k, const(v))], lanes)
                    steps.append(acc.set(at, acc.get(at) + value * vector))
                return seq(steps)

            return unrolled(size, one)

        def store(i: Expr) -> Stmt:
            steps = []
            for v in range(vectors):
                at, spot = i * const(vectors) + const(v), task.spot(key + i, const(v))
                if self.mask is not None:
                    steps.append(
                        self._masked(acc, at, batch, first + const(v * lanes), key + i, rows - v * lanes)
                    )
                top = [const(v * lanes)]
                higher = tirx.max(vector_load(task.top, top, lanes), acc.get(at))
                steps += [task.scores.vstore([spot], acc.get(at)), task.top.vstore(top, higher)]
            return seq(steps)

        return acc.allocate([*acc.fill(0.0), loop(spec.inner, step, "k"), unrolled(size, store)])

    def _masked(
        self, acc: Accumulators, at: Expr, batch: list[Expr], row: Expr, key: Expr, rows: int
    ) -> Stmt:
        """Add the mask to a vector of scores: of as many of its queries as there are."""
        assert self.spec.mask is not None
        assert self.mask is not None
        mask, view, width = self.mask, self.spec.mask, max(1, min(rows, self.spec.lanes))

        def element(lane: Expr) -> Stmt:
            place = at * const(acc.lanes) + lane
            added = mask[*view.at([*batch, row + lane, key])]
            return BufferStore(acc.buffer, acc.buffer[place] + added, [place])

        return vectorised(width, element)

    def _exponentials(self, task: _Task, key: Expr) -> Stmt:
        def power(i: Expr) -> Stmt:
            place = [key * const(task.width) + i]
            return BufferStore(task.scores, tirx.exp(task.scores[*place] - task.top[i]), place)

        def add(i: Expr) -> Stmt:
            place = key * const(task.width) + i
            return BufferStore(task.total, task.total[i] + task.scores[place], [i])

        return seq([task.each(power), task.each(add)])

    def _mix(
        self,
        task: _Task,
        batch: list[Expr],
        first: Expr,
        piece: tuple[int, int, int],
        columns: tuple[int, int, int, list[int]],
    ) -> Stmt:
        """The second product for a run of tiles of queries and of columns."""
        begin, size, count = piece
        start, stride, across, offsets = columns

        def tile(c: Expr, r: Expr) -> Stmt:
            row, column = const(begin) + r * const(size), const(start) + c * const(stride)
            return self._mix_tile(task, batch, first, row, size, column, offsets)

        return loop(across, lambda c: loop(count, lambda r: tile(c, r), "rows"), "columns")

    def _mix_tile(
        self,
        task: _Task,
        batch: list[Expr],
        first: Expr,
        row: Expr,
        size: int,
        column: Expr,
        offsets: list[int],
    ) -> Stmt:
        spec, blocks, lanes = self.spec, len(offsets), _value_lanes(self.spec)
        acc = Accumulators(size * blocks, lanes, spec.dtype)

        def step(key: Expr) -> Stmt:
            def one(i: Expr) -> Stmt:
                weight = broadcast(task.scores[key * const(task.width) + row + i], lanes)
                steps = []
                for j, offset in enumerate(offsets):
                    place = spec.value.at([*batch, key, column + const(offset)])
                    at = i * const(blocks) + const(j)
                    steps.append(acc.set(at, acc.get(at) + weight * vector_load(self.value, place, lanes)))
                return seq(steps)

            return unrolled(size, one)

        def store(i: Expr) -> Stmt:
            def one(j: int) -> Stmt:
                def element(lane: Expr) -> Stmt:
                    logical = [*batch, first + row + i, column + const(offsets[j]) + lane]
                    result = acc.element(i * const(blocks) + const(j), lane) * task.total[row + i]
                    return BufferStore(self.out, result, [logical[axis] for axis in spec.order])

                return vectorised(lanes, element)

            return seq([one(j) for j in range(blocks)])

        return acc.allocate([*acc.fill(0.0), loop(spec.keys, step, "key"), unrolled(size, store)])


def _value_lanes(spec: AttentionSpec) -> int:
    return min(spec.lanes, 1 << (spec.cols.bit_length() - 1))


def _tiles(registers: int, most_blocks: int, most_lines: int) -> Iterator[tuple[int, int]]:
    """Register tiles as (lines, vectors a line)."""
    for blocks in range(1, most_blocks + 1):
        most = most_rows(registers, blocks)
        for lines in sorted({min(n, most_lines) for n in (most, most - 1, 8, 6) if 0 < n <= most}):
            yield lines, blocks


def candidates(spec: AttentionSpec, target: Target, threads: int) -> list[Any]:
    """The schedules worth timing, best guess first."""
    registers = target.vector_registers
    vectors = -(-spec.rows // spec.lanes)
    blocks = -(-spec.cols // _value_lanes(spec))
    found: dict[Schedule, float] = {}
    for keys, wide in _tiles(registers, min(4, vectors), spec.keys):
        for rows, across in _tiles(registers, min(4, blocks), min(spec.rows, wide * spec.lanes)):
            made = Schedule(wide, keys, rows, across)
            found[made] = _cost(spec, made, target, threads)
    return sorted(found, key=lambda made: (found[made], str(made)))


def _cost(spec: AttentionSpec, schedule: Schedule, target: Target, threads: int) -> float:
    """Cycles: multiply-adds, loads and latency of both products, exponentials, and what does not stay in the cache."""
    pieces = tiles(-(-spec.rows // spec.lanes), schedule.vectors)
    blocks = -(-spec.cols // _value_lanes(spec))
    total, power = 0.0, vector_cycles(target, _EXPONENTIAL)
    for _, vectors in pieces:
        rows = min(spec.rows, vectors * spec.lanes)
        far = spec.keys * vectors * spec.lanes * FLOAT32.accumulator_bytes > target.l1d_bytes * 0.75
        for _, keys in tiles(spec.keys, schedule.keys):
            total += spec.inner * tile_cycles(target, keys, vectors) + 2 * keys * vectors
        total += spec.keys * vectors * (power + (l2_cycles(target, 2) if far else 0))
        for _, lines in tiles(rows, schedule.rows):
            whole, rest = divmod(blocks, schedule.blocks)
            for across, count in ((schedule.blocks, whole), (rest, 1 if rest else 0)):
                # Values, and scores, from further away.
                fetched = l2_cycles(target, across + (lines / 16 if far else 0))
                step = tile_cycles(target, lines, across) + fetched
                total += count * (spec.keys * step + 2 * lines * across)
    tasks = math.prod(spec.batch) * len(pieces)
    return total * math.prod(spec.batch) * -(-tasks // threads) / tasks


def choose(spec: AttentionSpec, request: Request) -> Choice:
    """The schedules for a kernel."""
    params, threads = list(request.func.params), request.threads
    return Choice(
        VERSION, candidates(spec, request.target, threads), lambda s: emit(spec, params, s, threads)
    )


TEMPLATE = Template(
    "attention", (VERSION,), lambda spec: isinstance(spec, AttentionSpec), choose, takes_epilogue=False
)
