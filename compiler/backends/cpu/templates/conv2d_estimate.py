"""The static model that orders direct convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates import plain_rows
from edgec.compiler.backends.cpu.templates.conv2d_tiles import Geometry, Schedule, reads_vectors
from edgec.compiler.backends.cpu.templates.estimates import (
    data_is_widened,
    exchange_cycles,
    fetch_cycles,
    step_cycles,
    widening_cycles,
)
from edgec.compiler.backends.cpu.templates.loop_nests import tile_sizes
from edgec.targets.target import Target

# By squares, what a column without a partner takes beyond half a pair: its words are multiplied one by one, and the
# weights' put together anew.
SINGLE = 3
MOST_SUMS = 22  # vectors of sums of a tile of 8-bit integers
# A load takes this much of a port's time: the ports do not find work in every cycle. Measured on Cascade Lake, as are
# the other costs that no fact about a core explains.
_LOAD = 1.2
# Cycles of an instruction that multiply-adds hide: of tiles that multiply equally fast, the one with fewer comes first.
_ISSUED = 0.1
_SPILT = 0.1  # of a step's time for each vector that finds no register; measured on Zen 4


class Estimate:
    """What schedules of a convolution cost on a target. The steps of a register tile, which many share, count once."""

    def __init__(self, spec: ConvSpec, target: Target) -> None:
        operands, w = spec.operands, spec.window
        self._spec, self._target = spec, target
        self._per_group = spec.in_channels // spec.groups
        self._taps = w.kernel[0] * w.kernel[1]
        self._blocks = -(-spec.out_channels // spec.lanes)
        self._per_block = spec.lanes * operands.weight_bytes  # bytes of weights of a channel block for a tap
        self._rows_read = self._per_group * w.kernel[0] * operands.data_bytes  # bytes of one column
        self._pixel = self._per_group * operands.data_bytes
        self._out_bytes = spec.out_channels * w.out[0] * w.out[1] * operands.accumulator_bytes
        self._share = min(1.0, spec.lanes / target.fp32_lanes)  # of a register that a vector fills
        self._reads_vectors, self._widened = reads_vectors(spec), data_is_widened(operands)
        self._steps: dict[tuple[int, int, int, bool], float] = {}

    def cycles(self, schedule: Schedule, threads: int) -> float:
        """Cycles of a call: multiply-adds or loads of the tiles, bytes from outer caches, unbalanced tasks."""
        spec, target = self._spec, self._target
        geometry = Geometry.of(spec, schedule)
        groups = self._blocks // schedule.out_blocks
        image_bytes = self._pixel * geometry.in_height * geometry.in_width
        heights = tile_sizes(geometry.height, schedule.tall)
        parts = sum(down for _, down in heights)
        image = self._image(schedule, geometry, heights)
        if schedule.ic_chunk:  # each chunk of weights comes anew for each pass over the rows
            own = self._per_group * self._taps * schedule.out_blocks * self._per_block
            passes, held = (parts, own * groups) if schedule.rows_outer else (1, own)
            image += passes * fetch_cycles(target, own, held)
        if schedule.ic_chunk and not schedule.rows_outer:
            parts = 1
        moved = 0.0
        if threads > 1 and groups > 1 and not schedule.rows_outer:
            moved = exchange_cycles(
                target, spec.batch * (spec.groups * image_bytes + self._out_bytes), threads
            )
        if schedule.rows_outer and len(heights) > 1:
            bands = [size for size, count in heights for _ in range(count)]
            return image * _busiest(bands * spec.batch, groups, threads) / sum(bands) + moved
        return image / parts * -(-spec.batch * groups * parts // threads) + moved

    def _image(self, schedule: Schedule, geometry: Geometry, heights: Sequence[tuple[int, int]]) -> float:
        """Cycles of all tiles of a group of channel blocks, on one thread."""
        target, blocks = self._target, schedule.out_blocks
        steps = self._per_group * self._taps // self._spec.operands.step
        channels = schedule.ic_chunk or self._per_group
        per_channel = blocks * self._per_block
        # What passes between two uses of the same weights, and of the same input.
        groups = self._blocks // blocks if schedule.rows_outer and not schedule.ic_chunk else 1
        weights = channels * self._taps * per_channel * groups
        height = 1 if schedule.rows_outer else geometry.in_height
        reads = self._rows_read if schedule.rows_outer else self._pixel
        inputs = reads * height * geometry.in_width
        far = fetch_cycles(target, per_channel * self._spec.operands.step, weights)
        image = 0.0
        for (rows, down), (width, across) in product(heights, tile_sizes(geometry.width, schedule.width)):
            columns = rows * width
            busy = self._step(rows, width, blocks, schedule.elements)
            tile = steps * (max(busy, far) + target.core.fetch_exposed * min(busy, far))
            tile += fetch_cycles(target, self._rows_read * columns * self._spec.window.stride[1], inputs)
            tile += 30 + columns * blocks * 6 * self._share
            if schedule.ic_chunk:
                tile += columns * blocks * 3 * (-(-self._per_group // schedule.ic_chunk))
            image += tile * down * across
        return image

    def _step(self, rows: int, width: int, blocks: int, elements: bool) -> float:
        """Cycles of a step of the reduced axis in a tile whose weights are in the first cache."""
        tile = (rows, width, blocks, elements)
        known = self._steps.get(tile)
        if known is None:
            known = self._steps[tile] = self._counted(*tile)
        return known

    def _counted(self, rows: int, width: int, blocks: int, elements: bool) -> float:
        spec, target, operands = self._spec, self._target, self._spec.operands
        columns = rows * width
        read = self._reads(rows, width, elements)
        sums, moved = columns * blocks, 0.0
        if operands.squares:
            sums += rows * (width % 2) * SINGLE * blocks
            moved = rows * width / 4  # the halves of a pair of columns, put together
        busy = step_cycles(target, sums, _LOAD * (read + moved + blocks), operands=operands) + 0.3
        if elements:
            pairs = (
                2 if spec.window.stride[1] == 1 and spec.in_block else 1
            )  # neighbours are loaded by one instruction
            busy += _ISSUED * (read / pairs + blocks / 2 + 1)
        if elements and spec.in_block:
            room = target.vector_registers - target.core.spare_registers
            busy *= 1 + _SPILT * max(0, columns * (blocks + 1) + blocks - room)
        widening = widening_cycles(target, operands, columns, blocks)
        busy = (busy + widening) * _drag(spec, columns, blocks)
        if self._widened:  # even and odd elements of both, and a product, beside the sums
            busy *= 1 + _SPILT * max(0, columns * blocks + 2 * blocks + 3 - target.vector_registers)
        return busy

    def _reads(self, rows: int, width: int, elements: bool) -> float:
        """Loads of the input in a step of a tile."""
        spec, columns = self._spec, rows * width
        if elements and spec.in_block:
            return columns / spec.lanes
        if elements:
            return rows * plain_rows.vectors_of_row(spec.window, width, spec.lanes) / spec.window.kernel[1]
        if spec.operands.squares:
            return rows * (width // 4 + width % 4 / 2)
        if self._reads_vectors:
            return rows * (width // spec.lanes + width % spec.lanes)
        if spec.in_block < spec.lanes:
            return (
                columns * self._share
            )  # neighbours lie in different banks of the first cache: two are read in a cycle
        return columns


def _drag(spec: ConvSpec, columns: int, blocks: int) -> float:
    """By how much tiles are slower than counted; measured on Cascade Lake, a property of the loops.

    Wide tiles of an image that is not blocked, or whose few channels are the last axis, read short pieces far apart;
    those of many channel blocks read more weights than the first cache delivers in time.
    """
    narrow = spec.in_block == 0 or (spec.in_block < spec.lanes and spec.operands.step == 1)
    plain = 1 + 0.04 * max(0, columns - 6) if narrow else 1.0
    # Tiles of 8-bit integers are unrolled over several steps: LLVM then spills large ones (measured on Zen 4).
    spilt = 1.15 if spec.operands.step > 2 and columns * blocks > MOST_SUMS else 1.0
    return plain * (1.2 if blocks >= 8 else 1.0) * spilt


def _busiest(bands: Sequence[int], groups: int, threads: int) -> float:
    """Rows of a group of channel blocks that the busiest thread computes, where bands of rows are cut into shares."""
    share, rows = -(-len(bands) * groups // threads), [0]
    for first in range(0, len(bands) * groups, share):
        end, done = min(first + share, len(bands) * groups), 0
        for number in range(first // groups, -(-end // groups)):
            done += bands[number] * (min(end, (number + 1) * groups) - max(first, number * groups))
        rows.append(done)
    return max(rows)
