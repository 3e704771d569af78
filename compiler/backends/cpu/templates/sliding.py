"""Depthwise convolution and pooling: a window that slides over each channel by itself.

A task is some rows of one channel block; all blocks of the first rows come first, so that each thread finds the rows
of an image in its own cache that it computed before. The lanes are channels, so that every tap is a vector load; tiles
of `width` output columns stay in registers while the rows of the window pass. Borders are handled as in the direct
convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Buffer, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import ConvSpec, PoolSpec, Window, lowest
from edgec.compiler.backends.cpu.templates import dotted_windows
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    Index,
    broadcast,
    buffer_dtype,
    const,
    loop,
    parallel,
    seq,
    tiles,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.template import Choice, Request, Template, fused_with_epilogue
from edgec.compiler.backends.cpu.templates.windows import row_bounds
from edgec.targets.target import Target

VERSION, DOTTED = 1, 2  # of the template, and where the dot product multiplies
SKIPPING = 8  # columns of a tile of a convolution with a stride
UNROLL_TAPS = 8
TURNS = 4  # registers that take turns in a long sum: an addition takes 3 or 4 cycles


@dataclass(frozen=True)
class Schedule:
    """A candidate: output columns and rows of a tile, and how many rows make a task."""

    width: int
    task_rows: int = 1

    def __str__(self) -> str:
        return f"sliding {self.width} rows{self.task_rows}"


def emit(spec: ConvSpec | PoolSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Sliding(spec, epilogue, schedule, threads).build()


def emit_row(spec: ConvSpec, epilogue: Epilogue, width: int, place: tuple[Expr, Expr, Expr]) -> Stmt:
    """A row of one channel block in tiles of `width` columns; its place is image, block and row."""
    n, b, y = place
    return _Sliding(spec, epilogue, Schedule(width), 1).row(n, b, y)


class _Sliding:
    def __init__(
        self, spec: ConvSpec | PoolSpec, epilogue: Epilogue, schedule: Schedule, threads: int
    ) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.window: Window = spec.window
        self.depthwise = isinstance(spec, ConvSpec)
        self.maximum = isinstance(spec, PoolSpec) and spec.kind == "max"

    def build(self) -> PrimFunc:
        spec, rows = self.spec, self.window.out[0]
        blocks = spec.blocks if isinstance(spec, PoolSpec) else -(-spec.in_channels // spec.lanes)
        per_task = self.schedule.task_rows
        if rows % per_task:
            raise ValueError(f"{rows} rows do not divide into tasks of {per_task}")

        def task(n: Expr, group: Expr, b: Expr) -> Stmt:
            return loop(per_task, lambda y: self.row(n, b, group * const(per_task) + y), "y")

        return self.epilogue.build(parallel([spec.batch, rows // per_task, blocks], task, self.threads))

    def row(self, n: Expr, b: Expr, y: Expr) -> Stmt:
        """A row of a channel block."""
        parts: list[tuple[int, int, int, tuple[tuple[int, int], ...]]] = []
        for start, width in tiles(self.window.out[1], self.schedule.width):
            taps, size = range(self.window.kernel[1]), self.spec.in_size[1]
            valid = tuple(self.window.reach(1, kx, (start, width), size) for kx in taps)
            if parts and parts[-1][1] == width and parts[-1][3] == valid:
                parts[-1] = (parts[-1][0], width, parts[-1][2] + 1, valid)
            else:
                parts.append((start, width, 1, valid))
        return seq([self._tiles(n, b, y, *part) for part in parts])

    def _tiles(
        self,
        n: Expr,
        b: Expr,
        y: Expr,
        start: int,
        width: int,
        count: int,
        valid: tuple[tuple[int, int], ...],
    ) -> Stmt:
        return loop(
            count, lambda t: self._tile(n, b, y, const(start) + t * const(width), width, valid), "tile"
        )

    def _tile(
        self, n: Expr, b: Expr, y: Expr, x: Expr, width: int, valid: tuple[tuple[int, int], ...]
    ) -> Stmt:
        spec, w = self.spec, self.window
        if self._sums_apart(width, valid):
            return self._whole(n, b, y, x)
        acc = Accumulators(width, spec.lanes, spec.dtype)
        top = y * const(w.stride[0]) - const(w.pad[0])
        low, count = row_bounds(w, spec.in_size[0], top)

        def taps(ky: Expr) -> Stmt:
            row = top + ky * const(w.dilation[0])
            if w.kernel[1] > UNROLL_TAPS and all(v == (0, width) for v in valid):
                return loop(
                    w.kernel[1], lambda kx: seq(self._tap(acc, n, b, row, x, ky, kx, (0, width))), "kx"
                )
            steps: list[Stmt] = []
            for kx, columns in enumerate(valid):
                steps += self._tap(acc, n, b, row, x, ky, const(kx), columns)
            return seq(steps) if steps else tirx.Evaluate(const(0))

        empty = float(lowest(spec.dtype)) if self.maximum else 0.0

        def store(i: Expr) -> Stmt:
            return vectorised(
                spec.lanes, lambda lane: self.epilogue.store([n, b, y, x + i, lane], acc.element(i, lane))
            )

        finish = [unrolled(width, store)]
        return acc.allocate([*acc.fill(empty), loop(count, taps, "ky", start=low), *finish])

    def _sums_apart(self, width: int, valid: tuple[tuple[int, int], ...]) -> bool:
        """Whether a window is long enough that one register would wait for itself, and lose digits in its sum."""
        pools = isinstance(self.spec, PoolSpec) and not self.maximum
        return pools and width == 1 and len(valid) > UNROLL_TAPS and all(v == (0, 1) for v in valid)

    def _whole(self, n: Expr, b: Expr, y: Expr, x: Expr) -> Stmt:
        """One sum over a long window, as of a global pool: every row by itself, in registers that take turns.

        The mean of 80×80 elements was off by 2e-5 where one register took them all.
        """
        spec, w = self.spec, self.window
        acc = Accumulators(2 * TURNS, spec.lanes, spec.dtype)
        top, left = (at * const(w.stride[i]) - const(w.pad[i]) for i, at in enumerate((y, x)))
        zero = broadcast(tirx.const(0, spec.dtype), spec.lanes)
        full, rest = divmod(w.kernel[1], TURNS)

        def row(ky: Expr) -> Stmt:
            at = top + ky * const(w.dilation[0])

            def add(first: Expr, k: Expr) -> Stmt:
                column = left + (first + k) * const(w.dilation[1])
                return acc.set(k, acc.get(k) + self._vector(self.epilogue.inputs[0], [n, b, at, column, 0]))

            steps = [
                unrolled(TURNS, lambda k: acc.set(k, zero)),
                loop(full, lambda t: unrolled(TURNS, lambda k: add(t * const(TURNS), k)), "kx"),
            ]
            steps += [unrolled(rest, lambda k: add(const(full * TURNS), k))] if rest else []
            return seq([*steps, unrolled(TURNS, lambda k: acc.merge(k + const(TURNS), k))])

        def store(lane: Expr) -> Stmt:
            return self.epilogue.store([n, b, y, x, lane], acc.element(TURNS, lane))

        low, count = row_bounds(w, spec.in_size[0], top)
        merged = [acc.merge(const(TURNS), const(TURNS + k)) for k in range(1, TURNS)]
        return acc.allocate(
            [*acc.fill(0.0), loop(count, row, "ky", start=low), *merged, vectorised(spec.lanes, store)]
        )

    def _tap(
        self,
        acc: Accumulators,
        n: Expr,
        b: Expr,
        row: Expr,
        x: Expr,
        ky: Expr,
        kx: Expr,
        columns: tuple[int, int],
    ) -> list[Stmt]:
        w = self.window

        def column(i: Expr) -> Stmt:
            ix = (x + i) * const(w.stride[1]) + kx * const(w.dilation[1]) - const(w.pad[1])
            value = self._vector(self.epilogue.inputs[0], [n, b, row, ix, 0])
            if self.depthwise:
                value = acc.get(i) + value * self._vector(self.epilogue.inputs[1], [b, ky, kx, 0])
            elif self.maximum:
                value = tirx.max(acc.get(i), value)
            else:
                value = acc.get(i) + value
            return acc.set(i, value)

        first, end = columns
        return [unrolled(end - first, column, first)] if end > first else []

    def _vector(self, buffer: Buffer, place: Sequence[Index]) -> Expr:
        """A vector of operands in the type of the sums."""
        vector = vector_load(buffer, place, self.spec.lanes)
        wide = f"{self.spec.dtype}x{self.spec.lanes}"
        return vector if buffer_dtype(buffer) == self.spec.dtype else vector.astype(wide)


def candidates(spec: ConvSpec | PoolSpec, target: Target, threads: int) -> list[Schedule]:
    """The schedules worth timing, best guess first."""
    registers = target.vector_registers
    budget = (registers - 4) // 2 if isinstance(spec, ConvSpec) else registers - 2
    rows, columns = spec.window.out
    widths = {max(size for _, size in tiles(columns, w)) for w in (budget, budget - 2, 8, 4) if w > 0}
    per_task = [d for d in (1, 2, 4, 7, 8, 14, 28, 56, 112, rows) if d <= rows and rows % d == 0]
    blocks = spec.blocks if isinstance(spec, PoolSpec) else -(-spec.in_channels // spec.lanes)
    enough = [d for d in per_task if spec.batch * blocks * rows // d >= 2 * threads]
    # Each thread gets rows of its own, but for a few rows whose number divides badly.
    chosen = [d for d in enough if rows // d >= threads]
    chosen = enough or [1] if chosen == [1] else chosen or [1]
    tasks = sorted({chosen[-1], chosen[len(chosen) // 2], 1}, reverse=True)
    return [Schedule(width, t) for t in tasks for width in _by_promise(spec, widths)]


def _by_promise(spec: ConvSpec | PoolSpec, widths: set[int]) -> list[int]:
    """Columns of a tile, best guess first: the widest, but of convolutions that skip pixels some eight.

    On Zen 4, seven or eight columns were the fastest of each of three such layers, 3 to 11 % before the widest. Of
    twelve winners on Cascade Lake that had wider tiles to choose from, ten have at most eight columns: five of them
    seven or eight, five four.
    """
    if isinstance(spec, ConvSpec) and spec.window.stride[1] > 1:
        return sorted(widths, key=lambda width: (width > SKIPPING, width if width > SKIPPING else -width))
    return sorted(widths, reverse=True)


_choose = fused_with_epilogue(VERSION, candidates, emit)
_choose_dotted = fused_with_epilogue(DOTTED, dotted_windows.candidates, dotted_windows.emit)


def _choose_depthwise(spec: ConvSpec, request: Request) -> Choice | None:
    """By the dot product where that has a use, else a tap at a time."""
    return _choose_dotted(spec, request) or _choose(spec, request)


DEPTHWISE = Template(
    "depthwise",
    (VERSION, DOTTED),
    lambda spec: isinstance(spec, ConvSpec) and spec.depthwise,
    _choose_depthwise,
)
POOL = Template("pool", (VERSION,), lambda spec: isinstance(spec, PoolSpec), _choose)
