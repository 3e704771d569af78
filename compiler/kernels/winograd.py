"""3×3 convolution without stride by F(2×2, 3×3) and F(4×4, 3×3), on blocked tensors.

A kernel works on blocks of tiles: whole rows of tiles of one image. Per block it transforms the input into scratch
(`t²` matrices ``[tiles, in]``, by blocks of channels), multiplies each by its ``[in, out]`` matrix of transformed
weights with accumulators in registers, and transforms the products of a group of output channels back, the fused
tail applied to the results before they are stored. Tasks are blocks of tiles (scratch is then the thread's own and
stays in its cache; every task reads all weights) or groups of output channels (two parallel loops with a shared
scratch; every weight is read once). Padding is handled where tiles are loaded and stored.

Error: see `ERROR`; each layer's relative error adds to the model's budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import AllocBuffer, Bind, Buffer, IfThenElse, PrimFunc, Stmt

from edgec.compiler.kernels.compute import ConvSpec
from edgec.compiler.kernels.emit import (
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
from edgec.compiler.kernels.tail import Tail
from edgec.compiler.kernels.winograd_transforms import (
    Arithmetic,
    input_transform,
    output_transform,
    tile_size,
)

VERSION = 1

# Root mean square error relative to that of a direct fp32 sum over the same products, by m (128 input channels,
# rectified normal data); the largest error relative to the largest result stays below 2e-6.
ERROR = {2: 0.7, 4: 2.0}


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
    """

    m: int
    tiles: int
    out_blocks: int
    group: int
    rows: int
    by_channels: bool

    def __str__(self) -> str:
        kind = "channels" if self.by_channels else "tiles"
        return f"winograd{self.m} {self.tiles}x{self.out_blocks} group{self.group} rows{self.rows} by-{kind}"


def applies(spec: ConvSpec) -> bool:
    """Whether the convolution is one that this template computes."""
    w = spec.window
    return (
        w.kernel == (3, 3)
        and w.stride == (1, 1)
        and w.dilation == (1, 1)
        and spec.groups == 1
        and spec.in_block == spec.lanes
        and spec.dtype == "float32"
    )


def emit(spec: ConvSpec, tail: Tail, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`; its weights are those of ``transform_weights``."""
    return _Winograd(spec, tail, schedule, threads).build()


class _Vectors(Arithmetic):
    """Straight-line code on vectors: named values become bindings."""

    def __init__(self, lanes: int, dtype: str) -> None:
        self.lanes, self.dtype = lanes, dtype
        self.steps: list[Stmt] = []

    def name(self, value: Expr) -> Expr:  # type: ignore[override]
        var = tirx.Var("v", f"{self.dtype}x{self.lanes}")
        self.steps.append(Bind(var, value))
        return var

    def scaled(self, factor: float, value: Expr) -> Expr:  # type: ignore[override]
        return broadcast(tirx.const(factor, self.dtype), self.lanes) * value


@dataclass(frozen=True)
class _Block:
    """A block of tiles: its image, its first row of tiles, and the scratch with its transformed input."""

    n: Expr
    row: Expr
    scratch: Buffer
    offset: Expr  # of the block in the scratch


class _Winograd:
    def __init__(self, spec: ConvSpec, tail: Tail, schedule: Schedule, threads: int) -> None:
        self.spec, self.tail, self.schedule, self.threads = spec, tail, schedule, threads
        self.data, plain = tail.inputs
        self.lanes, self.m, self.t = spec.lanes, schedule.m, tile_size(schedule.m)
        self.out_blocks = -(-spec.out_channels // spec.lanes)
        self.in_blocks = -(-spec.in_channels // spec.lanes)
        self.grid = tuple(-(-size // self.m) for size in spec.window.out)
        self.count = schedule.rows * self.grid[1]  # tiles of a block
        self.row_blocks = self.grid[0] // schedule.rows
        shape = (self.out_blocks, self.t * self.t, spec.in_channels, self.lanes)
        self.weight = tirx.decl_buffer(shape, spec.dtype, "weight", data_alignment=64)
        self.params = [self.weight if p.same_as(plain) else p for p in tail.params]
        self.block_size = self.t * self.t * self.in_blocks * self.count * self.lanes

    def build(self) -> PrimFunc:
        body = self._by_channels() if self.schedule.by_channels else self._by_tiles()
        func = PrimFunc(self.params, body)
        return func.with_attrs({"tirx.noalias": True, "s_tir": True})

    def _by_tiles(self) -> Stmt:
        def task(n: Expr, r: Expr) -> Stmt:
            scratch = self._scratch("transformed", self.block_size)
            block = _Block(n, r * const(self.schedule.rows), scratch, const(0))
            groups = self.out_blocks // self.schedule.group
            return seq(
                [
                    AllocBuffer(scratch),
                    loop(self.in_blocks, lambda b: self._load_tiles(block, b), "icb"),
                    self._with_products(
                        lambda products: loop(groups, lambda g: self._group(block, g, products), "group")
                    ),
                ]
            )

        return parallel([self.spec.batch, self.row_blocks], task, self.threads)

    def _by_channels(self) -> Stmt:
        total = self.spec.batch * self.row_blocks
        scratch = self._scratch("transformed", self.block_size * total)

        def block(n: Expr, r: Expr) -> _Block:
            place = n * const(self.row_blocks) + r
            return _Block(n, r * const(self.schedule.rows), scratch, place * const(self.block_size))

        sizes = [self.spec.batch, self.row_blocks]
        load = parallel(
            [*sizes, self.in_blocks], lambda n, r, b: self._load_tiles(block(n, r), b), self.threads
        )

        def task(g: Expr, n: Expr, r: Expr) -> Stmt:
            return self._with_products(lambda products: self._group(block(n, r), g, products))

        multiply = parallel([self.out_blocks // self.schedule.group, *sizes], task, self.threads)
        return seq([AllocBuffer(scratch), load, multiply])

    def _scratch(self, name: str, size: int) -> Buffer:
        return tirx.decl_buffer((size,), self.spec.dtype, name, scope="global", data_alignment=64)

    def _with_products(self, body: Callable[[Buffer], Stmt]) -> Stmt:
        products = self._scratch("products", self.t * self.t * self.schedule.group * self.count * self.lanes)
        return seq([AllocBuffer(products), body(products)])

    # The input transform.

    def _load_tiles(self, block: _Block, channel_block: Expr) -> Stmt:
        """Transform the tiles of a block for one block of input channels."""

        def tile(row: Expr, column: Expr) -> Stmt:
            y = (block.row + row) * const(self.m) - const(self.spec.window.pad[0])
            x = column * const(self.m) - const(self.spec.window.pad[1])
            index = row * const(self.grid[1]) + column
            place = block.offset + (channel_block * const(self.count) + index) * const(self.lanes)
            return self._load_tile(block, channel_block, (y, x), place)

        return loop(self.schedule.rows, lambda r: loop(self.grid[1], lambda c: tile(r, c), "column"), "row")

    def _load_tile(self, block: _Block, channel_block: Expr, corner: tuple[Expr, Expr], place: Expr) -> Stmt:
        (y, x), (height, width), t = corner, self.spec.in_size, self.t

        def inner(i: int, j: int) -> Expr:
            return vector_load(self.data, [block.n, channel_block, y + const(i), x + const(j), 0], self.lanes)

        patch = tirx.decl_buffer((t * t * self.lanes,), self.spec.dtype, "patch", scope="local")
        zero = broadcast(tirx.const(0, self.spec.dtype), self.lanes)

        def copy(i: Expr, j: Expr) -> Stmt:
            inside = tirx.all(y + i >= 0, y + i < height, x + j >= 0, x + j < width)
            value = vector_load(self.data, [block.n, channel_block, y + i, x + j, 0], self.lanes)
            at = (i * const(t) + j) * const(self.lanes)
            return IfThenElse(inside, patch.vstore([at], value), patch.vstore([at], zero))

        def padded(i: int, j: int) -> Expr:
            return vector_load(patch, [(i * t + j) * self.lanes], self.lanes)

        copies = loop(t, lambda i: loop(t, lambda j: copy(i, j), "j"), "i")
        border = seq([AllocBuffer(patch), copies, self._transform_input(block, padded, place)])
        interior = tirx.all(y >= 0, y + t <= height, x >= 0, x + t <= width)
        return IfThenElse(interior, self._transform_input(block, inner, place), border)

    def _transform_input(self, block: _Block, load: Callable[[int, int], Expr], place: Expr) -> Stmt:
        """``Bᵀ d B`` of one tile into the scratch; element ``(i, j)`` belongs to matrix ``i · t + j``."""
        t, code = self.t, _Vectors(self.lanes, self.spec.dtype)
        columns = [input_transform(self.m, [code.name(load(i, j)) for i in range(t)], code) for j in range(t)]
        stride = self.in_blocks * self.count * self.lanes
        for i in range(t):
            for j, value in enumerate(input_transform(self.m, [columns[c][i] for c in range(t)], code)):
                code.steps.append(block.scratch.vstore([place + const((i * t + j) * stride)], value))
        return seq(code.steps)

    # The products and the output transform.

    def _group(self, block: _Block, group: Expr, products: Buffer) -> Stmt:
        """All products of a group of channel blocks, then their results."""
        s = self.schedule
        multiply = loop(
            self.t * self.t,
            lambda matrix: loop(
                s.group // s.out_blocks,
                lambda sub: self._multiply(block, matrix, group, sub, products),
                "sub",
            ),
            "matrix",
        )
        store = loop(s.group, lambda b: self._store_tiles(block, group, b, products), "ocb")
        return seq([multiply, store])

    def _multiply(self, block: _Block, matrix: Expr, group: Expr, sub: Expr, products: Buffer) -> Stmt:
        """One matrix product for `out_blocks` channel blocks, a register tile at a time."""
        s = self.schedule
        first = sub * const(s.out_blocks)
        whole, rest = divmod(self.count, s.tiles)

        def tile(start: Expr, size: int) -> Stmt:
            return self._register_tile(block, matrix, group * const(s.group), first, start, size, products)

        parts = []
        if whole:
            parts.append(loop(whole, lambda i: tile(i * const(s.tiles), s.tiles), "tiles"))
        if rest:
            parts.append(tile(const(whole * s.tiles), rest))
        return seq(parts)

    def _register_tile(
        self, block: _Block, matrix: Expr, base: Expr, first: Expr, start: Expr, size: int, products: Buffer
    ) -> Stmt:
        lanes, blocks = self.lanes, self.schedule.out_blocks
        acc = Accumulators(size * blocks, lanes, self.spec.dtype)
        inputs = block.offset + (matrix * const(self.in_blocks * self.count) + start) * const(lanes)

        def step(channel_block: Expr, lane: Expr) -> Stmt:
            steps: list[Stmt] = []
            code = _Vectors(lanes, self.spec.dtype)
            channel = channel_block * const(lanes) + lane
            weights = [
                code.name(vector_load(self.weight, [base + first + const(j), matrix, channel, 0], lanes))
                for j in range(blocks)
            ]
            at = inputs + channel_block * const(self.count * lanes) + lane
            for i in range(size):
                value = code.name(broadcast(block.scratch[at + const(i * lanes)], lanes))
                for j in range(blocks):
                    code.steps.append(acc.set(i * blocks + j, acc.get(i * blocks + j) + value * weights[j]))
            return seq([*steps, *code.steps])

        whole, rest = divmod(self.spec.in_channels, lanes)
        parts: list[Stmt] = []
        if whole:
            parts.append(loop(whole, lambda b: loop(lanes, lambda lane: step(b, lane), "ic"), "icb"))
        if rest:
            parts.append(loop(rest, lambda lane: step(const(whole), lane), "ic"))
        done = []
        for j in range(blocks):
            row = (matrix * const(self.schedule.group) + first + const(j)) * const(self.count) + start
            for i in range(size):
                done.append(products.vstore([(row + const(i)) * const(lanes)], acc.get(i * blocks + j)))
        return acc.allocate([*acc.fill(0.0), *parts, *done])

    def _store_tiles(self, block: _Block, group: Expr, member: Expr, products: Buffer) -> Stmt:
        """Transform the products of one channel block back, tile by tile."""

        def tile(row: Expr, column: Expr) -> Stmt:
            index = row * const(self.grid[1]) + column
            start = (member * const(self.count) + index) * const(self.lanes)
            y, x = (block.row + row) * const(self.m), column * const(self.m)
            channel_block = group * const(self.schedule.group) + member
            return self._store_tile([block.n, channel_block], (y, x), start, products)

        return loop(self.schedule.rows, lambda r: loop(self.grid[1], lambda c: tile(r, c), "column"), "row")

    def _store_tile(self, at: list[Expr], corner: tuple[Expr, Expr], start: Expr, products: Buffer) -> Stmt:
        """``Aᵀ M A`` of one tile, through the tail, to the output."""
        t, m, code = self.t, self.m, _Vectors(self.lanes, self.spec.dtype)
        stride = self.schedule.group * self.count * self.lanes

        def load(i: int, j: int) -> Expr:
            return code.name(vector_load(products, [start + const((i * t + j) * stride)], self.lanes))

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
            return self.tail.store([*at, y, x, lane], results.element(i * m + j, lane))

        stored = vectorised(self.lanes, element)
        inside = []
        if height % m and i >= height % m:
            inside.append(y < height)
        if width % m and j >= width % m:
            inside.append(x < width)
        return IfThenElse(tirx.all(*inside), stored, None) if inside else stored
