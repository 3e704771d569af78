"""Direct convolution on blocked tensors, dense and grouped.

One task computes `out_blocks` × `lanes` output channels of a row (of several rows of a narrow image, of part of a
flattened one): tiles of `width` output columns, an accumulator register for each column and channel block, the
reduction loops around the unrolled tile. Padding costs nothing in the interior: rows that fall outside are left out of
the reduction loop, and the tiles that touch the left or right border are separate code without the taps that fall
outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx import Buffer, BufferStore, IfThenElse, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates import dot, squares
from edgec.compiler.backends.cpu.templates.conv2d_tiles import Band, Geometry, Piece, Schedule, reads_vectors
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.half_sums import CHUNK, UNCUT, HalfSums, in_halves
from edgec.compiler.backends.cpu.templates.loop_nests import (
    INDEX,
    Accumulators,
    Expr,
    Index,
    at_flat_place,
    broadcast,
    buffer_dtype,
    const,
    flat_place,
    index,
    loop,
    parallel,
    prefetch,
    seq,
    shuffled,
    stepped,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.plain_rows import Row
from edgec.compiler.backends.cpu.templates.windows import row_bounds

VERSION = 3
BLOCKS_A_PASS = 4  # where a block of channels is a single step
CACHE_LINE = 64  # bytes
ADDRESSES = 3  # blocks whose weights have addresses of their own: LLVM computes those of more in each step
STARTED = ("sdot", "smlal")  # instructions whose sums start with the bias, as those of elements do
UNROLL_TAPS = 3  # kernel columns up to which the taps are unrolled in the interior, too


@dataclass(frozen=True)
class _Place:
    """Where a tile is: image, group of channel blocks, first row, first column; `band` where it has several rows.

    `starts`: where the weights of each channel block begin behind the first one's, if vectors multiply by elements.
    """

    n: Expr
    b: Expr
    y: Expr
    x: Expr
    piece: Piece
    band: Band | None = None
    starts: tuple[Expr, ...] = ()

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


def emit(spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Direct(spec, epilogue, schedule, threads).build()


def emit_row(spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, place: tuple[Expr, Expr, Expr]) -> Stmt:
    """A row of tiles; its place is image, group of channel blocks, and row of tiles."""
    n, b, y = place
    return _Direct(spec, epilogue, schedule, 1).row(n, b, y)


class _Direct:
    def __init__(self, spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.data, self.weight = epilogue.inputs
        self.geometry = Geometry.of(spec, schedule)
        self.blocks = -(-spec.out_channels // spec.lanes)
        self.operands, self.half = spec.operands, in_halves(spec.operands)
        self.step = self.operands.step  # channels that one step of the reduction takes
        self.per_group = spec.in_channels // spec.groups // self.step

    def build(self) -> PrimFunc:
        count = self.blocks // self.schedule.out_blocks
        batch, rows = self.spec.batch, -(-self.geometry.height // self.schedule.tall)
        if self.schedule.ic_chunk and self.schedule.rows_outer:
            body = parallel([batch, rows, count], lambda n, y, b: self._chunked(n, b, y), self.threads)
        elif self.schedule.ic_chunk:
            body = parallel([batch, count], self._chunked, self.threads)
        elif self.schedule.rows_outer:
            body = parallel([batch, rows, count], lambda n, y, b: self.row(n, b, y), self.threads)
        else:
            body = parallel([batch, count, rows], self.row, self.threads)
        return self.epilogue.build(body)

    def row(self, n: Expr, b: Expr, y: Expr, chunk: _Chunk | None = None) -> Stmt:
        """A row of tiles: number `y` from the top."""
        pieces = self.geometry.pieces()
        if self.schedule.tall == 1:
            return seq([self._tile_loop(_Place(n, b, y, const(0), piece), chunk) for piece in pieces])
        made: Stmt | None = None
        for band in reversed(self.geometry.bands()):
            row = const(band.start) + (y - const(band.first)) * const(band.rows)
            loops = [self._tile_loop(_Place(n, b, row, const(0), piece, band), chunk) for piece in pieces]
            made = (
                seq(loops)
                if made is None
                else IfThenElse(y < const(band.first + band.count), seq(loops), made)
            )
        assert made is not None
        return made

    def _chunked(self, n: Expr, b: Expr, only: Expr | None = None) -> Stmt:
        """Channel blocks of all rows, or of one, a part of the input channels at a time: partial sums in memory."""
        count = -(-self.per_group // self._chunk_steps)
        height = self.geometry.height if only is None else 1
        size = height * self.geometry.width * self.schedule.out_blocks * self.spec.lanes
        sums = tirx.decl_buffer((size,), self.spec.dtype, "sums", scope="global", data_alignment=64)
        stages: list[Stmt] = [tirx.AllocBuffer(sums)]
        for kind, start, repeats in _stages(count):

            def chunk(c: Expr, kind: str = kind) -> Stmt:
                if only is not None:
                    return self.row(n, b, only, _Chunk(c, kind, sums))
                rows = -(-self.geometry.height // self.schedule.tall)
                return loop(rows, lambda y: self.row(n, b, y, _Chunk(c, kind, sums)), "y")

            stages.append(loop(repeats, chunk, "chunk", start=start))
        return tirx.SeqStmt(stages)

    @property
    def _chunk_steps(self) -> int:
        return self.schedule.ic_chunk // self.step

    def _tile_loop(self, first: _Place, chunk: _Chunk | None) -> Stmt:
        """The tiles of a piece of a row, or of a band of rows; `first` is at column 0."""
        piece = first.piece

        def tile(t: Expr) -> Stmt:
            return self._tile(replace(first, x=const(piece.start) + t * const(piece.width)), chunk)

        return loop(piece.count, tile, "tile")

    def _tile(self, place: _Place, chunk: _Chunk | None) -> Stmt:
        """A tile; where vectors multiply by elements, the weights of each channel block have an address of their own.

        Neighbouring vectors are loaded by one instruction then, which reaches no further than a kilobyte.
        """
        if not (self.schedule.elements and self.spec.in_block):
            return self._sums(place, chunk)
        size = math.prod(int(extent) for extent in self.weight.ty.shape[1:])
        starts = [tirx.Var("start", INDEX) for _ in range(self.schedule.out_blocks)]
        apart = len(starts) <= ADDRESSES and self.spec.window.kernel == (1, 1)
        places = [dot.anew(const(j * size)) if apart else const(j * size) for j in range(len(starts))]
        binds = [tirx.Bind(start, place_of) for start, place_of in zip(starts, places, strict=True)][1:]
        sums = self._sums(replace(place, starts=(const(0), *starts[1:])), chunk)
        return seq([*binds, sums])

    def _sums(self, place: _Place, chunk: _Chunk | None) -> Stmt:
        """Clear or load the accumulators, reduce, and pass them to the epilogue or store them as partial sums."""
        blocks, lanes = self.schedule.out_blocks, self.spec.lanes
        count = place.rows * place.piece.width * blocks
        if self.half:
            return self._half_tile(HalfSums(count, lanes, chunked=self._chunk_size() > 0), place)
        acc = Accumulators(count, lanes, self.spec.dtype)
        starts = self.schedule.elements or self.operands.instruction in STARTED
        if chunk is None and starts and (split := self.epilogue.bias()) is not None:
            return self._biased_tile(acc, place, *split)
        if chunk is None:
            reduce = self._reduce(acc, place, const(0), self.per_group)
            return acc.allocate([*acc.fill(0.0), reduce, *self._finish(acc, place)])
        channels = self._chunk_steps
        row = const(0) if self.schedule.rows_outer else place.y  # of the partial sums
        offset = (row * const(self.geometry.width) + place.x * const(place.rows)) * const(blocks * lanes)

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

    def _biased_tile(
        self, acc: Accumulators, place: _Place, rest: Epilogue, bias: Callable[[Sequence[Index]], Expr]
    ) -> Stmt:
        """A tile whose sums start with the bias, which takes an instruction less for each than to add it."""
        blocks, lanes = self.schedule.out_blocks, self.spec.lanes

        def start(k: Expr) -> Stmt:
            block = place.b * const(blocks) + tirx.indexmod(k, const(blocks))

            def element(lane: Expr) -> Stmt:
                at = index(k) * const(lanes) + lane
                return BufferStore(acc.buffer, bias([place.n, block, const(0), const(0), lane]), [at])

            return vectorised(lanes, element)

        reduce = self._reduce(acc, place, const(0), self.per_group)
        return acc.allocate([unrolled(acc.count, start), reduce, *self._finish(acc, place, rest)])

    def _half_tile(self, acc: HalfSums, place: _Place) -> Stmt:
        """A tile of sums of halves, a chunk of the input channels (or of their taps) at a time."""

        def part(first: Expr, channels: int) -> Stmt:
            return self._reduce(acc, place, first, channels)

        size = self._chunk_size()
        by_rows = size == 0 or self._splits_taps
        sums = part(const(0), self.per_group) if by_rows else acc.chunks(self.per_group, size, part, "chunk")
        return acc.allocate([*acc.start(), sums, *self._finish(acc, place)])

    @property
    def _splits_taps(self) -> bool:
        """Whether the taps of a block of channels are too many products for a chunk: each kernel row is one then."""
        kernel = self.spec.window.kernel
        return self.half and kernel[0] * kernel[1] * (self.spec.in_block or self.per_group) > UNCUT

    def _chunk_size(self) -> int:
        """Input channels of a chunk of a sum of halves; 0 where the sum is one chunk."""
        kernel, block = self.spec.window.kernel, self.spec.in_block or self.per_group
        taps = kernel[0] * kernel[1]
        if taps * self.per_group <= UNCUT:
            return 0
        return max(1, CHUNK // (taps * block)) * block

    def _reduce(self, acc: Accumulators, place: _Place, first: Expr, channels: int) -> Stmt:
        """The loops over blocks of input channels and kernel rows around the taps."""
        top = place.y * const(self.spec.window.stride[0]) - const(self.spec.window.pad[0])

        def rows(block: Expr, lanes: int) -> Stmt:
            return seq(self._kernel_rows(acc, place, top, (block, lanes)))

        # Whole blocks and the rest apart: block and lane of a channel then need no division at run time.
        block = self.spec.in_block // self.step or channels
        if self.operands.squares:
            block = self.operands.depth // self.step
        whole, rest = divmod(channels, block)
        parts: list[Stmt] = []
        if whole:
            together = BLOCKS_A_PASS if block == 1 and self.spec.window.kernel == (1, 1) else 1
            parts.append(stepped(whole, lambda at: rows(first + at * const(block), block), together, "icb"))
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
                loop(
                    count, lambda ky: self._kernel_row(acc, place, top, channels, ky, (0, 1)), "ky", start=low
                )
            ]
        valid, whole = place.band.valid, (0, place.rows)
        if all(rows == whole for rows in valid):
            return [loop(len(valid), lambda ky: self._kernel_row(acc, place, top, channels, ky, whole), "ky")]
        reached = [(ky, rows) for ky, rows in enumerate(valid) if rows[1] > rows[0]]
        return [self._kernel_row(acc, place, top, channels, const(ky), rows) for ky, rows in reached]

    def _kernel_row(
        self,
        acc: Accumulators,
        place: _Place,
        top: Expr,
        channels: tuple[Expr, int],
        ky: Expr,
        rows: tuple[int, int],
    ) -> Stmt:
        taps = self._columns(acc, place, top, channels, ky, rows)
        return acc.chunk(taps) if isinstance(acc, HalfSums) and self._splits_taps else taps

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
        w, piece, lanes = self.spec.window, place.piece, self.spec.lanes
        whole = (0, piece.width)
        first, count = channels
        row = Row(w, piece.valid, lanes)
        if self.operands.squares:
            return seq([self._squares(acc, place, (top, r), first) for r in range(*rows)])
        if self.schedule.elements and not self.spec.in_block and row.starts:
            return loop(
                count,
                lambda lane: seq(
                    [self._of_vectors(acc, place, (top, r), first + lane, ky, row) for r in range(*rows)]
                ),
                "ic",
            )

        def taps(kx: Expr, valid: tuple[int, int]) -> Stmt:
            def step(lane: Expr) -> Stmt:
                def tap(r: int) -> Stmt:
                    row = top + const(r * w.stride[0])
                    return self._tap(acc, place, (row, r), first + lane, ky, kx, valid)

                return seq([tap(r) for r in range(*rows)])

            if self.schedule.elements and self.spec.in_block and count == lanes:
                return seq(
                    [self._by_element(acc, place, (top, r), first, (ky, kx), valid) for r in range(*rows)]
                )
            steps = stepped(count, step, self._channels_a_pass, "ic")
            return seq([steps, dot.apart()]) if self.schedule.apart or self._narrow else steps

        ahead = self._ahead(place, top, first, ky)
        if w.kernel[1] > UNROLL_TAPS and all(v == whole for v in piece.valid):
            return seq([*ahead, loop(w.kernel[1], lambda kx: taps(kx, whole), "kx")])
        steps = [taps(const(kx), v) for kx, v in enumerate(piece.valid) if v[1] > v[0]]
        return seq([*ahead, *steps]) if steps else tirx.Evaluate(const(0))

    def _of_vectors(
        self, acc: Accumulators, place: _Place, row: tuple[Expr, int], channel: Expr, ky: Expr, reads: Row
    ) -> Stmt:
        """A channel of a kernel row, on an image that is not blocked, for a row of the tile."""
        w, lanes, blocks = self.spec.window, self.spec.lanes, self.schedule.out_blocks
        y = row[0] + const(row[1] * w.stride[0]) + ky * const(w.dilation[0])
        x = place.x * const(w.stride[1]) - const(w.pad[1])

        def pixels(start: Expr) -> Expr:
            return vector_load(self.data, [place.n, channel, y, x + start], lanes)

        def weights(tap: Expr, j: Expr) -> Expr:
            chunk = const(self.spec.chunk)
            number, member = tirx.indexdiv(channel, chunk), tirx.indexmod(channel, chunk)
            return vector_load(self.weight, [place.b * const(blocks) + j, number, ky, tap, member, 0], lanes)

        return reads.multiplied(acc, blocks, row[1] * place.piece.width * blocks, pixels, weights)

    def _by_element(
        self,
        acc: Accumulators,
        place: _Place,
        row: tuple[Expr, int],
        channel: Expr,
        tap: tuple[Expr, Expr],
        valid: tuple[int, int],
    ) -> Stmt:
        """A tap for a whole block of input channels and a row of the tile: a vector a column, multiplied by element."""
        top, number = row
        lanes, (begin, end), blocks = self.spec.lanes, valid, self.schedule.out_blocks
        ky, kx = tap
        first_row = top + const(number * self.spec.window.stride[0])
        inputs = Accumulators(end - begin, lanes, self.operands.data)
        weights = Accumulators(blocks, lanes, self.operands.weight)

        corner = self._input(place, first_row, channel, ky, kx, const(begin))
        start, from_here = flat_place(corner), tirx.Var("place", INDEX)
        if self.spec.window.kernel != (1, 1):
            # The columns of a tap lie at fixed distances from its first one. Were its place known, or known early, LLVM
            # would keep columns that taps share or read early in registers, and spill the accumulators for them.
            last = (const(end - 1 + number * place.piece.width)) * const(blocks) + const(blocks - 1)
            start = dot.after(acc.get(last), start)
        pitch = lanes * (1 if self.schedule.flat else self.spec.window.stride[1])

        def load(i: Expr) -> Stmt:
            at = at_flat_place(corner.source, from_here + i * const(pitch))
            return inputs.set(i, vector_load(corner.source, at, lanes))

        def lane(at: int) -> list[Stmt]:
            def weight(j: int) -> Stmt:
                member = channel + const(at)
                chunk = const(self.spec.chunk)
                place_of = [place.b * const(blocks), tirx.indexdiv(member, chunk), ky, kx]
                of_first = flat_place(self.weight[*place_of, tirx.indexmod(member, chunk), const(0)])
                at_place = at_flat_place(self.weight, of_first + place.starts[j])
                return weights.set(j, vector_load(self.weight, at_place, lanes))

            def column(i: Expr) -> Stmt:
                value = broadcast(shuffled([inputs.get(i)], [at]), lanes)

                def block(j: Expr) -> Stmt:
                    k = (i + const(begin + number * place.piece.width)) * const(blocks) + j
                    return acc.set(k, acc.get(k) + value * weights.get(j))

                return unrolled(blocks, block)

            return [*(weight(j) for j in range(blocks)), unrolled(end - begin, column)]

        steps = [statement for at in range(lanes) for statement in lane(at)]
        loads = [tirx.Bind(from_here, start), unrolled(end - begin, load)]
        return weights.allocate([inputs.allocate([*loads, *steps])])

    @property
    def _narrow(self) -> bool:
        """Whether the taps of a block of channels are a few steps of 8-bit integers."""
        return self.operands.step > 2 and self.spec.window.kernel != (1, 1)

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

        def column(i: Expr, value: Expr | None = None) -> Stmt:
            if value is None:
                value = broadcast(self._input(place, row[0], channel, ky, kx, i), lanes)

            def block(j: Expr) -> Stmt:
                k = (i + const(row[1] * place.piece.width)) * const(blocks) + j
                number, member = tirx.indexdiv(channel, chunk), tirx.indexmod(channel, chunk)
                at = [place.b * const(blocks) + j, number, ky, kx, member, 0]
                weight = dot.weights(self.operands, self.weight, at, lanes)
                return acc.set(k, dot.multiply_add(self.operands, acc.get(k), value, weight, lanes))

            return unrolled(blocks, block)

        first, end = valid
        if not reads_vectors(self.spec):
            return unrolled(end - first, column, first)
        together = [
            column(const(start + i), broadcast(word, lanes))
            for start in range(first, end - lanes + 1, lanes)
            for i, word in enumerate(self._words(self._input(place, row[0], channel, ky, kx, const(start))))
        ]
        rest = (end - first) % lanes
        if rest and end - first > lanes:  # the last columns, from a vector that ends with them
            start = end - lanes
            words = self._words(self._input(place, row[0], channel, ky, kx, const(start)))
            together += [
                column(const(start + i), broadcast(words[i], lanes)) for i in range(lanes - rest, lanes)
            ]
        elif rest:
            together.append(unrolled(rest, column, end - rest))
        return seq(together)

    def _words(self, first: Expr) -> list[Expr]:
        """The words of as many columns as a vector holds, `first` being that of the first one; read at once."""
        load, lanes = first.args[0], self.spec.lanes
        place = [*load.indices[:-1], load.indices[-1].base]
        vector = load.source.vload(place, f"{self.operands.data}x{self.step * lanes}")
        words = tirx.reinterpret(f"{dot.WORD}x{lanes}", vector)
        return [tirx.Shuffle([words], [tirx.IntImm("int32", i)]) for i in range(lanes)]

    def _squares(self, acc: Accumulators, place: _Place, row: tuple[Expr, int], channel: Expr) -> Stmt:
        """Two steps of a 1×1 kernel for a row of the tile: pairs of columns, then the last of an odd number."""
        top, number = row
        width, blocks = place.piece.width, self.schedule.out_blocks
        here = const(0)

        def read(step: int, column: int, count: int) -> Expr:
            load = self._input(
                place, top + const(number), channel + const(step), here, here, const(column)
            ).args[0]
            return squares.words(load.source, [*load.indices[:-1], load.indices[-1].base], count)

        def weights(block: int) -> tuple[Expr, Expr]:
            pair = tirx.indexdiv(channel, const(2))
            at = [place.b * const(blocks) + const(block), pair, here, here, here, here, here]
            return squares.halves(self.weight, at)

        def registers(column: int) -> list[int]:
            return [(column + number * width) * blocks + block for block in range(blocks)]

        steps: list[Stmt] = []
        for column in range(0, width - 1, 2):
            # four columns are one load, of which each pair takes its half
            begin = column // 4 * 4
            count = 4 if begin + 4 <= width else 2
            at = column - begin
            both = [read(step, begin, count) for step in (0, 1)]
            pair = shuffled(both, [at, count + at, at + 1, count + at + 1])
            places = list(zip(registers(column), registers(column + 1), strict=True))
            steps.append(squares.multiply_pair(acc, places, pair, weights))
        if width % 2:
            last = [
                self._input(place, top + const(number), channel + const(s), here, here, const(width - 1))
                for s in (0, 1)
            ]
            steps.append(squares.multiply_single(acc, registers(width - 1), last, weights))
        return seq(steps)

    def _settled(self, acc: Accumulators, place: _Place) -> list[Stmt]:
        """The sums of each column in registers of its own, where pairs of columns share them."""
        if not self.operands.squares:
            return []
        width, blocks = place.piece.width, self.schedule.out_blocks
        firsts = [
            (column + row * width) * blocks + block
            for row in range(place.rows)
            for column in range(0, width - 1, 2)
            for block in range(blocks)
        ]
        return squares.settle(acc, [(first, first + blocks) for first in firsts])

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

    def _finish(self, acc: Accumulators, place: _Place, epilogue: Epilogue | None = None) -> list[Stmt]:
        """Pass the accumulators to the epilogue."""
        blocks, passed = self.schedule.out_blocks, epilogue or self.epilogue

        def store(i: Expr, j: Expr, row: int) -> Stmt:
            y, x = place.y + const(row), place.x + i
            if self.schedule.flat:
                y, x = const(0), place.y * const(self.geometry.width) + x
            k = (i + const(row * place.piece.width)) * const(blocks) + j
            return _store(passed, acc, k, [place.n, place.b * const(blocks) + j, y, x])

        def all_columns(row: int) -> Stmt:
            if (
                buffer_dtype(passed.output) == "int8"
            ):  # neighbouring bytes one after the other: `narrow_stores`
                return unrolled(blocks, lambda j: unrolled(place.piece.width, lambda i: store(i, j, row)))
            return unrolled(place.piece.width, lambda i: unrolled(blocks, lambda j: store(i, j, row)))

        return [*self._settled(acc, place), *(all_columns(row) for row in range(place.rows))]


def _store(epilogue: Epilogue, acc: Accumulators, k: Expr, at: list[Expr]) -> Stmt:
    return vectorised(acc.lanes, lambda lane: epilogue.store([*at, lane], acc.element(k, lane)))


def _stages(count: int) -> list[tuple[str, int, int]]:
    """Chunks as (kind, first, how many): the first one starts the sums, the last one passes them to the epilogue."""
    if count == 2:
        return [("first", 0, 1), ("last", 1, 1)]
    return [("first", 0, 1), ("middle", 1, count - 2), ("last", count - 1, 1)]
