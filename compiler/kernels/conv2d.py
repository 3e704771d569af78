"""Direct convolution on blocked tensors, dense and grouped.

One task computes `out_blocks` × `lanes` output channels of a row (or of part of a flattened image): tiles of `width`
output columns, an accumulator register for each column and channel block, the reduction loops around the unrolled
tile. Padding costs nothing in the interior: rows that fall outside are left out of the reduction loop, and the tiles
that touch the left or right border are separate code without the taps that fall outside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx import Buffer, PrimFunc, Stmt

from edgec.compiler.kernels import bf16
from edgec.compiler.kernels.compute import ConvSpec
from edgec.compiler.kernels.emit import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    prefetch,
    seq,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.compiler.kernels.tail import Tail
from edgec.targets.target import Target

VERSION = 2
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
class _Place:
    """Where a tile is: image, group of channel blocks, row, first column."""

    n: Expr
    b: Expr
    y: Expr
    x: Expr
    piece: _Piece


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
        out_blocks: channel blocks of the register tile.
        rows: pieces into which the output is cut for tasks (image rows, unless the image is flattened).
        flat: height and width are one axis (1×1 kernels without stride only).
        ic_chunk: input channels reduced before the tile moves on; 0 for all at once.
        rows_outer: tasks run over rows first, so that threads share weights rather than input.
        ahead: each step asks for the input that the next tile will read.
    """

    width: int
    out_blocks: int
    rows: int
    flat: bool = False
    ic_chunk: int = 0
    rows_outer: bool = False
    ahead: bool = False

    def __str__(self) -> str:
        parts = [f"direct {self.width}x{self.out_blocks}", f"rows{self.rows}"]
        parts += ["flat"] if self.flat else []
        parts += [f"ic{self.ic_chunk}"] if self.ic_chunk else []
        parts += ["rows-outer"] if self.rows_outer else []
        parts += ["ahead"] if self.ahead else []
        return " ".join(parts)


def tiles(total: int, width: int) -> list[tuple[int, int]]:
    """Cut `total` columns into the fewest pieces of at most `width`, as equal as can be: (start, width) each."""
    count = -(-total // width)
    small, larger = divmod(total, count)
    pieces, start = [], 0
    for i in range(count):
        size = small + (1 if i < larger else 0)
        pieces.append((start, size))
        start += size
    return pieces


@dataclass(frozen=True)
class _Geometry:
    """The convolution as the loops see it: possibly flattened."""

    spec: ConvSpec
    height: int
    width: int
    in_height: int
    in_width: int

    @staticmethod
    def of(spec: ConvSpec, schedule: Schedule) -> _Geometry:
        """The loop bounds for a schedule."""
        out, size = spec.window.out, spec.in_size
        if not schedule.flat:
            return _Geometry(spec, out[0], out[1], size[0], size[1])
        total = out[0] * out[1]
        return _Geometry(spec, schedule.rows, total // schedule.rows, 1, total)


def emit(spec: ConvSpec, tail: Tail, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Direct(spec, tail, schedule, threads).build()


class _Direct:
    def __init__(self, spec: ConvSpec, tail: Tail, schedule: Schedule, threads: int) -> None:
        self.spec, self.tail, self.schedule, self.threads = spec, tail, schedule, threads
        self.data, self.weight = tail.inputs
        self.geometry = _Geometry.of(spec, schedule)
        self.blocks = -(-spec.out_channels // spec.lanes)
        self.half = spec.operands != bf16.PLAIN
        self.step = 2 if self.half else 1  # channels that one step of the reduction takes
        self.per_group = spec.in_channels // spec.groups // self.step

    def build(self) -> PrimFunc:
        count = self.blocks // self.schedule.out_blocks
        batch = self.spec.batch
        if self.schedule.ic_chunk:
            body = parallel([batch, count], self._chunked, self.threads)
        elif self.schedule.rows_outer:
            body = parallel(
                [batch, self.geometry.height, count], lambda n, y, b: self._row(n, b, y), self.threads
            )
        else:
            body = parallel([batch, count, self.geometry.height], self._row, self.threads)
        return self.tail.build(body)

    def _row(self, n: Expr, b: Expr, y: Expr) -> Stmt:
        return seq([self._tile_loop(n, b, y, piece) for piece in self._pieces()])

    def _chunked(self, n: Expr, b: Expr) -> Stmt:
        """All rows of some channel blocks, a part of the input channels at a time; partial sums rest in memory."""
        count = -(-self.per_group // self._chunk_steps)
        size = self.geometry.height * self.geometry.width * self.schedule.out_blocks * self.spec.lanes
        partial = tirx.decl_buffer((size,), self.spec.dtype, "partial", scope="global", data_alignment=64)
        stages: list[Stmt] = [tirx.AllocBuffer(partial)]
        for kind, start, repeats in _stages(count):

            def chunk(c: Expr, kind: str = kind) -> Stmt:
                return loop(
                    self.geometry.height, lambda y: self._chunk_row(n, b, y, _Chunk(c, kind, partial)), "y"
                )

            stages.append(loop(repeats, chunk, "chunk", start=start))
        return tirx.SeqStmt(stages)

    @property
    def _chunk_steps(self) -> int:
        return self.schedule.ic_chunk // self.step

    def _chunk_row(self, n: Expr, b: Expr, y: Expr, chunk: _Chunk) -> Stmt:
        return seq([self._tile_loop(n, b, y, piece, chunk) for piece in self._pieces()])

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
        w = self.spec.window
        inside = [
            i
            for i in range(width)
            if 0 <= (start + i) * w.stride[1] + kx * w.dilation[1] - w.pad[1] < self.geometry.in_width
        ]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)

    def _tile_loop(self, n: Expr, b: Expr, y: Expr, piece: _Piece, chunk: _Chunk | None = None) -> Stmt:
        def tile(t: Expr) -> Stmt:
            return self._tile(_Place(n, b, y, const(piece.start) + t * const(piece.width), piece), chunk)

        return loop(piece.count, tile, "tile")

    def _tile(self, place: _Place, chunk: _Chunk | None) -> Stmt:
        """Clear or fetch the accumulators, reduce, hand them to the tail or put them back."""
        blocks, lanes = self.schedule.out_blocks, self.spec.lanes
        acc = Accumulators(place.piece.width * blocks, lanes, self.spec.dtype)
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
        low, count = self._row_bounds(top)

        def rows(block: Expr, lanes: int) -> Stmt:
            return loop(count, lambda ky: self._columns(acc, place, top, (block, lanes), ky), "ky", start=low)

        # Whole blocks and the rest apart: block and lane of a channel then need no division at run time.
        block = self.spec.in_block // self.step or channels
        whole, rest = divmod(channels, block)
        parts: list[Stmt] = []
        if whole:
            parts.append(loop(whole, lambda at: rows(first + at * const(block), block), "icb"))
        if rest:
            parts.append(rows(first + const(whole * block), rest))
        return seq(parts)

    def _row_bounds(self, top: Expr) -> tuple[Expr | int, Expr | int]:
        """First kernel row inside the image, and how many."""
        w, height = self.spec.window, self.geometry.in_height
        if self.schedule.flat:
            return 0, 1
        highest = (w.out[0] - 1) * w.stride[0] - w.pad[0] + (w.kernel[0] - 1) * w.dilation[0]
        if w.pad[0] <= 0 and highest < height:
            return 0, w.kernel[0]
        dilation, rows = const(w.dilation[0]), const(w.kernel[0])
        low: Expr = const(0)
        if w.pad[0] > 0:
            low = tirx.min(tirx.max(tirx.indexdiv(const(w.dilation[0] - 1) - top, dilation), const(0)), rows)
        end = tirx.min(rows, tirx.indexdiv(const(height - 1 + w.dilation[0]) - top, dilation))
        return low, tirx.max(end - low, const(0))

    def _columns(
        self, acc: Accumulators, place: _Place, top: Expr, channels: tuple[Expr, int], ky: Expr
    ) -> Stmt:
        """All taps of one kernel row for a block of input channels (first one, how many).

        The channels are the innermost loop: were it the taps, LLVM would keep the inputs that neighbouring
        taps share in registers, and spill the accumulators for them.
        """
        w, piece = self.spec.window, place.piece
        whole = (0, piece.width)
        first, count = channels

        def taps(kx: Expr, valid: tuple[int, int]) -> Stmt:
            return loop(
                count, lambda lane: seq(self._tap(acc, place, top, first + lane, ky, kx, valid)), "ic"
            )

        ahead = self._ahead(place, top, first, ky)
        if w.kernel[1] > UNROLL_TAPS and all(v == whole for v in piece.valid):
            return seq([*ahead, loop(w.kernel[1], lambda kx: taps(kx, whole), "kx")])
        steps = [taps(const(kx), v) for kx, v in enumerate(piece.valid) if v[1] > v[0]]
        return seq([*ahead, *steps]) if steps else tirx.Evaluate(const(0))

    def _ahead(self, place: _Place, top: Expr, channel: Expr, ky: Expr) -> list[Stmt]:
        """Ask for the cache lines of this block of channels and kernel row that the next tile will read.

        A tile reads short pieces far apart, which the processor's own prefetchers do not see coming.
        """
        pixel = self.spec.lanes * self.spec.window.stride[1] * 4
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
        top: Expr,
        channel: Expr,
        ky: Expr,
        kx: Expr,
        valid: tuple[int, int],
    ) -> list[Stmt]:
        """One multiply-add for each accumulator that the tap reaches."""
        blocks, lanes = self.schedule.out_blocks, self.spec.lanes

        def column(i: Expr) -> Stmt:
            value = broadcast(self._input(place, top, channel, ky, kx, i), lanes)

            def block(j: Expr) -> Stmt:
                k = i * const(blocks) + j
                row = [place.b * const(blocks) + j, channel, ky, kx, 0]
                if self.half:
                    weight = bf16.pairs(self.weight, [*row, 0], lanes)
                    return acc.set(k, bf16.dot(self.spec.operands, acc.get(k), value, weight, lanes))
                return acc.set(k, acc.get(k) + value * vector_load(self.weight, row, lanes))

            return unrolled(blocks, block)

        first, end = valid
        return [unrolled(end - first, column, first)] if end > first else []

    def _input(self, place: _Place, top: Expr, channel: Expr, ky: Expr, kx: Expr, column: Expr) -> Expr:
        """The input element under a tap of output column `column` of the tile."""
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
        if self.half:
            return bf16.pair(self.data, [place.n, number, iy, ix, lane * const(2)])
        return self.data[place.n, number, iy, ix, lane]

    def _finish(self, acc: Accumulators, place: _Place) -> list[Stmt]:
        """Hand the accumulators to the tail."""
        blocks = self.schedule.out_blocks

        def column(i: Expr) -> Stmt:
            y, x = place.y, place.x + i
            if self.schedule.flat:
                y, x = const(0), place.y * const(self.geometry.width) + x

            def block(j: Expr) -> Stmt:
                at = [place.n, place.b * const(blocks) + j, y, x]
                return _store(self.tail, acc, i * const(blocks) + j, at)

            return unrolled(blocks, block)

        return [unrolled(place.piece.width, column)]


def _store(tail: Tail, acc: Accumulators, k: Expr, at: list[Expr]) -> Stmt:
    return vectorised(acc.lanes, lambda lane: tail.store([*at, lane], acc.element(k, lane)))


def _stages(count: int) -> list[tuple[str, int, int]]:
    """Chunks as (kind, first, how many): the first one starts the sums, the last one hands them to the tail."""
    if count == 2:
        return [("first", 0, 1), ("last", 1, 1)]
    return [("first", 0, 1), ("middle", 1, count - 2), ("last", count - 1, 1)]


def _divisors(value: int, at_most: int) -> list[int]:
    return [d for d in range(1, at_most + 1) if value % d == 0]


def candidates(spec: ConvSpec, target: Target, threads: int, *, flattens: bool) -> list[Schedule]:
    """The schedules worth timing, best guess first.

    Args:
        spec: the convolution.
        target: its registers and caches bound the tiles.
        threads: that will run it.
        flattens: whether the tail lets height and width be seen as one axis.
    """
    group_blocks = -(-spec.out_channels // spec.lanes) // spec.groups
    found: list[Schedule] = []
    for flat, rows, length in _shapes(spec, flattens):
        for out_blocks in _divisors(group_blocks, 8):
            # Besides the accumulators, the weights of a step and a broadcast input stay in registers.
            budget = (target.vector_registers - 1 - out_blocks) // out_blocks
            if budget < 1:
                continue
            widths = {
                max(size for _, size in tiles(length, w))
                for w in (budget, budget - 1, budget - 2, 8, 6, 4)
                if 0 < w <= budget
            }
            for width in sorted(widths):
                base = Schedule(width, out_blocks, rows, flat, ahead=_asks_ahead(spec, target, out_blocks))
                found.append(base)
                found += _variants(spec, base, target)
    ranked = sorted(set(found), key=lambda s: (cost(spec, s, target, threads), str(s)))
    # Siblings that cut the same tile's loop in other pieces are as fast, nearly: the best of each tile comes first.
    tiles_seen: set[tuple[int, int, int]] = set()
    first: list[Schedule] = []
    others: list[Schedule] = []
    for s in ranked:
        tile = (s.width, s.out_blocks, s.ic_chunk)
        (others if tile in tiles_seen else first).append(s)
        tiles_seen.add(tile)
    return first + others


def _asks_ahead(spec: ConvSpec, target: Target, out_blocks: int) -> bool:
    """Whether tiles ask for the next one's input: measured to gain up to 8 % with 16 registers, and to cost up to 10 %
    with 32 (wider tiles give the processor time enough) or with one block of channels (loads are what bounds those).
    """
    plain = spec.operands == bf16.PLAIN and spec.in_block == spec.lanes
    return plain and target.vector_registers <= 16 and out_blocks > 1


def _variants(spec: ConvSpec, base: Schedule, target: Target) -> list[Schedule]:
    """The same tile with another order of the loops around it."""
    made = []
    per_group = spec.in_channels // spec.groups
    taps = spec.window.kernel[0] * spec.window.kernel[1]
    if not base.flat and base.rows > 1:
        made.append(replace(base, rows_outer=True))
    weights = per_group * taps * base.out_blocks * spec.lanes * 4
    if weights > target.l1d_bytes and per_group > spec.lanes:
        # A chunk of the weights that stays in the first cache, or half of the second one, while all rows pass.
        for cache in (target.l1d_bytes // 2, target.l2_bytes // 2):
            channels = cache // (taps * base.out_blocks * spec.lanes * 4) // spec.lanes * spec.lanes
            if spec.lanes <= channels < per_group:
                made.append(replace(base, ic_chunk=channels))
    return made


def _shapes(spec: ConvSpec, flattens: bool) -> list[tuple[bool, int, int]]:
    """Ways to see the output: (flattened, pieces, length of a piece)."""
    w = spec.window
    shapes = [(False, w.out[0], w.out[1])]
    plain = w.kernel == (1, 1) and w.stride == (1, 1) and w.pad == (0, 0) and spec.in_block > 0
    if plain and flattens and w.out == spec.in_size:
        total = w.out[0] * w.out[1]
        shapes += [
            (True, rows, total // rows)
            for rows in (1, 2, 4, 7, 8, 14, 16, 28)
            if rows < w.out[0] and total % rows == 0
        ]
    return shapes


# Bytes a cycle that one core gets from its second cache and from the last one; measured on Cascade Lake.
_L2_BYTES, _L3_BYTES = 40.0, 10.0


def _far(moved: float, held: float, target: Target) -> float:
    """Cycles to fetch `moved` bytes of a working set of `held` bytes into the first cache."""
    if held <= 0.7 * target.l1d_bytes:
        return 0.0
    return moved / (_L2_BYTES if held <= 0.7 * target.l2_bytes else _L3_BYTES)


def cost(spec: ConvSpec, schedule: Schedule, target: Target, threads: int) -> float:
    """Estimated cycles of a call: multiply-adds or loads of the tiles, bytes from far caches, unbalanced tasks."""
    geometry = _Geometry.of(spec, schedule)
    blocks, vector, w = schedule.out_blocks, spec.lanes * 4, spec.window
    per_group = spec.in_channels // spec.groups
    taps = w.kernel[0] * w.kernel[1]
    groups = -(-spec.out_channels // spec.lanes) // blocks
    steps = per_group * taps
    channels = schedule.ic_chunk or per_group
    # What passes between two uses of the same weights, and of the same input.
    weights = channels * taps * blocks * vector * (groups if schedule.rows_outer else 1)
    row_bytes = per_group * w.kernel[0] * geometry.in_width * 4
    image_bytes = per_group * geometry.in_height * geometry.in_width * 4
    inputs = row_bytes if schedule.rows_outer else image_bytes
    row = 0.0
    for _, width in tiles(geometry.width, schedule.width):
        # Two multiply-adds a cycle need eight independent chains; two loads a cycle feed them, but not always.
        busy = max(width * blocks / 2, 0.6 * (width + blocks), 4.0) + 0.3
        far = _far(blocks * vector, weights, target)
        row += steps * (max(busy, far) + 0.3 * min(busy, far))
        row += _far(per_group * w.kernel[0] * (width * w.stride[1]) * 4, inputs, target)
        row += 30 + width * blocks * 6
        if schedule.ic_chunk:
            row += width * blocks * 3 * (-(-per_group // schedule.ic_chunk))
    tasks = spec.batch * groups * (1 if schedule.ic_chunk else geometry.height)
    per_task = row * (geometry.height if schedule.ic_chunk else 1)
    return per_task * -(-tasks // threads)
