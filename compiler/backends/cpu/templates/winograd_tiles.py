"""The transforms of Winograd's algorithm as kernels contain them, and the scratch between them.

Weights and input become `t²` matrices, which `edgec.compiler.backends.cpu.templates.winograd` multiplies; the products
become tiles of results. Padding is handled where tiles are loaded and stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, Bind, Buffer, IfThenElse, Stmt

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
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
        elements: inputs are loaded as vectors of channels, which multiply by element, as in direct convolutions.
    """

    m: int
    tiles: int
    out_blocks: int
    group: int
    rows: int
    by_channels: bool
    ic_chunk: int = 0
    elements: bool = False

    def __str__(self) -> str:
        kind = "channels" if self.by_channels else "tiles"
        text = f"winograd{self.m} {self.tiles}x{self.out_blocks} group{self.group} rows{self.rows} by-{kind}"
        return (
            text + (f" ic{self.ic_chunk}" if self.ic_chunk else "") + (" elements" if self.elements else "")
        )


class Vectors(Arithmetic[Any]):
    """Straight-line code on vectors: named values become bindings."""

    def __init__(self, lanes: int, dtype: str) -> None:
        self.lanes, self.dtype = lanes, dtype
        self.steps: list[Stmt] = []

    def name(self, value: Expr) -> Expr:
        """Bind `value` to a variable."""
        var = tirx.Var("v", f"{self.dtype}x{self.lanes}")
        self.steps.append(Bind(var, value))
        return var

    def scaled(self, factor: float, value: Expr) -> Expr:
        """`value` times a constant."""
        return broadcast(tirx.const(factor, self.dtype), self.lanes) * value


@dataclass(frozen=True)
class Scratch:
    """Transformed values: for each of `t²` matrices `vectors` vectors, from element `start` on."""

    buffer: Buffer
    start: Expr
    vectors: int
    lanes: int

    def at(self, matrix: Expr | int, vector: Expr) -> Expr:
        """The element at which a vector of a matrix starts."""
        number = const(matrix) if isinstance(matrix, int) else matrix
        return self.start + (number * const(odd(self.vectors)) + vector) * const(self.lanes)


def odd(vectors: int) -> int:
    """An odd stride: a vector of each matrix is written in turn, and each has to find its own cache set."""
    return vectors | 1


class Transforms:
    """The parts of a kernel before and after its products.

    Args:
        transformed: whether the weights come as the algorithm multiplies them (see `WinogradSpec`).
    """

    def __init__(
        self,
        spec: ConvSpec,
        epilogue: Epilogue,
        schedule: Schedule,
        threads: int,
        *,
        transformed: bool = False,
    ) -> None:
        self.spec, self.epilogue, self.schedule, self.threads = spec, epilogue, schedule, threads
        self.transformed = transformed
        self.data, self.weight = epilogue.inputs
        self.lanes, self.m, self.t = spec.lanes, schedule.m, tile_size(schedule.m)
        self.dtype = spec.operands.data  # of what is multiplied, once it is transformed
        self.sums = self.dtype  # type of the products
        self.out_blocks = -(-spec.out_channels // spec.lanes)
        self.in_blocks = -(-spec.in_channels // spec.lanes)
        self.grid = tuple(-(-size // self.m) for size in spec.window.out)
        self.count = schedule.rows * self.grid[1]  # tiles of a block
        self.row_blocks = self.grid[0] // schedule.rows

    def allocated(self, name: str, vectors: int, parts: int = 1, dtype: str = "") -> Scratch:
        """Scratch for `parts` times `t²` matrices of `vectors` vectors, from the workspace."""
        size = parts * self.t * self.t * odd(vectors) * self.lanes
        buffer = tirx.decl_buffer((size,), dtype or self.dtype, name, scope="global", data_alignment=64)
        return Scratch(buffer, const(0), vectors, self.lanes)

    def stored_weights(self) -> Scratch:
        """The transformed weights of all blocks of output channels, as the kernel receives them."""
        return Scratch(self.weight, const(0), self.spec.in_channels, self.lanes)

    def part_of(self, scratch: Scratch, part: Expr) -> Scratch:
        """Part number `part` of scratch that was allocated for several."""
        size = self.t * self.t * odd(scratch.vectors) * scratch.lanes
        return replace(scratch, start=scratch.start + part * const(size))

    def load_weights(self, scratch: Scratch, out_block: Expr, channel_block: Expr, to_block: Expr) -> Stmt:
        """Transform the weights of one block of output channels and one block of input channels."""

        def channel(lane: Expr) -> Stmt:
            code = Vectors(self.lanes, self.dtype)
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

    def load_tiles(self, block: tuple[Expr, Expr], channel_block: Expr, scratch: Scratch) -> Stmt:
        """Transform the tiles of a block (image, first row of tiles) for one block of input channels."""

        def tile(row: Expr, column: Expr) -> Stmt:
            y = (block[1] + row) * const(self.m) - const(self.spec.window.pad[0])
            x = column * const(self.m) - const(self.spec.window.pad[1])
            vector = channel_block * const(self.count) + row * const(self.grid[1]) + column
            return self._load_tile([block[0], channel_block], (y, x), scratch, vector)

        return loop(self.schedule.rows, lambda r: loop(self.grid[1], lambda c: tile(r, c), "column"), "row")

    def _load_tile(self, at: list[Expr], corner: tuple[Expr, Expr], scratch: Scratch, vector: Expr) -> Stmt:
        (y, x), (height, width), t = corner, self.spec.in_size, self.t

        def inner(i: int, j: int) -> Expr:
            return vector_load(self.data, [*at, y + const(i), x + const(j), 0], self.lanes)

        dtype = self.spec.operands.data
        patch = tirx.decl_buffer((t * t * self.lanes,), dtype, "patch", scope="local")
        zero = broadcast(tirx.const(0, dtype), self.lanes)

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

    def _transform_input(self, load: Callable[[int, int], Expr], scratch: Scratch, vector: Expr) -> Stmt:
        """`Bᵀ d B` of one tile; element `(i, j)` belongs to matrix `i · t + j`."""
        t, code = self.t, Vectors(self.lanes, self.dtype)

        def element(i: int, j: int) -> Expr:
            loaded = load(i, j)
            widens = self.dtype != self.spec.operands.data
            return code.name(loaded.astype(f"{self.dtype}x{self.lanes}") if widens else loaded)

        columns = [input_transform(self.m, [element(i, j) for i in range(t)], code) for j in range(t)]
        for i in range(t):
            for j, value in enumerate(input_transform(self.m, [columns[c][i] for c in range(t)], code)):
                code.steps.append(scratch.buffer.vstore([scratch.at(i * t + j, vector)], value))
        return seq(code.steps)

    def store_tiles(self, block: tuple[Expr, Expr], out_block: Expr, member: Expr, products: Scratch) -> Stmt:
        """Transform the products of one channel block back, tile by tile."""

        def tile(row: Expr, column: Expr) -> Stmt:
            vector = member * const(self.count) + row * const(self.grid[1]) + column
            corner = ((block[1] + row) * const(self.m), column * const(self.m))
            return self._store_tile([block[0], out_block], corner, products, vector)

        return loop(self.schedule.rows, lambda r: loop(self.grid[1], lambda c: tile(r, c), "column"), "row")

    def _store_tile(self, at: list[Expr], corner: tuple[Expr, Expr], products: Scratch, vector: Expr) -> Stmt:
        """`Aᵀ M A` of one tile, through the epilogue, to the output."""
        t, m, code = self.t, self.m, Vectors(self.lanes, self.sums)

        def load(i: int, j: int) -> Expr:
            return code.name(vector_load(products.buffer, [products.at(i * t + j, vector)], self.lanes))

        columns = [output_transform(m, [load(i, j) for i in range(t)], code) for j in range(t)]
        results = Accumulators(m * m, self.lanes, self.sums)
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
            value = results.element(i * m + j, lane)
            value = value if self.sums == self.spec.dtype else value.astype(self.spec.dtype)
            return self.epilogue.store([*at, y, x, lane], value)

        stored = vectorised(self.lanes, element)
        inside = []
        if height % m and i >= height % m:
            inside.append(y < height)
        if width % m and j >= width % m:
            inside.append(x < width)
        return IfThenElse(tirx.all(*inside), stored, None) if inside else stored
