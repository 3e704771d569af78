"""The loops of convolutions of free sizes (see `free_convolution`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from tvm import tirx
from tvm.tirx import AllocBuffer, Bind, BufferStore, ForKind, IfThenElse, PrimFunc, Stmt, Var

from edgec.compiler.backends.cpu.templates.epilogue import Epilogue, split_epilogue
from edgec.compiler.backends.cpu.templates.free_convolution import FreeConvSpec
from edgec.compiler.backends.cpu.templates.loop_nests import (
    INDEX,
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    seq,
    unrolled,
    vector_load,
    vectorised,
)
from edgec.targets.target import Target

UNROLLED_TAPS = 16  # of a larger kernel the rows are a loop
COPIED = 1 << 16  # elements of the copy that a task makes before its tiles
BLOCK = 8  # tiles of pixels that read the same weights one after the other


def emit_free(func: PrimFunc, spec: FreeConvSpec, target: Target, threads: int) -> PrimFunc | None:
    """The kernel of a fused function; None where what follows the convolution is more than a map in place."""
    epilogue = split_epilogue(func)
    if epilogue is None or len(epilogue.inputs) < 2:
        return None
    return _Kernel(spec, epilogue, target, threads).build()


class _Kernel:
    def __init__(self, spec: FreeConvSpec, epilogue: Epilogue, target: Target, threads: int) -> None:
        self.spec, self.epilogue, self.threads = spec, epilogue, threads
        self.data, self.weight = epilogue.inputs[:2]
        self.lanes = target.fp32_lanes
        wide = target.vector_registers >= 32
        self.vectors = (3 if wide else 2) if spec.tile > 1 else 4
        self.pixels = self.vectors * self.lanes
        sizes, outs = list(self.data.ty.shape), list(epilogue.output.ty.shape)
        self.batch = sizes[0]
        self.size = sizes[2:] if spec.axes == 2 else [const(1), sizes[2]]
        self.out = outs[2:] if spec.axes == 2 else [const(1), outs[2]]
        offsets = [[tap * spec.dilations[a] for tap in range(spec.kernel[a])] for a in range(2)]
        self.planes = sorted(
            set(product(*({at % spec.strides[a] for at in offsets[a]} for a in range(2))))
        )  # remainders of row and column that are read
        self.reach = [max(at // spec.strides[a] for at in offsets[a]) for a in range(2)]
        self.pitch = self.out[1] + const(self.reach[1])
        self.total = self.out[0] * self.pitch  # positions, those between the rows included
        self.rows = self.out[0] + const(self.reach[0])
        slack = self.pixels + self.reach[1]
        lines = tirx.indexdiv(self.rows * self.pitch + const(slack + 15), const(16))
        # An odd number of cache lines: planes of a power of two would share a few places of the cache.
        self.plane = (tirx.indexdiv(lines, const(2)) * const(2) + const(1)) * const(16)
        self.copy = tirx.decl_buffer((const(spec.depth * len(self.planes)) * self.plane,), "float32", "copy")

    def build(self) -> PrimFunc:
        spec = self.spec
        if spec.reads_in_place:
            self.total = self.pitch = self.out[0] * self.out[1]
            return self.epilogue.build(self._in_place())
        if spec.groups > 1:
            return self.epilogue.build(
                self._spread(self.batch * const(spec.groups), self._of_group, self.threads)
            )
        return self.epilogue.build(loop(self.batch, self._of_image, "n"))

    def _spread(self, total: Expr, body: Callable[[Expr], Stmt], threads: int) -> Stmt:
        return loop(total, body, "task", ForKind.PARALLEL if threads > 1 else ForKind.SERIAL)

    # The three ways of dividing the work.

    def _of_group(self, task: Expr) -> Stmt:
        """A group of an image: its channels are copied by the task that reads them."""
        spec = self.spec
        n, g = tirx.indexdiv(task, const(spec.groups)), tirx.indexmod(task, const(spec.groups))
        fill = loop(spec.depth, lambda c: self._fill(n, g * const(spec.depth) + c, c), "c")
        tiles = loop(
            spec.tiles,
            lambda f: loop(self._tiles_of(self.total), lambda q: self._tile(n, g, f, q, self._shifted), "q"),
            "f",
        )
        return seq([AllocBuffer(self.copy), fill, tiles])

    def _of_image(self, n: Expr) -> Stmt:
        """An image without groups: all threads copy, then share blocks of pixels, and filters where those are few."""
        spec = self.spec
        fill = self._spread(const(spec.depth), lambda c: self._fill(n, c, c), self.threads)
        tiles = self._tiles_of(self.total)
        blocks = tirx.indexdiv(tiles + const(BLOCK - 1), const(BLOCK))

        def work(block: Expr, first: Expr, end: Expr) -> Stmt:
            start = block * const(BLOCK)
            count = tirx.min(const(BLOCK), tiles - start)
            return loop(
                end - first,
                lambda f: loop(
                    count, lambda q: self._tile(n, const(0), first + f, start + q, self._shifted), "q"
                ),
                "f",
            )

        return seq([AllocBuffer(self.copy), fill, self._shared(blocks, work)])

    def _in_place(self) -> Stmt:
        spec = self.spec
        tiles = self._tiles_of(self.total)
        most = max(1, min(BLOCK, COPIED // (spec.channels * self.pixels)))
        blocks = tirx.indexdiv(tiles + const(most - 1), const(most))
        panel = tirx.decl_buffer((most * spec.channels * self.pixels,), "float32", "panel")
        self.copy = panel

        def work(n: Expr, block: Expr, first: Expr, end: Expr) -> Stmt:
            start = block * const(most)
            count = tirx.min(const(most), tiles - start)
            fill = loop(count, lambda q: self._gather(n, (start + q) * const(self.pixels), q), "q")

            def tile(f: Expr, q: Expr) -> Stmt:
                def vector(c: Expr, _tap: int, _row: Expr, _q: Expr, v: Expr) -> Expr:
                    at = (q * const(spec.channels) + c) * const(self.pixels) + v * const(self.lanes)
                    return vector_load(panel, [at], self.lanes)

                return self._tile(n, const(0), first + f, start + q, vector)

            tiled = loop(end - first, lambda f: loop(count, lambda q: tile(f, q), "q"), "f")
            return seq([AllocBuffer(panel), fill, tiled])

        # A loop over images of its own: TVM fails at a division by a number of blocks that it does not know.
        return loop(self.batch, lambda n: self._shared(blocks, lambda *at: work(n, *at)), "n")

    def _shared(self, blocks: Expr, work: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        """Tasks of blocks of pixels, each with a part of the filters: small images have few blocks."""
        tiles, threads = self.spec.tiles, self.threads
        if threads == 1 or tiles == 1:
            return self._spread(blocks, lambda b: work(b, const(0), const(tiles)), threads)
        parts = const(min(tiles, threads))

        def task(number: Expr) -> Stmt:
            block, part = tirx.indexdiv(number, parts), tirx.indexmod(number, parts)
            first = tirx.indexdiv(part * const(tiles), parts)
            end = tirx.indexdiv((part + const(1)) * const(tiles), parts)
            return work(block, first, end)

        return self._spread(blocks * parts, task, threads)

    def _tiles_of(self, total: Expr) -> Expr:
        return tirx.indexdiv(total + const(self.pixels - 1), const(self.pixels))

    # Copies of the input.

    def _read(self, n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        return self.data[(n, c, y, x) if self.spec.axes == 2 else (n, c, x)]

    def _gather(self, n: Expr, first: Expr, slot: Expr) -> Stmt:
        """The channels of a tile of pixels, one after the other."""
        spec, pixels = self.spec, self.pixels
        zero = const(0)

        def row(c: Expr) -> Stmt:
            to = (slot * const(spec.channels) + c) * const(pixels)
            place = [n, c, zero, first] if spec.axes == 2 else [n, c, first]

            def move(v: Expr) -> Stmt:
                at = v * const(self.lanes)
                return self.copy.vstore(
                    [to + at], vector_load(self.data, [*place[:-1], first + at], self.lanes)
                )

            rest = self.total - first
            tail = loop(
                pixels,
                lambda i: BufferStore(
                    self.copy,
                    tirx.if_then_else(i < rest, self._read(n, c, zero, first + i), tirx.const(0, "float32")),
                    [to + i],
                ),
            )
            return IfThenElse(first + const(pixels) <= self.total, unrolled(self.vectors, move), tail)

        return loop(spec.channels, row, "c")

    def _fill(self, n: Expr, channel: Expr, slot: Expr) -> Stmt:
        """The padded planes of a channel."""
        return seq([self._fill_plane(n, channel, slot, at) for at in range(len(self.planes))])

    def _fill_plane(self, n: Expr, channel: Expr, slot: Expr, number: int) -> Stmt:
        spec, (py, px) = self.spec, self.planes[number]
        start = (slot * const(len(self.planes)) + const(number)) * self.plane
        (sy, sx), (top, left) = spec.strides, spec.pads
        zero = tirx.const(0, "float32")
        low = max(0, -(-(left - px) // sx))
        high = tirx.indexdiv(self.size[1] + const(left - px + sx - 1 + sx * low), const(sx)) - const(low)
        head = tirx.min(const(low), self.pitch)
        end = tirx.max(head, tirx.min(high, self.pitch))

        def row(y: Expr) -> Stmt:
            to = start + y * self.pitch
            iy = y * const(sy) + const(py - top)

            def empty(count: Expr, first: Expr) -> Stmt:
                return loop(count, lambda x: BufferStore(self.copy, zero, [to + first + x]), "x")

            def read(x: Expr) -> Stmt:
                ix = (x + head) * const(sx) + const(px - left)
                return BufferStore(self.copy, self._read(n, channel, iy, ix), [to + head + x])

            whole = seq([empty(head, const(0)), loop(end - head, read, "x"), empty(self.pitch - end, end)])
            inside = tirx.all(iy >= const(0), iy < self.size[0])
            return IfThenElse(inside, whole, empty(self.pitch, const(0)))

        return loop(self.rows, row, "y")

    # Tiles of filters and pixels.

    def _shifted(self, c: Expr, tap: int, row: Expr, q: Expr, v: Expr) -> Expr:
        """The inputs of a tap (its column, and its row as a constant or a variable) for a vector of positions."""
        spec = self.spec
        x = tap * spec.dilations[1]
        if isinstance(row, tirx.IntImm):
            y = int(row) * spec.dilations[0]
            plane = const(self.planes.index((y % spec.strides[0], x % spec.strides[1])))
            down: Expr = const(y // spec.strides[0])
        else:
            y = row * const(spec.dilations[0])
            columns = sorted({px for _, px in self.planes})
            remainders = sorted({py for py, _ in self.planes})
            remainder = tirx.indexmod(y, const(spec.strides[0]))
            number: Expr = const(0)
            for at, value in enumerate(remainders):
                number = tirx.Select(remainder == const(value), const(at), number)
            plane = number * const(len(columns)) + const(columns.index(x % spec.strides[1]))
            down = tirx.indexdiv(y, const(spec.strides[0]))
        start = (c * const(len(self.planes)) + plane) * self.plane
        shift = down * self.pitch + const(x // spec.strides[1])
        return vector_load(self.copy, [start + shift + q + v * const(self.lanes)], self.lanes)

    def _tile(self, n: Expr, g: Expr, f: Expr, number: Expr, vector: Callable[..., Expr]) -> Stmt:
        spec, vectors = self.spec, self.vectors
        acc = Accumulators(spec.tile * vectors, self.lanes)
        q = number * const(self.pixels)

        def tap(c: Expr, row: Expr, column: int) -> list[Stmt]:
            place = row * const(spec.kernel[1]) + const(column)
            kind = f"float32x{self.lanes}"
            inputs = [Var(f"x{v}", kind) for v in range(vectors)]
            steps: list[Stmt] = [Bind(x, vector(c, column, row, q, const(v))) for v, x in enumerate(inputs)]
            for j in range(spec.tile):
                factor = broadcast(self.weight[g, f, c, place, const(j)], self.lanes)

                for v, x in enumerate(inputs):
                    at = const(j * vectors + v)
                    steps.append(acc.set(at, acc.get(at) + x * factor))
            return steps

        def taps(c: Expr) -> Stmt:
            rows, columns = spec.kernel
            if rows * columns <= UNROLLED_TAPS:
                return seq([s for y in range(rows) for x in range(columns) for s in tap(c, const(y), x)])
            return loop(rows, lambda y: seq([s for x in range(columns) for s in tap(c, y, x)]), "ky")

        sums = loop(spec.depth, taps, "k")
        body = [*acc.fill(0.0), sums, self._store(acc, n, g, f, q)]
        return acc.allocate(body)

    def _store(self, acc: Accumulators, n: Expr, g: Expr, f: Expr, q: Expr) -> Stmt:
        """Write a tile: vectors where they lie within a row, else what of each row it holds."""
        spec = self.spec
        # Read at places known at run time, so it is in memory. Of the size of `acc`, both would share it.
        own = Accumulators(acc.count + 1, self.lanes)
        y0, x0 = Var("y0", INDEX), Var("x0", INDEX)
        one_row = spec.reads_in_place
        length = self.total if one_row else self.out[1]

        def position(filter_: Expr, y: Expr, x: Expr) -> list[Expr]:
            first = [n, g * const(spec.width) + filter_]
            return [*first, y, x] if spec.axes == 2 else [*first, x]

        def fast(j: int) -> Stmt:
            def store(v: Expr) -> Stmt:
                at = v * const(self.lanes)
                return vectorised(
                    self.lanes,
                    lambda lane: self.epilogue.store(
                        position(f * const(spec.tile) + const(j), y0, x0 + at + lane),
                        acc.element(const(j * self.vectors) + v, lane),
                    ),
                )

            return self._if_filter(f, j, unrolled(self.vectors, store))

        def slow(j: Expr) -> Stmt:
            last = tirx.min(tirx.indexdiv(q + const(self.pixels - 1), self.pitch), self._height() - const(1))

            def row(r: Expr) -> Stmt:
                y = y0 + r
                base = y * self.pitch
                begin = tirx.max(q - base, const(0))
                end = tirx.min(q + const(self.pixels) - base, length)

                def store(i: Expr) -> Stmt:
                    x = begin + i
                    value = own.buffer[j * const(self.pixels) + base + x - q]
                    return self.epilogue.store(position(f * const(spec.tile) + j, y, x), value)

                return loop(tirx.max(end - begin, const(0)), store, "x")

            return loop(tirx.max(last - y0 + const(1), const(0)), row, "r")

        spill = unrolled(acc.count, lambda k: own.set(k, acc.get(k)))
        count = tirx.min(const(spec.tile), const(spec.width) - f * const(spec.tile))
        rows = seq([AllocBuffer(own.buffer), spill, loop(count, slow, "j")])
        whole = seq([fast(j) for j in range(spec.tile)])
        inside = tirx.all(x0 + const(self.pixels) <= length, y0 < self._height())
        row_of = const(0) if one_row else tirx.indexdiv(q, self.pitch)
        return seq([Bind(y0, row_of), Bind(x0, q - y0 * self.pitch), IfThenElse(inside, whole, rows)])

    def _height(self) -> Expr:
        return const(1) if self.spec.reads_in_place else self.out[0]

    def _if_filter(self, f: Expr, j: int, body: Stmt) -> Stmt:
        """`body` unless the filter is one of those that fill up a group's last tile."""
        spec = self.spec
        if spec.tile * spec.tiles == spec.width or j < spec.width - (spec.tiles - 1) * spec.tile:
            return body
        return IfThenElse(f * const(spec.tile) + const(j) < const(spec.width), body, None)
