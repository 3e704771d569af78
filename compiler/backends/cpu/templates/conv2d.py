"""Direct convolution on blocked tensors, dense and grouped.

One task computes `out_blocks` × `lanes` output channels of a row (of several rows of a narrow image, of part of a
flattened one): tiles of `width` output columns, an accumulator register for each column and channel block, the
reduction loops around the unrolled tile. Padding costs nothing in the interior: rows that fall outside are left out of
the reduction loop, and the tiles that touch the left or right border are separate code without the taps that fall
outside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx import Buffer, IfThenElse, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates import dot
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    prefetch,
    seq,
    stepped,
    tiles,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.windows import row_bounds

VERSION = 3
CACHE_LINE = 64  # bytes
UNROLL_TAPS = 3  # kernel columns up to which the taps are unrolled in the interior, too


@dataclass(frozen=True)
class _Piece:
    """A run of tiles that share code: first column, tile width, count, per kernel column the valid columns."""

    start: int
    width: int
    count: int
    valid: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Band:
    """A run of tiles of `rows` rows that share code: first tile and row, count, per kernel row the valid rows."""

    first: int
    start: int
    rows: int
    count: int
    valid: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Place:
    """Where a tile is: image, group of channel blocks, first row, first column; `band` where it has several rows."""

    n: Expr
    b: Expr
    y: Expr
    x: Expr
    piece: _Piece
    band: _Band | None = None

    @property
    def rows(self) -> int:
        """How many rows the tile has."""
        return self.band.rows if self.band else 1


@dataclass(frozen=True)
class _Chunk:
    """A part of the reduction: its number, whether it is the first, a middle or the last one, the sums so far."""

    number: Expr
    kind: str
    partial: Buffer


@dataclass(frozen=True)
class Schedule:
    """A candidate.

    Attributes:
        width: columns of the register tile.
        tall: rows of the register tile; above 1 it is as wide as the image.
        out_blocks: channel blocks of the register tile.
        rows: pieces into which the output is cut for tasks (image rows, unless the image is flattened).
        flat: height and width are one axis (1×1 kernels without stride only).
        ic_chunk: input channels reduced before the tile moves on; 0 for all at once.
        rows_outer: tasks run over rows first, so that threads share weights rather than input.
        ahead: each step prefetches the input that the next tile will read.
    """

    width: int
    out_blocks: int
    rows: int
    flat: bool = False
    ic_chunk: int = 0
    rows_outer: bool = False
    ahead: bool = False
    tall: int = 1

    def __str__(self) -> str:
        parts = [f"direct {self.width}x{self.out_blocks}", f"rows{self.rows}"]
        parts += ["flat"] if self.flat else []
        parts += [f"tall{self.tall}"] if self.tall > 1 else []
        parts += [f"ic{self.ic_chunk}"] if self.ic_chunk else []
        parts += ["rows-outer"] if self.rows_outer else []
        parts += ["ahead"] if self.ahead else []
        return " ".join(parts)


@dataclass(frozen=True)
class Geometry:
    """The convolution as the loops see it: possibly flattened."""

    spec: ConvSpec
    height: int
    width: int
    in_height: int
    in_width: int

    @staticmethod
    def of(spec: ConvSpec, schedule: Schedule) -> Geometry:
        """The loop bounds for a schedule."""
        out, size = spec.window.out, spec.in_size
        if not schedule.flat:
            return Geometry(spec, out[0], out[1], size[0], size[1])
        total = out[0] * out[1]
        return Geometry(spec, schedule.rows, total // schedule.rows, 1, total)


def emit(spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Direct(spec, epilogue, schedule, threads).build()


class _Direct:
    def __init__(self, spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.data, self.weight = epilogue.inputs
        self.geometry = Geometry.of(spec, schedule)
        self.blocks = -(-spec.out_channels // spec.lanes)
        self.operands = spec.operands
        self.step = self.operands.step  # channels that one step of the reduction takes
        self.per_group = spec.in_channels // spec.groups // self.step

    def build(self) -> PrimFunc:
        count = self.blocks // self.schedule.out_blocks
        batch, rows = self.spec.batch, -(-self.geometry.height // self.schedule.tall)
        if self.schedule.ic_chunk:
            body = parallel([batch, count], self._chunked, self.threads)
        elif self.schedule.rows_outer:
            body = parallel([batch, rows, count], lambda n, y, b: self._row(n, b, y), self.threads)
        else:
            body = parallel([batch, count, rows], self._row, self.threads)
        return self.epilogue.build(body)

    def _row(self, n: Expr, b: Expr, y: Expr, chunk: _Chunk | None = None) -> Stmt:
        """A row of tiles: number `y` from the top."""
        if self.schedule.tall == 1:
            return seq([self._tile_loop(n, b, y, piece, chunk) for piece in self._pieces()])
        (piece,) = self._pieces()
        made: Stmt | None = None
        for band in reversed(self._bands()):
            row = const(band.start) + (y - const(band.first)) * const(band.rows)
            tile = self._tile(_Place(n, b, row, const(0), piece, band), chunk)
            made = tile if made is None else IfThenElse(y < const(band.first + band.count), tile, made)
        assert made is not None
        return made

    def _bands(self) -> list[_Band]:
        """Runs of tiles of several rows."""
        w, height = self.spec.window, self.geometry.in_height
        found: list[_Band] = []
        for number, (start, rows) in enumerate(tiles(self.geometry.height, self.schedule.tall)):
            valid = tuple(w.reach(0, ky, (start, rows), height) for ky in range(w.kernel[0]))
            last = found[-1] if found else None
            if last and (last.rows, last.valid) == (rows, valid):
                found[-1] = replace(last, count=last.count + 1)
            else:
                found.append(_Band(number, start, rows, 1, valid))
        return found

    def _chunked(self, n: Expr, b: Expr) -> Stmt:
        """All rows of some channel blocks, a part of the input channels at a time; partial sums are kept in memory."""
        count = -(-self.per_group // self._chunk_steps)
        size = self.geometry.height * self.geometry.width * self.schedule.out_blocks * self.spec.lanes
        sums = tirx.decl_buffer((size,), self.spec.dtype, "sums", scope="global", data_alignment=64)
        stages: list[Stmt] = [tirx.AllocBuffer(sums)]
        for kind, start, repeats in _stages(count):

            def chunk(c: Expr, kind: str = kind) -> Stmt:
                rows = -(-self.geometry.height // self.schedule.tall)
                return loop(rows, lambda y: self._row(n, b, y, _Chunk(c, kind, sums)), "y")

            stages.append(loop(repeats, chunk, "chunk", start=start))
        return tirx.SeqStmt(stages)

    @property
    def _chunk_steps(self) -> int:
        return self.schedule.ic_chunk // self.step

    def _pieces(self) -> list[_Piece]:
        """Runs of tiles that share code."""
        found: list[_Piece] = []
        for start, width in tiles(self.geometry.width, self.schedule.width):
            valid = tuple(self._valid(start, width, kx) for kx in range(self.spec.window.kernel[1]))
            last = found[-1] if found else None
            if last and (last.width, last.valid) == (width, valid):
                found[-1] = replace(last, count=last.count + 1)
            else:
                found.append(_Piece(start, width, 1, valid))
        return found

    def _valid(self, start: int, width: int, kx: int) -> tuple[int, int]:
        """The columns of a tile for which tap `kx` reads inside the image."""
        if self.schedule.flat:
            return (0, width)
        return self.spec.window.reach(1, kx, (start, width), self.geometry.in_width)

    def _tile_loop(self, n: Expr, b: Expr, y: Expr, piece: _Piece, chunk: _Chunk | None = None) -> Stmt:
        def tile(t: Expr) -> Stmt:
            return self._tile(_Place(n, b, y, const(piece.start) + t * const(piece.width), piece), chunk)

        return loop(piece.count, tile, "tile")

    def _tile(self, place: _Place, chunk: _Chunk | None) -> Stmt:
        """Clear or load the accumulators, reduce, and pass them to the epilogue or store them as partial sums."""
        blocks, lanes = self.schedule.out_blocks, self.spec.lanes
        acc = Accumulators(place.rows * place.piece.width * blocks, lanes, self.spec.dtype)
        if chunk is None:
            reduce = self._reduce(acc, place, const(0), self.per_group)
            return acc.allocate([*acc.fill(0.0), reduce, *self._finish(acc, place)])
        channels = self._chunk_steps
        offset = (place.y * const(self.geometry.width) + place.x) * const(blocks * lanes)

        def spot(k: Expr) -> Expr:
            return offset + k * const(lanes)

        before = acc.fill(0.0)
        if chunk.kind != "first":
            before = [unrolled(acc.count, lambda k: acc.set(k, vector_load(chunk.partial, [spot(k)], lanes)))]
        after = self._finish(acc, place)
        if chunk.kind != "last":
            after = [unrolled(acc.count, lambda k: chunk.partial.vstore([spot(k)], acc.get(k)))]
        else:
            channels = self.per_group - channels * (-(-self.per_group // channels) - 1)
        reduce = self._reduce(acc, place, chunk.number * const(self._chunk_steps), channels)
        return acc.allocate([*before, reduce, *after])

    def _reduce(self, acc: Accumulators, place: _Place, first: Expr, channels: int) -> Stmt:
        """The loops over blocks of input channels and kernel rows around the taps."""
        top = place.y * const(self.spec.window.stride[0]) - const(self.spec.window.pad[0])

        def rows(block: Expr, lanes: int) -> Stmt:
            return seq(self._kernel_rows(acc, place, top, (block, lanes)))

        # Whole blocks and the rest apart: block and lane of a channel then need no division at run time.
        block = self.spec.in_block // self.step or channels
        whole, rest = divmod(channels, block)
        parts: list[Stmt] = []
        if whole:
            parts.append(loop(whole, lambda at: rows(first + at * const(block), block), "icb"))
        if rest:
            parts.append(rows(first + const(whole * block), rest))
        return seq(parts)

    def _kernel_rows(
        self, acc: Accumulators, place: _Place, top: Expr, channels: tuple[Expr, int]
    ) -> list[Stmt]:
        """The kernel rows that reach the tile, for a block of input channels."""
        if place.band is None:
            flat, w = self.schedule.flat, self.spec.window
            low, count = (0, 1) if flat else row_bounds(w, self.geometry.in_height, top)
            return [
                loop(count, lambda ky: self._columns(acc, place, top, channels, ky, (0, 1)), "ky", start=low)
            ]
        valid, whole = place.band.valid, (0, place.rows)
        if all(rows == whole for rows in valid):
            return [loop(len(valid), lambda ky: self._columns(acc, place, top, channels, ky, whole), "ky")]
        reached = [(ky, rows) for ky, rows in enumerate(valid) if rows[1] > rows[0]]
        return [self._columns(acc, place, top, channels, const(ky), rows) for ky, rows in reached]

    def _columns(
        self,
        acc: Accumulators,
        place: _Place,
        top: Expr,
        channels: tuple[Expr, int],
        ky: Expr,
        rows: tuple[int, int],
    ) -> Stmt:
        """All taps of one kernel row for a block of input channels (first one, how many) and some rows of the tile.

        The channels are the innermost loop: were it the taps, LLVM would keep the inputs that neighbouring
        taps share in registers, and spill the accumulators for them.
        """
        w, piece = self.spec.window, place.piece
        whole = (0, piece.width)
        first, count = channels

        def taps(kx: Expr, valid: tuple[int, int]) -> Stmt:
            def step(lane: Expr) -> Stmt:
                def tap(r: int) -> Stmt:
                    row = top + const(r * w.stride[0])
                    return self._tap(acc, place, (row, r), first + lane, ky, kx, valid)

                return seq([tap(r) for r in range(*rows)])

            return stepped(count, step, self._channels_a_pass, "ic")

        ahead = self._ahead(place, top, first, ky)
        if w.kernel[1] > UNROLL_TAPS and all(v == whole for v in piece.valid):
            return seq([*ahead, loop(w.kernel[1], lambda kx: taps(kx, whole), "kx")])
        steps = [taps(const(kx), v) for kx, v in enumerate(piece.valid) if v[1] > v[0]]
        return seq([*ahead, *steps]) if steps else tirx.Evaluate(const(0))

    @property
    def _channels_a_pass(self) -> int:
        """Input channels of one pass of the innermost loop: two are 2 to 10 % faster, where the addresses are few."""
        return 2 if self.spec.window.stride == (1, 1) and self.schedule.tall == 1 else 1

    def _ahead(self, place: _Place, top: Expr, channel: Expr, ky: Expr) -> list[Stmt]:
        """Prefetch the cache lines of this block of channels and kernel row that the next tile will read.

        A tile reads short pieces far apart, which the hardware prefetchers do not predict.
        """
        pixel = self.spec.lanes * self.spec.window.stride[1] * self.operands.data_bytes
        if not self.schedule.ahead:
            return []
        width = place.piece.width
        return [
            prefetch(self._input(place, top, channel, ky, const(0), const(width + i)))
            for i in range(0, width, max(1, CACHE_LINE // pixel))
        ]

    def _tap(
        self,
        acc: Accumulators,
        place: _Place,
        row: tuple[Expr, int],
        channel: Expr,
        ky: Expr,
        kx: Expr,
        valid: tuple[int, int],
    ) -> Stmt:
        """One multiply-add for each accumulator of a row (its first input row, its number) that the tap reaches."""
        blocks, lanes = self.schedule.out_blocks, self.spec.lanes
        chunk = const(self.spec.chunk // self.step)

        def column(i: Expr) -> Stmt:
            value = broadcast(self._input(place, row[0], channel, ky, kx, i), lanes)

            def block(j: Expr) -> Stmt:
                k = (i + const(row[1] * place.piece.width)) * const(blocks) + j
                number, member = tirx.indexdiv(channel, chunk), tirx.indexmod(channel, chunk)
                at = [place.b * const(blocks) + j, number, ky, kx, member, 0]
                weight = dot.weights(self.operands, self.weight, at, lanes)
                return acc.set(k, dot.multiply_add(self.operands, acc.get(k), value, weight, lanes))

            return unrolled(blocks, block)

        first, end = valid
        return unrolled(end - first, column, first)

    def _input(self, place: _Place, top: Expr, channel: Expr, ky: Expr, kx: Expr, column: Expr) -> Expr:
        """What a step reads of the input under a tap of output column `column` of the tile."""
        w = self.spec.window
        x = place.x + column
        if self.schedule.flat:
            # One axis of pixels: the rows of the image follow each other in memory.
            iy, ix = const(0), place.y * const(self.geometry.width) + x
        else:
            iy = top + ky * const(w.dilation[0])
            ix = x * const(w.stride[1]) + kx * const(w.dilation[1]) - const(w.pad[1])
        if self.spec.groups > 1:
            group_blocks = const(self.blocks // self.spec.groups)
            group = tirx.indexdiv(place.b * const(self.schedule.out_blocks), group_blocks)
            channel = group * const(self.per_group) + channel
        if not self.spec.in_block:
            return self.data[place.n, channel, iy, ix]
        block = const(self.spec.in_block // self.step)
        number, lane = tirx.indexdiv(channel, block), tirx.indexmod(channel, block)
        return dot.data(self.operands, self.data, [place.n, number, iy, ix], lane)

    def _finish(self, acc: Accumulators, place: _Place) -> list[Stmt]:
        """Pass the accumulators to the epilogue."""
        blocks = self.schedule.out_blocks

        def column(i: Expr, row: int) -> Stmt:
            y, x = place.y + const(row), place.x + i
            if self.schedule.flat:
                y, x = const(0), place.y * const(self.geometry.width) + x

            def block(j: Expr) -> Stmt:
                at = [place.n, place.b * const(blocks) + j, y, x]
                k = (i + const(row * place.piece.width)) * const(blocks) + j
                return _store(self.epilogue, acc, k, at)

            return unrolled(blocks, block)

        return [unrolled(place.piece.width, partial(column, row=row)) for row in range(place.rows)]


def _store(epilogue: Epilogue, acc: Accumulators, k: Expr, at: list[Expr]) -> Stmt:
    return vectorised(acc.lanes, lambda lane: epilogue.store([*at, lane], acc.element(k, lane)))


def _stages(count: int) -> list[tuple[str, int, int]]:
    """Chunks as (kind, first, how many): the first one starts the sums, the last one passes them to the epilogue."""
    if count == 2:
        return [("first", 0, 1), ("last", 1, 1)]
    return [("first", 0, 1), ("middle", 1, count - 2), ("last", count - 1, 1)]
