"""Depthwise convolution of 8-bit integers by the dot product: four taps of a row are one step.

A vector of four pixels of a block of four channels is transposed once, so that the pixels of a channel lie side by
side. The dot product then adds the taps of a row for all four channels, with weights that are moved to where the taps
of a column lie among the pixels, and zeros beside them: a vector of pixels serves every column whose taps it holds, and
the pixels beyond the image are never read. The weights of a block are put in order once, for all of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import BufferStore, PrimFunc, Stmt

from edgec.compiler.backends.cpu.dot_instructions import INSTRUCTIONS
from edgec.compiler.backends.cpu.specs import ConvSpec, Window
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    index,
    loop,
    parallel,
    seq,
    shuffled,
    tiles,
    unrolled,
    vectorised,
)
from edgec.targets.features import DOTPROD
from edgec.targets.target import Target

LANES = 4  # channels of a block, and pixels of a vector
BYTES = LANES * LANES
WIDTHS = (12, 16, 8)  # columns of a tile, best guess first: whole vectors of results
MOST_ROWS = 16  # kinds of rows by what they read of the window: each has code of its own
NONE = -1  # no tap


@dataclass(frozen=True)
class Schedule:
    """A candidate: output columns of a tile."""

    width: int

    def __str__(self) -> str:
        return f"dotted {self.width}"


Pattern = tuple[int, ...]  # the tap that each pixel of a vector is multiplied by, or `NONE`


@dataclass(frozen=True)
class Vector:
    """Four pixels of a row and the columns whose taps lie there.

    Attributes:
        start: the first pixel, counted from the first column's place in the input.
        columns: of the tile, with the taps that its pixels are.
    """

    start: int
    columns: tuple[tuple[int, Pattern], ...]


@dataclass(frozen=True)
class Piece:
    """Tiles of a row that read the same pixels: first column, width, how many."""

    start: int
    width: int
    count: int
    vectors: tuple[Vector, ...]


def vectors_of(window: Window, size: int, start: int, width: int) -> tuple[Vector, ...]:
    """The vectors of a tile of columns from `start` on; `size` pixels are in a row.

    Every pixel inside the image is in one vector of each column that reads it.
    """
    kernel, stride, pad = window.kernel[1], window.stride[1], window.pad[1]
    together = -(-kernel // LANES)
    span, made, column = together * LANES, list[Vector](), 0
    while column < width:
        begin = min(max((start + column) * stride - pad, 0), size - span)
        columns: list[list[tuple[int, Pattern]]] = [[] for _ in range(together)]
        while column < width:
            first = (start + column) * stride - pad
            if max(first, 0) < begin or min(first + kernel, size) > begin + span:
                break
            for number in range(together):
                pixels = range(begin + number * LANES, begin + (number + 1) * LANES)
                taps = tuple(pixel - first if 0 <= pixel - first < kernel else NONE for pixel in pixels)
                if any(tap != NONE for tap in taps):
                    columns[number].append((column, taps))
            column += 1
        base = begin - start * stride
        made += [Vector(base + number * LANES, tuple(c)) for number, c in enumerate(columns) if c]
    return tuple(made)


def pieces_of(window: Window, size: int, width: int) -> list[Piece]:
    """A row of tiles, those together that read the same pixels."""
    made: list[Piece] = []
    for start, columns in tiles(window.out[1], width):
        vectors = vectors_of(window, size, start, columns)
        if made and (made[-1].width, made[-1].vectors) == (columns, vectors):
            last = made.pop()
            made.append(Piece(last.start, columns, last.count + 1, vectors))
        else:
            made.append(Piece(start, columns, 1, vectors))
    return made


def rows_of(window: Window, size: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """The rows of the result by the rows of the window that they read: (first, how many, rows of the window)."""
    made: list[tuple[int, int, tuple[int, ...]]] = []
    for y in range(window.out[0]):
        top = y * window.stride[0] - window.pad[0]
        inside = tuple(ky for ky in range(window.kernel[0]) if 0 <= top + ky * window.dilation[0] < size)
        if made and made[-1][2] == inside:
            made[-1] = (made[-1][0], made[-1][1] + 1, inside)
        else:
            made.append((y, 1, inside))
    return made


def fits(spec: ConvSpec, target: Target, threads: int) -> bool:
    """Whether the dot product makes the sums of `spec`, and there are blocks for all threads."""
    w, operands = spec.window, spec.operands
    bytes_of_four = (operands.data, operands.weight, spec.dtype, spec.lanes) == (
        "int8",
        "int8",
        "int32",
        LANES,
    )
    if not (spec.depthwise and bytes_of_four and DOTPROD in target.features):
        return False
    taps = w.kernel[1]
    wide = spec.in_size[1] >= -(-taps // LANES) * LANES and taps > 1 and w.kernel[0] * taps >= LANES
    blocks = -(-spec.in_channels // LANES) * spec.batch
    return wide and w.dilation[1] == 1 and blocks >= threads and len(rows_of(w, spec.in_size[0])) <= MOST_ROWS


def candidates(spec: ConvSpec, target: Target, threads: int) -> list[Schedule]:
    """The schedules worth timing, best guess first; none where the dot product is of no use."""
    if not fits(spec, target, threads):
        return []
    found = {tiles(spec.window.out[1], width)[0][1]: Schedule(width) for width in reversed(WIDTHS)}
    return sorted(found.values(), key=lambda one: WIDTHS.index(one.width))


def emit(spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Dotted(spec, epilogue, schedule, threads).build()


class _Dotted:
    def __init__(self, spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.threads, self.window = spec, threads, spec.window
        self.data, self.weight = epilogue.inputs
        split = epilogue.bias()
        self.epilogue = split[0] if split is not None else epilogue
        self.bias = split[1] if split is not None else None
        self.pieces = pieces_of(self.window, spec.in_size[1], schedule.width)
        self.rows = rows_of(self.window, spec.in_size[0])
        used = {taps for piece in self.pieces for vector in piece.vectors for _, taps in vector.columns}
        self.patterns = {taps: number for number, taps in enumerate(sorted(used))}
        self.moved = Accumulators(len(self.patterns) * self.window.kernel[0], LANES, "int32")

    def build(self) -> PrimFunc:
        def task(n: Expr, b: Expr) -> Stmt:
            weights = [
                self.moved.set(self._number(taps, ky), self._weights(b, taps, ky))
                for ky in range(self.window.kernel[0])
                for taps in self.patterns
            ]
            rows = [
                loop(count, lambda y, inside=inside: self._row(n, b, y, inside), "y", start=first)  # type: ignore[misc]
                if count > 1
                else self._row(n, b, const(first), inside)
                for first, count, inside in self.rows
            ]
            return self.moved.allocate([*weights, *rows])

        blocks = -(-self.spec.in_channels // LANES)
        return self.epilogue.build(parallel([self.spec.batch, blocks], task, self.threads))

    def _number(self, taps: Pattern, ky: int) -> int:
        return ky * len(self.patterns) + self.patterns[taps]

    def _weights(self, b: Expr, taps: Pattern, ky: int) -> Expr:
        """The weights of a row of the window, moved to the pixels of a vector: four for each channel."""
        width = self.window.kernel[1]
        first = ky * width + min(tap for tap in taps if tap != NONE)
        first = min(first, self.window.kernel[0] * width - LANES)  # nothing beyond the block is read
        place = [b, const(first // width), const(first % width), const(0)]
        given = self.weight.vload(place, f"int8x{BYTES}")
        zeros = broadcast(tirx.IntImm("int8", 0), BYTES)
        places = [
            BYTES if tap == NONE else (ky * width + tap - first) * LANES + channel
            for channel in range(LANES)
            for tap in taps
        ]
        return _words(shuffled([given, zeros], places))

    def _row(self, n: Expr, b: Expr, y: Expr, inside: Sequence[int]) -> Stmt:
        def run(piece: Piece) -> Stmt:
            return loop(
                piece.count,
                lambda t: self._tile((n, b, y), const(piece.start) + t * const(piece.width), piece, inside),
                "tile",
            )

        return seq([run(piece) for piece in self.pieces])

    def _tile(self, at: tuple[Expr, Expr, Expr], x: Expr, piece: Piece, inside: Sequence[int]) -> Stmt:
        n, b, y = at
        w, acc = self.window, Accumulators(piece.width, LANES, "int32")
        steps: list[Stmt] = []
        for ky in inside:
            row = y * const(w.stride[0]) + const(ky * w.dilation[0] - w.pad[0])
            for vector in piece.vectors:
                pixels = tirx.Var("pixels", f"int32x{LANES}")
                place = [n, b, row, x * const(w.stride[1]) + const(vector.start), const(0)]
                given = self.data.vload(place, f"int8x{BYTES}")
                by_channel = [pixel * LANES + channel for channel in range(LANES) for pixel in range(LANES)]
                steps.append(tirx.Bind(pixels, _words(shuffled([given], by_channel))))
                steps += [
                    acc.set(column, _dot(acc.get(column), pixels, self.moved.get(self._number(taps, ky))))
                    for column, taps in vector.columns
                ]

        def store(i: Expr) -> Stmt:
            return vectorised(
                LANES, lambda lane: self.epilogue.store([n, b, y, x + i, lane], acc.element(i, lane))
            )

        return acc.allocate([*self._begin(acc, n, b), *steps, unrolled(piece.width, store)])

    def _begin(self, acc: Accumulators, n: Expr, b: Expr) -> list[Stmt]:
        """Sums of nothing, or of the bias."""
        bias = self.bias
        if bias is None:
            return acc.fill(0)

        def start(k: Expr) -> Stmt:
            def element(lane: Expr) -> Stmt:
                return BufferStore(
                    acc.buffer, bias([n, b, const(0), const(0), lane]), [index(k) * const(LANES) + lane]
                )

            return vectorised(LANES, element)

        return [unrolled(acc.count, start)]


def _words(vector: Expr) -> Expr:
    return tirx.reinterpret(f"int32x{LANES}", vector)


def _dot(sums: Expr, pixels: Expr, weights: Expr) -> Expr:
    return tirx.call_pure_extern(f"int32x{LANES}", INSTRUCTIONS["sdot"].function, sums, pixels, weights)
