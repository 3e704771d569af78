"""3×3 convolution without stride by F(2×2, 3×3) and F(4×4, 3×3), on blocked tensors.

A kernel works on blocks of tiles: whole rows of tiles of one image. It transforms the weights (`t²`
matrices `[in, out]`) and a block's input (`t²` matrices `[tiles, in]`) into scratch, multiplies the
matrices with the accumulators in registers, and transforms the products of a group of output channels back,
the fused epilogue applied to the results before they are stored. Padding is handled where tiles are loaded and
stored.

Tasks are either blocks of tiles (the input's scratch is the thread's own and stays in its cache; the
transformed weights are shared) or groups of output channels (the weights' scratch is the thread's own; the
transformed input is shared). Weights are transformed on every call: on the ResNet shapes that costs from 0
% (56²) over 12 % (28²) to nothing again (14², where reading four times the weights costs as much), while
transformed weights would be four times as large in the artifact, in memory and on their way from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, Bind, Buffer, IfThenElse, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    seq,
    vector_load,
    vectorised,
)
from edgec.compiler.backends.cpu.templates.winograd_transforms import (
    Arithmetic,
    input_transform,
    output_transform,
    tile_size,
    weight_transform,
)
from edgec.compiler.operands.operands import FLOAT32

VERSION = 2

# Largest error relative to the largest result, by m; up to 512 input channels of rectified normal data. The
# root mean square error is 0.7 and 2.0 times that of a direct sum in fp32.
ERROR = {2: 1e-6, 4: 5e-6}


@dataclass(frozen=True)
class Schedule:
    """A candidate.

    Attributes:
        m: results per tile and axis.
        tiles: tiles of the register tile of the products.
        out_blocks: channel blocks of the register tile.
        group: channel blocks whose products are transformed back together; a multiple of `out_blocks`.
        rows: rows of tiles in a block.
        by_channels: tasks are groups of output channels rather than blocks of tiles.
        ic_chunk: input channels whose weights are transformed and multiplied at a time, so that they and the
            input stay in the second cache together; 0 for all (`by_channels` with one block of tiles only).
    """

    m: int
    tiles: int
    out_blocks: int
    group: int
    rows: int
    by_channels: bool
    ic_chunk: int = 0

    def __str__(self) -> str:
        kind = "channels" if self.by_channels else "tiles"
        text = f"winograd{self.m} {self.tiles}x{self.out_blocks} group{self.group} rows{self.rows} by-{kind}"
        return text + (f" ic{self.ic_chunk}" if self.ic_chunk else "")


def applies(spec: ConvSpec) -> bool:
    """Whether the convolution is one that this template computes."""
    w = spec.window
    return (
        w.kernel == (3, 3)
        and w.stride == (1, 1)
        and w.dilation == (1, 1)
        and spec.groups == 1
        and spec.in_block == spec.lanes
        and spec.operands == FLOAT32
    )


def emit(spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Winograd(spec, epilogue, schedule, threads).build()


class _Vectors(Arithmetic[Any]):
    """Straight-line code on vectors: named values become bindings."""

    def __init__(self, lanes: int, dtype: str) -> None:
        self.lanes, self.dtype = lanes, dtype
        self.steps: list[Stmt] = []

    def name(self, value: Expr) -> Expr:
        var = tirx.Var("v", f"{self.dtype}x{self.lanes}")
        self.steps.append(Bind(var, value))
        return var

    def scaled(self, factor: float, value: Expr) -> Expr:
        return broadcast(tirx.const(factor, self.dtype), self.lanes) * value


@dataclass(frozen=True)
class _Scratch:
    """Transformed values: for each of `t²` matrices `vectors` vectors, from element `start` on."""

    buffer: Buffer
    start: Expr
    vectors: int
    lanes: int

    def at(self, matrix: Expr | int, vector: Expr) -> Expr:
        """The element at which a vector of a matrix starts."""
        number = const(matrix) if isinstance(matrix, int) else matrix
        return self.start + (number * const(_odd(self.vectors)) + vector) * const(self.lanes)


@dataclass(frozen=True)
class _Part:
    """A part of the input channels: its first block, how many channels, whether the sums start with it."""

    first: Expr
    channels: int
    starts: bool


def _odd(vectors: int) -> int:
    """An odd stride: a vector of each matrix is written in turn, and each has to find its own cache set."""
    return vectors | 1


class _Winograd:
    def __init__(self, spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.data, self.weight = epilogue.inputs
        self.lanes, self.m, self.t = spec.lanes, schedule.m, tile_size(schedule.m)
        self.out_blocks = -(-spec.out_channels // spec.lanes)
        self.in_blocks = -(-spec.in_channels // spec.lanes)
        self.grid = tuple(-(-size // self.m) for size in spec.window.out)
        self.count = schedule.rows * self.grid[1]  # tiles of a block
        self.row_blocks = self.grid[0] // schedule.rows

    def build(self) -> PrimFunc:
        return self.epilogue.build(self._by_channels() if self.schedule.by_channels else self._by_tiles())

    def _by_tiles(self) -> Stmt:
        weights = self._allocated("weights", self.spec.in_channels, self.out_blocks)
        groups = self.out_blocks // self.schedule.group

        def transform(b: Expr, channel_block: Expr) -> Stmt:
            return self._load_weights(self._part(weights, b), b, channel_block, channel_block)

        def task(n: Expr, r: Expr) -> Stmt:
            block = (n, r * const(self.schedule.rows))
            inputs = self._allocated("transformed", self.in_blocks * self.count)
            products = self._allocated("products", self.schedule.group * self.count)

            def group(g: Expr) -> Stmt:
                first = g * const(self.schedule.group)
                return self._group(block, first, self._part(weights, first), inputs, products)

            load = loop(self.in_blocks, lambda b: self._load_tiles(block, b, inputs), "icb")
            return seq(
                [AllocBuffer(inputs.buffer), load, AllocBuffer(products.buffer), loop(groups, group, "group")]
            )

        first = parallel([self.out_blocks, self.in_blocks], transform, self.threads)
        second = parallel([self.spec.batch, self.row_blocks], task, self.threads)
        return seq([AllocBuffer(weights.buffer), first, second])

    def _by_channels(self) -> Stmt:
        sizes = [self.spec.batch, self.row_blocks]
        every = self._allocated("transformed", self.in_blocks * self.count, sizes[0] * sizes[1])

        def place(n: Expr, r: Expr) -> tuple[tuple[Expr, Expr], _Scratch]:
            return (n, r * const(self.schedule.rows)), self._part(every, n * const(self.row_blocks) + r)

        def load(n: Expr, r: Expr, b: Expr) -> Stmt:
            block, inputs = place(n, r)
            return self._load_tiles(block, b, inputs)

        def task(g: Expr) -> Stmt:
            group, first = self.schedule.group, g * const(self.schedule.group)
            products = self._allocated("products", group * self.count)
            if self.schedule.ic_chunk:
                block, inputs = place(const(0), const(0))
                return self._chunked(block, first, inputs, products)
            weights = self._allocated("weights", self.spec.in_channels, group)

            def transform(b: Expr) -> Stmt:
                own = self._part(weights, b)
                return loop(self.in_blocks, lambda c: self._load_weights(own, first + b, c, c), "icb")

            def multiply(n: Expr, r: Expr) -> Stmt:
                block, inputs = place(n, r)
                return self._group(block, first, weights, inputs, products)

            blocks = loop(sizes[0], lambda n: loop(sizes[1], lambda r: multiply(n, r), "rows"), "n")
            transforms = loop(group, transform, "ocb")
            return seq([AllocBuffer(weights.buffer), transforms, AllocBuffer(products.buffer), blocks])

        first = parallel([*sizes, self.in_blocks], load, self.threads)
        second = parallel([self.out_blocks // self.schedule.group], task, self.threads)
        return seq([AllocBuffer(every.buffer), first, second])

    def _chunked(self, block: tuple[Expr, Expr], first: Expr, inputs: _Scratch, products: _Scratch) -> Stmt:
        """A group of channel blocks, a part of the input channels at a time."""
        s = self.schedule
        weights = self._allocated("weights", s.ic_chunk, s.group)
        blocks = s.ic_chunk // self.lanes
        count, rest = divmod(self.spec.in_channels, s.ic_chunk)

        def chunk(number: Expr, channels: int, start: bool) -> Stmt:
            before = number * const(blocks)

            def transform(b: Expr) -> Stmt:
                own = self._part(weights, b)
                sub_blocks = -(-channels // self.lanes)
                return loop(sub_blocks, lambda c: self._load_weights(own, first + b, before + c, c), "icb")

            part = _Part(before, channels, start)
            return seq([loop(s.group, transform, "ocb"), self._multiply(weights, inputs, products, part)])

        steps = [chunk(const(0), s.ic_chunk, True)]
        if count > 1:
            steps.append(loop(count - 1, lambda c: chunk(c, s.ic_chunk, False), "chunk", start=1))
        if rest:
            steps.append(chunk(const(count), rest, False))
        steps.append(self._results(block, first, products))
        return seq([AllocBuffer(weights.buffer), AllocBuffer(products.buffer), *steps])

    def _allocated(self, name: str, vectors: int, parts: int = 1) -> _Scratch:
        """Scratch for `parts` times `t²` matrices of `vectors` vectors, from the workspace."""
        size = parts * self.t * self.t * _odd(vectors) * self.lanes
        buffer = tirx.decl_buffer((size,), self.spec.dtype, name, scope="global", data_alignment=64)
        return _Scratch(buffer, const(0), vectors, self.lanes)

    def _part(self, scratch: _Scratch, part: Expr) -> _Scratch:
        size = self.t * self.t * _odd(scratch.vectors) * self.lanes
        return replace(scratch, start=scratch.start + part * const(size))

    # The transforms of weights and input.

    def _load_weights(self, scratch: _Scratch, out_block: Expr, channel_block: Expr, to_block: Expr) -> Stmt:
        """Transform the weights of one block of output channels and one block of input channels."""

        def channel(lane: Expr) -> Stmt:
            code = _Vectors(self.lanes, self.spec.dtype)
            chunk = const(self.spec.chunk)
            ic, to = channel_block * const(self.lanes) + lane, to_block * const(self.lanes) + lane

            def load(i: int, j: int) -> Expr:
                row = [out_block, tirx.indexdiv(ic, chunk), i, j, tirx.indexmod(ic, chunk), 0]
                return code.name(vector_load(self.weight, row, self.lanes))

            columns = [weight_transform(self.m, [load(i, j) for i in range(3)], code) for j in range(3)]
            for i in range(self.t):
                row = weight_transform(self.m, [column[i] for column in columns], code)
                for j, value in enumerate(row):
                    code.steps.append(scratch.buffer.vstore([scratch.at(i * self.t + j, to)], value))
            return seq(code.steps)

        count: Expr | int = self.lanes
        if self.spec.in_channels % self.lanes:
            left = const(self.spec.in_channels) - channel_block * const(self.lanes)
            count = tirx.min(const(self.lanes), left)
        return loop(count, channel, "ic")

    def _load_tiles(self, block: tuple[Expr, Expr], channel_block: Expr, scratch: _Scratch) -> Stmt:
        """Transform the tiles of a block (image, first row of tiles) for one block of input channels."""

        def tile(row: Expr, column: Expr) -> Stmt:
            y = (block[1] + row) * const(self.m) - const(self.spec.window.pad[0])
            x = column * const(self.m) - const(self.spec.window.pad[1])
            vector = channel_block * const(self.count) + row * const(self.grid[1]) + column
            return self._load_tile([block[0], channel_block], (y, x), scratch, vector)

        return loop(self.schedule.rows, lambda r: loop(self.grid[1], lambda c: tile(r, c), "column"), "row")

    def _load_tile(self, at: list[Expr], corner: tuple[Expr, Expr], scratch: _Scratch, vector: Expr) -> Stmt:
        (y, x), (height, width), t = corner, self.spec.in_size, self.t

        def inner(i: int, j: int) -> Expr:
            return vector_load(self.data, [*at, y + const(i), x + const(j), 0], self.lanes)

        patch = tirx.decl_buffer((t * t * self.lanes,), self.spec.dtype, "patch", scope="local")
        zero = broadcast(tirx.const(0, self.spec.dtype), self.lanes)

        def copy(i: Expr, j: Expr) -> Stmt:
            inside = tirx.all(y + i >= 0, y + i < height, x + j >= 0, x + j < width)
            value = vector_load(self.data, [*at, y + i, x + j, 0], self.lanes)
            to = (i * const(t) + j) * const(self.lanes)
            return IfThenElse(inside, patch.vstore([to], value), patch.vstore([to], zero))

        def padded(i: int, j: int) -> Expr:
            return vector_load(patch, [(i * t + j) * self.lanes], self.lanes)

        copies = loop(t, lambda i: loop(t, lambda j: copy(i, j), "j"), "i")
        border = seq([AllocBuffer(patch), copies, self._transform_input(padded, scratch, vector)])
        interior = tirx.all(y >= 0, y + t <= height, x >= 0, x + t <= width)
        return IfThenElse(interior, self._transform_input(inner, scratch, vector), border)

    def _transform_input(self, load: Callable[[int, int], Expr], scratch: _Scratch, vector: Expr) -> Stmt:
        """`Bᵀ d B` of one tile; element `(i, j)` belongs to matrix `i · t + j`."""
        t, code = self.t, _Vectors(self.lanes, self.spec.dtype)
        columns = [input_transform(self.m, [code.name(load(i, j)) for i in range(t)], code) for j in range(t)]
        for i in range(t):
            for j, value in enumerate(input_transform(self.m, [columns[c][i] for c in range(t)], code)):
                code.steps.append(scratch.buffer.vstore([scratch.at(i * t + j, vector)], value))
        return seq(code.steps)

    # The products and the output transform.

    def _group(
        self, block: tuple[Expr, Expr], first: Expr, weights: _Scratch, inputs: _Scratch, products: _Scratch
    ) -> Stmt:
        """All products of a group of channel blocks from `first` on, then their results."""
        everything = _Part(const(0), self.spec.in_channels, True)
        return seq(
            [self._multiply(weights, inputs, products, everything), self._results(block, first, products)]
        )

    def _results(self, block: tuple[Expr, Expr], first: Expr, products: _Scratch) -> Stmt:
        return loop(self.schedule.group, lambda b: self._store_tiles(block, first + b, b, products), "ocb")

    def _multiply(self, weights: _Scratch, inputs: _Scratch, products: _Scratch, part: _Part) -> Stmt:
        """The products of a group of channel blocks for a part of the input channels."""
        s = self.schedule
        whole, rest = divmod(self.count, s.tiles)

        def multiply(matrix: Expr, sub: Expr) -> Stmt:
            member = sub * const(s.out_blocks)
            own = self._part(weights, member)

            def tile(start: Expr, size: int) -> Stmt:
                to = products.at(matrix, member * const(self.count) + start)
                return self._register_tile(matrix, own, inputs, part, start, size, (products, to))

            def nth(number: Expr) -> Stmt:
                return tile(number * const(s.tiles), s.tiles)

            parts = [loop(whole, nth, "tiles")] if whole else []
            return seq([*parts, tile(const(whole * s.tiles), rest)] if rest else parts)

        subs = s.group // s.out_blocks
        return loop(self.t * self.t, lambda k: loop(subs, lambda sub: multiply(k, sub), "sub"), "matrix")

    def _register_tile(
        self,
        matrix: Expr,
        weights: _Scratch,
        inputs: _Scratch,
        part: _Part,
        start: Expr,
        size: int,
        to: tuple[_Scratch, Expr],
    ) -> Stmt:
        """The product of `size` tiles with `out_blocks` channel blocks."""
        lanes, blocks = self.lanes, self.schedule.out_blocks
        acc = Accumulators(size * blocks, lanes, self.spec.dtype)

        def step(channel_block: Expr, lane: Expr) -> Stmt:
            code = _Vectors(lanes, self.spec.dtype)
            channel = channel_block * const(lanes) + lane
            rows = [
                code.name(
                    vector_load(weights.buffer, [self._part(weights, const(j)).at(matrix, channel)], lanes)
                )
                for j in range(blocks)
            ]
            at = inputs.at(matrix, (part.first + channel_block) * const(self.count) + start) + lane
            for i in range(size):
                value = broadcast(inputs.buffer[at + const(i * lanes)], lanes)
                value = code.name(value) if blocks > 1 else value
                for j in range(blocks):
                    k = i * blocks + j
                    code.steps.append(acc.set(k, acc.get(k) + value * rows[j]))
            return seq(code.steps)

        whole, rest = divmod(part.channels, lanes)
        parts: list[Stmt] = []
        if whole:
            parts.append(loop(whole, lambda b: loop(lanes, lambda lane: step(b, lane), "ic"), "icb"))
        if rest:
            parts.append(loop(rest, lambda lane: step(const(whole), lane), "ic"))
        scratch, place = to
        spots = {
            i * blocks + j: place + const((j * self.count + i) * lanes)
            for i in range(size)
            for j in range(blocks)
        }
        before = acc.fill(0.0)
        if not part.starts:
            before = [acc.set(k, vector_load(scratch.buffer, [spot], lanes)) for k, spot in spots.items()]
        after = [scratch.buffer.vstore([spot], acc.get(k)) for k, spot in spots.items()]
        return acc.allocate([*before, *parts, *after])

    def _store_tiles(
        self, block: tuple[Expr, Expr], out_block: Expr, member: Expr, products: _Scratch
    ) -> Stmt:
        """Transform the products of one channel block back, tile by tile."""

        def tile(row: Expr, column: Expr) -> Stmt:
            vector = member * const(self.count) + row * const(self.grid[1]) + column
            corner = ((block[1] + row) * const(self.m), column * const(self.m))
            return self._store_tile([block[0], out_block], corner, products, vector)

        return loop(self.schedule.rows, lambda r: loop(self.grid[1], lambda c: tile(r, c), "column"), "row")

    def _store_tile(
        self, at: list[Expr], corner: tuple[Expr, Expr], products: _Scratch, vector: Expr
    ) -> Stmt:
        """`Aᵀ M A` of one tile, through the epilogue, to the output."""
        t, m, code = self.t, self.m, _Vectors(self.lanes, self.spec.dtype)

        def load(i: int, j: int) -> Expr:
            return code.name(vector_load(products.buffer, [products.at(i * t + j, vector)], self.lanes))

        columns = [output_transform(m, [load(i, j) for i in range(t)], code) for j in range(t)]
        results = Accumulators(m * m, self.lanes, self.spec.dtype)
        for i in range(m):
            for j, value in enumerate(output_transform(m, [columns[c][i] for c in range(t)], code)):
                code.steps.append(results.set(i * m + j, value))
        stores = [self._store(at, corner, i, j, results) for i in range(m) for j in range(m)]
        return results.allocate([*code.steps, *stores])

    def _store(
        self, at: list[Expr], corner: tuple[Expr, Expr], i: int, j: int, results: Accumulators
    ) -> Stmt:
        (height, width), m = self.spec.window.out, self.m
        y, x = corner[0] + const(i), corner[1] + const(j)

        def element(lane: Expr) -> Stmt:
            return self.epilogue.store([*at, y, x, lane], results.element(i * m + j, lane))

        stored = vectorised(self.lanes, element)
        inside = []
        if height % m and i >= height % m:
            inside.append(y < height)
        if width % m and j >= width % m:
            inside.append(x < width)
        return IfThenElse(tirx.all(*inside), stored, None) if inside else stored
