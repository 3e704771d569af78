"""Which direct convolutions are worth timing, and the static model that orders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates import plain_rows
from edgec.compiler.backends.cpu.templates.conv2d_tiles import Geometry, Schedule, reads_vectors
from edgec.compiler.backends.cpu.templates.estimates import (
    data_is_widened,
    exchange_cycles,
    fetch_cycles,
    step_cycles,
    temporaries,
    widening_cycles,
)
from edgec.compiler.backends.cpu.templates.half_sums import COLUMNS_BY_ELEMENT, in_halves
from edgec.compiler.backends.cpu.templates.loop_nests import tile_sizes
from edgec.targets.target import Target

# By squares, what a column without a partner takes beyond half a pair: its words are multiplied one by one, and the
# weights' put together anew.
SINGLE = 3
MOST_SUMS = 22  # vectors of sums of a tile of 8-bit integers


def _divisors(value: int, at_most: int) -> list[int]:
    return [d for d in range(1, at_most + 1) if value % d == 0]


def candidates(spec: ConvSpec, target: Target, threads: int, *, flattens: bool) -> list[Schedule]:
    """The schedules worth timing, best guess first.

    Args:
        spec: the convolution.
        target: its registers and caches bound the tiles.
        threads: that will run it.
        flattens: whether the epilogue lets height and width be seen as one axis.
    """
    group_blocks = -(-spec.out_channels // spec.lanes) // spec.groups
    found: list[Schedule] = []
    elements = multiplies_by_element(spec, target)
    for flat, rows, length in _shapes(spec, flattens):
        for out_blocks in _divisors(group_blocks, 8):
            # Besides the accumulators, the weights of a step and a broadcast input stay in registers, or, where
            # elements of vectors multiply, a vector for each column.
            spare = 1 + temporaries(spec.operands)
            weights = out_blocks * spec.operands.depth // spec.operands.step
            budget = (target.vector_registers - spare - weights) // out_blocks
            if elements:
                spare = out_blocks + (spec.window.kernel == (1, 1))
                budget = (target.vector_registers - spare) // (out_blocks + 1)
                budget = min(budget, COLUMNS_BY_ELEMENT) if in_halves(spec.operands) else budget
            if elements and not spec.in_block:
                budget = plain_rows.widest(spec.window, out_blocks, spec.lanes, target.vector_registers)
            if budget < 1:
                continue
            widths = {
                tile_sizes(length, w)[0][0]
                for w in (budget, budget - 1, budget - 2, 8, 6, 4)
                if 0 < w <= budget
            }
            for width in sorted(widths):
                base = Schedule(
                    width,
                    out_blocks,
                    rows,
                    flat,
                    ahead=_prefetches(spec, target, out_blocks),
                    elements=elements,
                    apart=_keeps_apart(spec, target),
                )
                found.append(base)
                found += _variants(spec, base, target)
            for width, tall in _talls(budget, length, rows) if not flat else ():
                base = Schedule(
                    width, out_blocks, rows, tall=tall, elements=elements, apart=_keeps_apart(spec, target)
                )
                found += [base, *_variants(spec, base, target)]
    ranked = sorted(set(found), key=lambda s: (cost(spec, s, target, threads), str(s)))
    # Schedules that split the loops around the same tile differently are nearly as fast: the best of each tile first.
    tiles_seen: set[tuple[int, int, int]] = set()
    first: list[Schedule] = []
    others: list[Schedule] = []
    for s in ranked:
        tile = (s.width * s.tall, s.out_blocks, s.ic_chunk)
        (others if tile in tiles_seen else first).append(s)
        tiles_seen.add(tile)
    return first + others


def multiplies_by_element(spec: ConvSpec, target: Target) -> bool:
    """Whether tiles load whole vectors of input channels and multiply by their elements.

    Of an image that is not blocked, the vectors are neighbouring pixels of a channel. That takes a quarter of the loads
    of the input, and no element of a later channel waits in a register for its turn: on 64-bit ARM LLVM loaded two
    channels at once, and moved accumulators to the stack for them.
    """
    plain = spec.operands.step == 1 and spec.operands.instruction is None and spec.dtype == "float32"
    lanes = target.fp32_lanes * 4 // spec.operands.data_bytes
    if target.arch != "aarch64" or not plain or spec.lanes != lanes:
        return False
    if spec.in_block:
        return spec.in_block == lanes
    # a row of a long kernel, as of a Fourier transform, does not fit into the registers
    fits = plain_rows.widest(spec.window, 1, spec.lanes, target.vector_registers) > 0
    return spec.groups == 1 and spec.window.kernel[1] > 1 and fits


def _talls(budget: int, width: int, height: int) -> list[tuple[int, int]]:
    """Columns and rows of the register tile beside those of one row: of images that are so narrow that a row leaves
    half the registers idle, or that cut it badly (seven columns into tiles of at most six).

    Then weights are read for fewer tiles, from caches that bound such layers: their weights are many.
    """
    most = budget // width
    if height < 2:
        return []
    if most >= 2:
        return [
            (width, tall)
            for tall in sorted({tile_sizes(height, t)[0][0] for t in (most, most - 1, 2) if t > 1})
        ]
    half = budget // 2
    return [(tile_sizes(width, half)[0][0], 2)] if half > 1 and budget < width < 2 * budget else []


def _prefetches(spec: ConvSpec, target: Target, out_blocks: int) -> bool:
    """Whether tiles prefetch the input of the next one.

    Measured to gain up to 8 % with 16 registers, and to cost up to 10 % with 32 (wider tiles leave the hardware
    prefetchers time enough) or with one block of channels (those are bound by loads).
    """
    plain = spec.operands.step == 1 and spec.in_block == spec.lanes
    return plain and target.vector_registers <= 16 and out_blocks > 1


def _keeps_apart(spec: ConvSpec, target: Target) -> bool:
    """Whether taps read their inputs anew, on an image of few channels.

    LLVM unrolls its few channels, keeps the inputs that neighbouring taps share in registers, and with 16 of them moves
    accumulators to the stack for that.
    """
    plain = spec.in_block < spec.lanes and spec.operands.step == 1 and spec.window.kernel[1] > 1
    return plain and target.arch == "x86_64" and target.vector_registers <= 16


def _variants(spec: ConvSpec, base: Schedule, target: Target) -> list[Schedule]:
    """The same tile with another order of the loops around it."""
    made = []
    per_group = spec.in_channels // spec.groups
    taps = spec.window.kernel[0] * spec.window.kernel[1]
    if base.rows > 1:
        made.append(replace(base, rows_outer=True))
    per_channel = taps * base.out_blocks * spec.lanes * spec.operands.weight_bytes
    outgrown = per_group * per_channel > target.l1d_bytes and per_group > spec.lanes
    if outgrown and not in_halves(spec.operands):  # their chunks are those of the sums
        # A chunk of the weights that stays in the first cache, or half of the second one, while all rows pass.
        for cache in (target.l1d_bytes // 2, target.l2_bytes // 2):
            together = max(spec.lanes, spec.operands.depth)
            channels = cache // per_channel // together * together
            if together <= channels < per_group:
                made.append(replace(base, ic_chunk=channels))
                if base.rows > 1 and base.tall == 1:
                    made.append(replace(base, ic_chunk=channels, rows_outer=True))
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


# A load takes this much of a port's time: the ports do not find work in every cycle. Measured on Cascade Lake, as are
# the other costs that no fact about a core explains.
_LOAD = 1.2
# Cycles of an instruction that multiply-adds hide: of tiles that multiply equally fast, the one with fewer comes first.
_ISSUED = 0.1
_SPILT = 0.1  # of a step's time for each vector that finds no register; measured on Zen 4


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


def cost(spec: ConvSpec, schedule: Schedule, target: Target, threads: int) -> float:
    """Estimated cycles of a call: multiply-adds or loads of the tiles, bytes from outer caches, unbalanced tasks."""
    geometry, operands = Geometry.of(spec, schedule), spec.operands
    blocks, w = schedule.out_blocks, spec.window
    per_group = spec.in_channels // spec.groups
    taps = w.kernel[0] * w.kernel[1]
    groups = -(-spec.out_channels // spec.lanes) // blocks
    steps = per_group * taps // operands.step
    channels = schedule.ic_chunk or per_group
    per_channel = blocks * spec.lanes * operands.weight_bytes  # bytes of weights for a tap
    # What passes between two uses of the same weights, and of the same input.
    weights = channels * taps * per_channel * (groups if schedule.rows_outer and not schedule.ic_chunk else 1)
    rows_read = per_group * w.kernel[0] * operands.data_bytes  # of one column
    image_bytes = per_group * geometry.in_height * geometry.in_width * operands.data_bytes
    inputs = rows_read * geometry.in_width if schedule.rows_outer else image_bytes
    far = fetch_cycles(target, per_channel * operands.step, weights)
    image, share = 0.0, min(1.0, spec.lanes / target.fp32_lanes)  # of a register that a vector fills
    heights = tile_sizes(geometry.height, schedule.tall)
    parts = sum(down for _, down in heights)
    for (rows, down), (width, across) in product(heights, tile_sizes(geometry.width, schedule.width)):
        columns = rows * width
        read: float = columns
        if schedule.elements and spec.in_block:
            read = columns / spec.lanes
        elif schedule.elements:
            read = rows * plain_rows.vectors_of_row(w, width, spec.lanes) / w.kernel[1]
        elif operands.squares:
            read = rows * (width // 4 + width % 4 / 2)
        elif reads_vectors(spec):
            read = rows * (width // spec.lanes + width % spec.lanes)
        elif spec.in_block < spec.lanes:
            read *= share  # neighbours lie in different banks of the first cache: two are read in a cycle
        sums, moved = columns * blocks, 0.0
        if operands.squares:
            sums += rows * (width % 2) * SINGLE * blocks
            moved = rows * width / 4  # the halves of a pair of columns, put together
        busy = step_cycles(target, sums, _LOAD * (read + moved + blocks), operands=operands) + 0.3
        if schedule.elements:
            pairs = 2 if w.stride[1] == 1 and spec.in_block else 1  # neighbours are loaded by one instruction
            busy += _ISSUED * (read / pairs + blocks / 2 + 1)
        if schedule.elements and spec.in_block:
            room = target.vector_registers - target.core.spare_registers
            busy *= 1 + _SPILT * max(0, columns * (blocks + 1) + blocks - room)
        widening = widening_cycles(target, operands, columns, blocks)
        busy = (busy + widening) * _drag(spec, columns, blocks)
        if data_is_widened(operands):  # even and odd elements of both, and a product, beside the sums
            busy *= 1 + _SPILT * max(0, columns * blocks + 2 * blocks + 3 - target.vector_registers)
        tile = steps * (max(busy, far) + target.core.fetch_exposed * min(busy, far))
        tile += fetch_cycles(target, rows_read * columns * w.stride[1], inputs)
        tile += 30 + columns * blocks * 6 * share
        if schedule.ic_chunk:
            tile += columns * blocks * 3 * (-(-per_group // schedule.ic_chunk))
        image += tile * down * across
    if schedule.ic_chunk:  # each chunk of weights comes anew for each pass over the rows
        own = per_group * taps * per_channel
        passes, held = (parts, own * groups) if schedule.rows_outer else (1, own)
        image += passes * fetch_cycles(target, own, held)
    if schedule.ic_chunk and not schedule.rows_outer:
        parts = 1
    moved = 0.0
    if threads > 1 and groups > 1 and not schedule.rows_outer:
        out_bytes = spec.out_channels * spec.window.out[0] * spec.window.out[1] * operands.accumulator_bytes
        moved = exchange_cycles(target, spec.batch * (spec.groups * image_bytes + out_bytes), threads)
    if schedule.rows_outer and len(heights) > 1:
        bands = [size for size, count in heights for _ in range(count)]
        return image * _busiest(bands * spec.batch, groups, threads) / sum(bands) + moved
    return image / parts * -(-spec.batch * groups * parts // threads) + moved


def _busiest(bands: Sequence[int], groups: int, threads: int) -> float:
    """Rows of a group of channel blocks that the busiest thread computes, where bands of rows are cut into shares."""
    share, rows = -(-len(bands) * groups // threads), [0]
    for first in range(0, len(bands) * groups, share):
        end, done = min(first + share, len(bands) * groups), 0
        for number in range(first // groups, -(-end // groups)):
            done += bands[number] * (min(end, (number + 1) * groups) - max(first, number * groups))
        rows.append(done)
    return max(rows)
