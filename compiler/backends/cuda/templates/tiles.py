"""How a product on tensor cores is cut, and a model of what each cut costs.

The model counts cycles of a multiprocessor: for each round of staging the slowest of tensor cores, shared memory and
the second-level cache, or the latency of a round where too few warps hide it; and the waves of blocks over the
multiprocessors. Only the order of its estimates matters. A GPU has the last word where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from edgec.targets.gpu import Gpu

STEP = 16  # rows, columns and depth of one step of a warp
WARP = 32
_COPIED = {1: 4, 2: 8, 4: 4}  # elements of one copy to shared memory, by their bytes

# Multiply-adds of fp16 with fp32 sums in a cycle and multiprocessor. Source: NVIDIA's architecture papers (peaks over
# clocks and multiprocessors: T4, A100, A10, Orin, L4, H100 by `mma`, GeForce RTX 50).
_RATES = {
    "72": 512,
    "75": 512,
    "80": 1024,
    "86": 512,
    "87": 1024,
    "89": 512,
    "90": 1024,
    "101": 1024,
    "120": 256,
}
_SHARED_BYTES = 128  # read from shared memory in a cycle
L2_BYTES = (
    48  # from the second-level cache in a cycle and multiprocessor, measured figures of GPUs lie around it
)
ROUND = 220  # cycles of a round that nothing hides: barrier, loads of fragments, first step
_LAUNCH = 2500  # cycles of one more launch in a graph
_ALONE = 6.0
_MOST_FIXED = 49152  # bytes of shared memory of fixed size
_BUSY_WARPS = 4  # warps that keep the tensor cores of a multiprocessor fed


@dataclass(frozen=True)
class Tile:
    """How a product is cut.

    Attributes:
        warps: of a block, along rows and columns.
        steps: of a warp, along rows and columns.
        depth: steps of the sum in a round of staging.
        stages: rounds that are in shared memory at once.
        split: blocks that share the sum of one part of the result.
        itemsize: bytes of an operand.
    """

    warps: tuple[int, int]
    steps: tuple[int, int]
    depth: int
    stages: int = 3
    split: int = 1
    itemsize: int = 2

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return STEP * self.warps[0] * self.steps[0]

    @property
    def columns(self) -> int:
        """Columns of a block."""
        return STEP * self.warps[1] * self.steps[1]

    @property
    def round_depth(self) -> int:
        """Terms of the sum in a round."""
        return STEP * self.depth

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps[0] * self.warps[1]

    @property
    def copied(self) -> int:
        """Elements of one copy to shared memory."""
        return _COPIED[self.itemsize]

    @property
    def padding(self) -> int:
        """Elements between rows in shared memory, so that rows begin in different banks."""
        return 16 // self.itemsize

    @cached_property
    def shared_bytes(self) -> int:
        """Shared memory: rounds of both operands, and the sums."""
        # Of the second operand, either depth or columns lie side by side.
        second = max(
            self.columns * (self.round_depth + self.padding), self.round_depth * (self.columns + self.padding)
        )
        staged = self.itemsize * (self.rows * (self.round_depth + self.padding) + second)
        return self.stages * staged + self.sum_bytes

    @property
    def sum_bytes(self) -> int:
        """Shared memory of fixed size, where the sums are put together."""
        return 4 * self.rows * (self.columns + 4)

    @property
    def registers(self) -> int:
        """Registers of a thread, about: sums, fragments of both operands twice, addresses."""
        a, b = self.steps
        return 8 * a * b + 8 * (a + b) + 40

    def __str__(self) -> str:
        split = f" split {self.split}" if self.split > 1 else ""
        return (
            f"tensor {self.rows}x{self.columns}x{self.round_depth} warps{self.warps[0]}x{self.warps[1]}"
            f" stages{self.stages}{split}"
        )


@dataclass(frozen=True)
class Product:
    """The size of a product: `batch` of [rows, depth] x [depth, columns], of operands of some bytes."""

    batch: int
    rows: int
    columns: int
    depth: int
    itemsize: int = 2

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.rows * self.columns * self.depth


_WARPS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2))
_STEPS = ((1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (4, 2), (4, 4))


def rate_of(gpu: Gpu) -> int:
    """Multiply-adds of fp16 with fp32 sums in a cycle and multiprocessor."""
    return _RATES.get(gpu.architectures[0].strip("sm_af") if gpu.architectures else "", 512)


def cost(tile: Tile, product: Product, gpu: Gpu) -> float:
    """An estimate of a product's time, in cycles of a multiprocessor."""
    blocks = (
        product.batch * tile.split * _ceil(product.rows, tile.rows) * _ceil(product.columns, tile.columns)
    )
    resident = min(
        gpu.shared_bytes_per_multiprocessor // tile.shared_bytes,
        gpu.threads_per_multiprocessor // tile.threads,
        gpu.registers_per_multiprocessor // (tile.registers * tile.threads),
        _ceil(blocks, gpu.multiprocessors),
    )
    if resident < 1:
        return math.inf
    rounds = _ceil(_ceil(product.depth, tile.round_depth), tile.split)
    rate = rate_of(gpu) * 2 // tile.itemsize
    fed = min(1.0, resident * tile.threads / (_BUSY_WARPS * WARP))
    terms = tile.rows * tile.columns * tile.round_depth
    computing = terms / (rate * fed)
    steps = tile.warps[0] * tile.warps[1] * tile.depth * sum(tile.steps)
    loading = steps * STEP * STEP * tile.itemsize / _SHARED_BYTES
    staging = (tile.rows + tile.columns) * tile.round_depth * tile.itemsize / L2_BYTES
    if product.depth % (tile.round_depth * tile.split):
        staging *= _ALONE  # a copy may reach past the end of the sum, so elements are copied one by one
    latency = ROUND * (1.0 if tile.stages > 2 else 1.5)
    per_round = max(resident * max(computing, loading, staging), latency + computing)
    ends = tile.rows * tile.columns * 4 * 3 / _SHARED_BYTES  # the sums go through shared memory
    waves = _ceil(blocks, gpu.multiprocessors * resident)
    whole = waves * (rounds * per_round + resident * ends + 2 * ROUND)
    if tile.split > 1:  # partial sums are written, and read by one more kernel
        moved = 8 * tile.split * product.batch * product.rows * product.columns
        whole += _LAUNCH + moved / (L2_BYTES * gpu.multiprocessors)
    return whole


def tiles_for(product: Product, gpu: Gpu, most_shared: int) -> list[Tile]:
    """Tiles whose operands fit into `most_shared` bytes, best estimate first."""
    rounds = _ceil(product.depth, 2 * STEP)
    found = [
        Tile(warps, steps, depth, stages, split, product.itemsize)
        for warps in _WARPS
        for steps in _STEPS
        for depth in (2, 4)
        for stages in (2, 3)
        for split in (1, 2, 4, 8)
        if split == 1 or rounds >= 4 * split
    ]
    fitting = [tile for tile in found if tile.shared_bytes <= most_shared and tile.sum_bytes <= _MOST_FIXED]
    return sorted(fitting, key=lambda tile: (cost(tile, product, gpu), str(tile)))


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
