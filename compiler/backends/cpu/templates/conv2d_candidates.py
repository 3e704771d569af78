"""Which direct convolutions are worth timing, in the order of their estimates."""

from __future__ import annotations

from dataclasses import replace

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates import plain_rows
from edgec.compiler.backends.cpu.templates.conv2d_estimate import Estimate
from edgec.compiler.backends.cpu.templates.conv2d_tiles import Schedule
from edgec.compiler.backends.cpu.templates.estimates import temporaries
from edgec.compiler.backends.cpu.templates.half_sums import COLUMNS_BY_ELEMENT, in_halves
from edgec.compiler.backends.cpu.templates.loop_nests import tile_sizes
from edgec.targets.target import Target


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
    estimate = Estimate(spec, target)
    found = _schedules(spec, target, flattens=flattens)
    ranked = sorted(found, key=lambda s: (estimate.cycles(s, threads), str(s)))
    # Schedules that split the loops around the same tile differently are nearly as fast: the best of each tile first.
    tiles_seen: set[tuple[int, int, int]] = set()
    first: list[Schedule] = []
    others: list[Schedule] = []
    for s in ranked:
        tile = (s.width * s.tall, s.out_blocks, s.ic_chunk)
        (others if tile in tiles_seen else first).append(s)
        tiles_seen.add(tile)
    return first + others


def cost(spec: ConvSpec, schedule: Schedule, target: Target, threads: int) -> float:
    """Estimated cycles of a call of one schedule."""
    return Estimate(spec, target).cycles(schedule, threads)


def least_cost(spec: ConvSpec, target: Target, threads: int, *, flattens: bool) -> float:
    """Estimated cycles of a call of the first of `candidates`, without ranking the others."""
    estimate = Estimate(spec, target)
    return min(estimate.cycles(s, threads) for s in _schedules(spec, target, flattens=flattens))


def _schedules(spec: ConvSpec, target: Target, *, flattens: bool) -> set[Schedule]:
    """The schedules worth an estimate."""
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
    return set(found)


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
