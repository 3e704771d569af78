"""How an attention is cut into blocks, and a model of what each cut costs (as `tiles.py` for products)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgec.compiler.backends.cuda.templates.tiles import L2_BYTES, ROUND, STEP, WARP, rate_of
from edgec.compiler.graph.attention_spec import AttentionSpec, Band
from edgec.compiler.operands.operands import numpy_dtype
from edgec.targets.gpu import Gpu

LONGEST = 256  # elements of a query, or of a value
_STATIC_SHARED = 49152
_PLAIN_RATE = (
    64  # multiply-adds in a cycle and multiprocessor without tensor cores: loads from shared memory limit it
)
_EXPONENTIALS = (
    16  # in a cycle and multiprocessor. Source: CUDA C++ Programming Guide, "Arithmetic Instructions"
)


@dataclass(frozen=True)
class AttentionTile:
    """How an attention is cut.

    Attributes:
        warps: of a block, 16 queries each.
        keys: of a round.
    """

    warps: int
    keys: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps

    def __str__(self) -> str:
        return f"attention {STEP * self.warps} queries, {self.keys} keys"


def shared_bytes(spec: AttentionSpec, operands: str, tile: AttentionTile, *, tensorised: bool) -> int:
    """Shared memory of a block."""
    rows, inner, cols = STEP * tile.warps, _padded(spec.inner), _padded(spec.cols)
    itemsize = numpy_dtype(operands).itemsize
    if tensorised:
        return itemsize * (rows * (inner + 8) + 2 * tile.keys * (inner + cols + 16))
    staged = (rows + tile.keys) * (inner + 1) + tile.keys * (cols + 1) + rows * (tile.keys + 1)
    return itemsize * staged + 16 * rows


def registers(spec: AttentionSpec, tile: AttentionTile, *, tensorised: bool) -> int:
    """Registers of a thread, about: sums, scores, queries, addresses."""
    kept = _padded(spec.inner) // 4 if tensorised else 0
    return (_padded(spec.cols) + tile.keys) // 2 + kept + 48


def attention_tiles(
    spec: AttentionSpec, operands: str, gpu: Gpu, *, tensorised: bool, band: Band | None = None
) -> list[AttentionTile]:
    """Tiles that fit, best estimate first; none where no kernel computes it."""
    if max(spec.inner, spec.cols) > LONGEST or spec.keys < 1:
        return []
    most = min(gpu.shared_bytes_per_block, _STATIC_SHARED)
    found = [AttentionTile(warps, keys) for warps in (1, 2, 4, 8) for keys in (16, 32, 64)]
    fitting = [
        tile
        for tile in found
        if shared_bytes(spec, operands, tile, tensorised=tensorised) <= most
        and registers(spec, tile, tensorised=tensorised) <= 224
    ]
    return sorted(fitting, key=lambda tile: (_cost(tile, spec, operands, gpu, tensorised, band), str(tile)))


def mean_rounds(spec: AttentionSpec, tile: AttentionTile, band: Band | None) -> float:
    """Rounds of a block, on average."""
    rows = STEP * tile.warps
    if band is None:
        return -(-spec.keys // tile.keys)
    counts = [len(band.rounds(begin, rows, spec.keys, tile.keys)) for begin in range(0, spec.rows, rows)]
    return sum(counts) / len(counts)


def _cost(
    tile: AttentionTile, spec: AttentionSpec, operands: str, gpu: Gpu, tensorised: bool, band: Band | None
) -> float:
    """An estimate of the time, in cycles of a multiprocessor."""
    rows, itemsize = STEP * tile.warps, numpy_dtype(operands).itemsize
    blocks = math.prod(spec.batch) * -(-spec.rows // rows)
    resident = min(
        gpu.shared_bytes_per_multiprocessor // shared_bytes(spec, operands, tile, tensorised=tensorised),
        gpu.threads_per_multiprocessor // tile.threads,
        gpu.registers_per_multiprocessor // (registers(spec, tile, tensorised=tensorised) * tile.threads),
        -(-blocks // gpu.multiprocessors),
    )
    if resident < 1:
        return math.inf
    width = _padded(spec.inner) + _padded(spec.cols)
    fed = min(1.0, resident * tile.warps / 4)
    rate = (rate_of(gpu) if tensorised else _PLAIN_RATE) * fed
    computing = rows * tile.keys * (width / rate + 1 / (_EXPONENTIALS * fed))
    staging = tile.keys * width * itemsize / L2_BYTES
    per_round = max(resident * max(computing, staging), ROUND + computing)
    rounds, waves = mean_rounds(spec, tile, band), -(-blocks // (gpu.multiprocessors * resident))
    return waves * (rounds * per_round + 2 * ROUND)


def _padded(extent: int) -> int:
    return -(-extent // STEP) * STEP
