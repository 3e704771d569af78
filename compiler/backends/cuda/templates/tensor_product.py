"""Products and convolutions on tensor cores: 16x16x16 steps of a warp, operands staged in shared memory.

A convolution is the product of its windows (gathered while they are staged) and its filters. Operands are fp16 or
bfloat16, sums are fp32; what follows the product is applied when the sums are written. Tiles are chosen by a model of
occupancy and traffic, so nothing has to be timed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir import Schedule
from tvm.s_tir.dlight.analysis import get_root_block
from tvm.s_tir.dlight.gpu.matmul import (
    auto_inline_consumer_chain,
    auto_inline_producers,
    get_index_map,
    get_reduction_blocks,
)
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.templates.tensor_steps import STEP, tensor_steps
from edgec.targets.gpu import Gpu

WARP = 32
VECTOR = 4  # elements of one copy
_PAD = 8  # elements between rows in shared memory, so that rows begin in different banks
OPERANDS = ("float16", "bfloat16")


@dataclass(frozen=True)
class Tile:
    """How a product is cut.

    Attributes:
        warps: of a block, along rows and columns.
        steps: of a warp, along rows and columns.
        depth: steps of the sum between two rounds of staging.
    """

    warps: tuple[int, int]
    steps: tuple[int, int]
    depth: int

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return STEP * self.warps[0] * self.steps[0]

    @property
    def columns(self) -> int:
        """Columns of a block."""
        return STEP * self.warps[1] * self.steps[1]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps[0] * self.warps[1]

    @property
    def shared_bytes(self) -> int:
        """Shared memory: both operands twice (one is filled while the other is read), or the sums."""
        staged = 2 * 2 * (self.rows + self.columns) * (STEP * self.depth + _PAD)
        return max(staged, 4 * self.rows * (self.columns + VECTOR)) + staged // 2

    def __str__(self) -> str:
        return f"tensor {self.rows}x{self.columns}x{STEP * self.depth} warps{self.warps[0]}x{self.warps[1]}"


TILES = tuple(
    Tile((a, b), (c, d), depth)
    for a, b in ((1, 2), (2, 1), (2, 2), (2, 4), (4, 2))
    for c, d in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (4, 2))
    for depth in (2, 4)
)


@dataclass(frozen=True)
class Product:
    """The size of a product: `batch` of [rows, depth] x [depth, columns]."""

    batch: int
    rows: int
    columns: int
    depth: int


def cost(tile: Tile, product: Product, gpu: Gpu) -> float:
    """An estimate of a product's time, in multiply-adds of a multiprocessor.

    The blocks run in waves over the multiprocessors; padding counts as work, and traffic is what a block stages per
    multiply-add.
    """
    down, across = math.ceil(product.rows / tile.rows), math.ceil(product.columns / tile.columns)
    blocks = product.batch * down * across
    resident = min(
        max(1, gpu.shared_bytes_per_multiprocessor // tile.shared_bytes),
        max(1, gpu.threads_per_multiprocessor // tile.threads),
    )
    depth = STEP * tile.depth * math.ceil(product.depth / (STEP * tile.depth))
    work = tile.rows * tile.columns * depth
    # Eight warps hide the latency of a multiprocessor's tensor cores.
    busy = min(1.0, tile.threads * min(resident, math.ceil(blocks / gpu.multiprocessors)) / (8 * WARP))
    waves = math.ceil(blocks / gpu.multiprocessors)
    traffic = 1 + 24 * (1 / tile.rows + 1 / tile.columns)
    return waves * work * traffic / max(busy, 1e-3)


def tiles_for(product: Product, gpu: Gpu, most_shared: int) -> list[Tile]:
    """Tiles that fit, best estimate first."""
    fitting = [tile for tile in TILES if tile.shared_bytes <= most_shared]
    return sorted(fitting, key=lambda tile: (cost(tile, product, gpu), str(tile)))


class TensorProduct:
    """A kernel whose first reduction is a product, or can be written as one."""

    def __init__(self, func: PrimFunc) -> None:
        self._func = func
        self.product: Product | None = None
        self.operand = ""
        sch = Schedule(func)
        self.product = self._look(sch)

    def _look(self, sch: Schedule) -> Product | None:
        normalised = _normalise(sch)
        if normalised is None:
            return None
        block = sch.get(normalised)
        types = {str(region.source.ty.dtype.dtype) for region in block.reads}
        written = {str(region.source.ty.dtype.dtype) for region in block.writes}
        if len(types) != 1 or not types <= {*OPERANDS, "float32"} or written != {"float32"}:
            return None
        self.operand = types.pop()
        extents = [int(var.dom.extent) for var in block.iter_vars]
        return Product(extents[0], extents[1], extents[2], extents[3])

    def emit(self, tile: Tile, *, tensorised: bool = True) -> PrimFunc:
        """The kernel in tiles.

        Args:
            tile: how it is cut.
            tensorised: use tensor cores. Without, each thread of a warp computes the warp's whole step in memory of its
                own, which means the same and runs anywhere.
        """
        sch = Schedule(self._func)
        block = _normalise(sch)
        if block is None:
            raise ValueError("not a product")
        _schedule(sch, block, tile, self.operand if tensorised else "")
        made: PrimFunc = sch.mod["main"]
        return made.with_attr("tirx.is_scheduled", True)


def _normalise(sch: Schedule) -> Any:  # noqa: ANN401 - a block of TVM's
    """Write the first reduction as `C[b, i, j] += A[b, i, k] * B[b, j, k]`; None where it is none such."""
    blocks = get_reduction_blocks(sch, sch.get_child_blocks(get_root_block(sch)))
    if not blocks or len(blocks) != 1:
        return None
    block = blocks[0]
    if len(sch.get(block).reads) != 2:
        return None
    maps = get_index_map(sch.get(block))
    if maps is None:
        return None
    views = [
        sch.reindex(block, ("read", 0)),
        sch.reindex(block, ("read", 1)),
        sch.reindex(block, ("write", 0)),
    ]
    maps = get_index_map(sch.get(block))
    if maps is None:
        return None
    whole, a, b, c = maps
    sch.transform_layout(views[0], ("write", 0), a)
    sch.transform_layout(views[1], ("write", 0), b)
    sch.transform_layout(views[2], ("read", 0), c)
    sch.transform_block_layout(block, whole)
    return block


def _schedule(sch: Schedule, block: Any, tile: Tile, operand: str) -> None:  # noqa: ANN401
    scopes = ("wmma.matrix_a", "wmma.matrix_b", "wmma.accumulator") if operand else ("local",) * 3
    sch.pad_einsum(block, [1, tile.rows, tile.columns, STEP * tile.depth])
    batch, i, j, k = sch.get_loops(block)
    i, inner_i = sch.split(i, factors=[None, STEP])
    j, inner_j = sch.split(j, factors=[None, STEP])
    k, inner_k = sch.split(k, factors=[None, STEP])
    sch.reorder(i, j, k, inner_i, inner_j, inner_k)
    outer = sch.blockize(inner_i)
    i0, i1, i2 = sch.split(i, factors=[None, tile.warps[0], tile.steps[0]])
    j0, j1, j2 = sch.split(j, factors=[None, tile.warps[1], tile.steps[1]])
    k0, k1 = sch.split(k, factors=[None, tile.depth])
    sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
    warp = sch.fuse(i1, j1)
    sch.bind(batch, "blockIdx.z")
    sch.bind(i0, "blockIdx.x")
    sch.bind(j0, "blockIdx.y")
    sch.bind(warp, "threadIdx.y")
    for number in (0, 1):
        _stage(sch, outer, number, k0, tile)
    fragments = []
    for number in (0, 1):
        fragment = sch.cache_read(outer, number, scopes[number])
        sch.compute_at(fragment, k1)
        fragments.append(fragment)
    written = sch.cache_write(outer, 0, "shared.dyn" if operand else "shared")
    sch.storage_align(written, 0, -2, 16, VECTOR)
    sums = sch.cache_write(outer, 0, scopes[2])
    sch.reverse_compute_at(sums, warp)
    sch.reverse_compute_at(written, warp)
    inner_sums = _in_steps(sch, sums)
    start = sch.decompose_reduction(outer, k0)
    if operand:
        _tensorise(sch, start, fragments, inner_sums, block, operand)
    auto_inline_consumer_chain(sch, written)
    fused = sch.fuse(*sch.get_loops(written)[-2:])
    _, lanes, vector = sch.split(fused, factors=[None, WARP, VECTOR])
    sch.bind(lanes, "threadIdx.x")
    sch.vectorize(vector)


def _stage(sch: Schedule, outer: Any, number: int, at: Any, tile: Tile) -> None:  # noqa: ANN401
    """Copy an operand's part to shared memory, all threads of the block together."""
    staged = sch.cache_read(outer, number, "shared")
    sch.compute_at(staged, at)
    fused = sch.fuse(*sch.get_loops(staged)[-2:])
    warps = tile.warps[0] * tile.warps[1]
    _, warp, lanes, vector = sch.split(fused, factors=[None, warps, WARP, VECTOR])
    sch.bind(lanes, "threadIdx.x")
    sch.bind(warp, "threadIdx.y")
    sch.vectorize(vector)
    sch.storage_align(staged, 0, axis=-2, factor=16, offset=_PAD)
    auto_inline_producers(sch, staged)


def _in_steps(sch: Schedule, block: Any) -> Any:  # noqa: ANN401
    """Cut a copy of a warp's part into steps; the loop over a step's rows."""
    rows, columns = sch.get_loops(block)[-2:]
    rows, inner_rows = sch.split(rows, factors=[None, STEP])
    columns, inner_columns = sch.split(columns, factors=[None, STEP])
    sch.reorder(rows, columns, inner_rows, inner_columns)
    return inner_rows


def _tensorise(sch: Schedule, start: Any, fragments: list[Any], sums: Any, block: Any, operand: str) -> None:  # noqa: ANN401
    group = tensor_steps(operand, "float32", "shared.dyn")
    for fragment, name in zip(fragments, ("load_a", "load_b"), strict=True):
        sch.tensorize(_in_steps(sch, fragment), group[name])
    sch.tensorize(sch.get_loops(sch.get_child_blocks(start)[0])[-2], group["init"])
    sch.tensorize(sums, group["store"])
    sch.tensorize(sch.get_loops(block)[-3], group["compute"])


def schedule_tensor_product(
    func: PrimFunc, gpu: Gpu, most_shared: int, *, tensorised: bool = True
) -> PrimFunc | None:
    """The kernel in the best tile by the estimate; None where it is no product of a kind that tensor cores take."""
    try:
        work = TensorProduct(func)
    except (s_tir.schedule.ScheduleError, tvm.error.InternalError, ValueError):
        return None  # loops that cannot be normalised: another rule takes them
    if work.product is None or (tensorised and work.operand not in OPERANDS):
        return None
    for tile in tiles_for(work.product, gpu, most_shared):
        return work.emit(tile, tensorised=tensorised)
    return None
