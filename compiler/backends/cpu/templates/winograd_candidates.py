"""Which Winograd schedules are worth timing, and the static model that orders them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgec.compiler.backends.cpu.specs import ConvSpec, WinogradSpec
from edgec.compiler.backends.cpu.templates.conv2d_candidates import multiplies_by_element
from edgec.compiler.backends.cpu.templates.estimates import (
    l2_cycles,
    l2_overflow,
    last_level_bandwidth,
    step_cycles,
    vector_cycles,
)
from edgec.compiler.backends.cpu.templates.half_sums import COLUMNS_BY_ELEMENT, in_halves
from edgec.compiler.backends.cpu.templates.winograd import ERROR, ERROR_OF_HALVES, applies
from edgec.compiler.backends.cpu.templates.winograd_tiles import Schedule
from edgec.compiler.backends.cpu.templates.winograd_transforms import tile_size
from edgec.compiler.operands.operands import FLOAT32, Operands, in_pairs
from edgec.targets.target import Target

# Operations on vectors (sums, loads and stores alike) that transform a tile of inputs, of weights, of products.
_TRANSFORM = {2: (140, 100, 120), 4: (380, 260, 340), 6: (900, 0, 850)}
# The following were measured on Cascade Lake and are properties of the loops, not of the core.
_SLOWER = {
    2: 1.4,
    4: 1.25,
    6: 1.25,
}  # how much longer the whole takes than the sum of its parts as they are counted here
_LOAD = 1.2  # a load takes this much of a port's time: the ports do not find work in every cycle
_ISSUED = 0.1  # cycles of a load that multiply-adds hide, where nothing has been measured
_SCATTERED = 0.6  # of the bandwidth behind the second cache, for matrices that are read a part at a time


@dataclass(frozen=True)
class _Sizes:
    """A convolution in vectors and tiles."""

    in_channels: int
    in_blocks: int
    out_blocks: int
    rows: int
    columns: int
    batch: int
    lanes: int

    @staticmethod
    def of(spec: ConvSpec, m: int) -> _Sizes:
        """The sizes for tiles of `m`×`m`."""
        blocks = [-(-channels // spec.lanes) for channels in (spec.in_channels, spec.out_channels)]
        rows, columns = (-(-size // m) for size in spec.window.out)
        return _Sizes(spec.in_channels, blocks[0], blocks[1], rows, columns, spec.batch, spec.lanes)


# A layer may spend this share of the model's error budget: errors of layers add up.
LAYER_SHARE = 0.1
HALVES_SHARE = (
    0.5  # of halves: every layer rounds its results to them anyway, and such errors are independent
)


def candidates(
    spec: ConvSpec, target: Target, threads: int, error_budget: float = 1e-3
) -> list[tuple[float, Schedule]]:
    """Schedules with their estimated cycles, best first; none where Winograd does not pay."""
    if not applies(spec) or spec.in_channels < 8 or spec.out_channels < 8:
        return []
    if spec.window.out[0] * spec.window.out[1] * spec.batch < 36:
        return []  # fewer than some ten tiles: transforming the weights costs more than it saves
    half = in_halves(spec.operands)
    errors, share = (ERROR_OF_HALVES, HALVES_SHARE) if half else (ERROR, LAYER_SHARE)
    tiles = [m for m, error in errors.items() if error <= share * error_budget and _TRANSFORM[m][1]]
    found = {s for m in tiles for s in _enumerate(spec, m, target, threads)}
    estimated = [(cost(spec, s, target, threads), s) for s in found]
    return sorted(estimated, key=lambda pair: (pair[0], str(pair[1])))


def within(error_budget: float) -> list[int]:
    """The sizes of tiles whose error in fp32 a layer may have, where the weights come transformed."""
    return [m for m, error in ERROR.items() if error <= LAYER_SHARE * error_budget]


def stored_candidates(spec: WinogradSpec, target: Target, threads: int) -> list[tuple[float, Schedule]]:
    """Schedules for weights that come transformed with their estimated cycles, best first."""
    conv = spec.conv
    found = {s for s in _enumerate(conv, spec.m, target, threads) if not s.ic_chunk}
    estimated = [(stored_cost(conv, s, target, threads), s) for s in found]
    return sorted(estimated, key=lambda pair: (pair[0], str(pair[1])))


def stored_cost(spec: ConvSpec, schedule: Schedule, target: Target, threads: int) -> float:
    """Estimated cycles of a call whose weights come transformed, from memory."""
    sizes = _Sizes.of(spec, schedule.m)
    vectors = tile_size(schedule.m) ** 2 * sizes.in_channels * sizes.out_blocks
    weights = vectors * sizes.lanes * _multiplied(spec).weight_bytes
    counted = _SLOWER[schedule.m] * _parts(spec, schedule, target, threads, transformed=True)
    return beside_memory(target, counted, weights)


def beside_memory(target: Target, cycles: float, moved: float) -> float:
    """Cycles of a kernel that computes for `cycles` while `moved` bytes come from memory."""
    waiting = moved / target.core.memory_bytes_per_cycle
    return max(cycles, waiting) + 0.3 * min(cycles, waiting)


def _multiplied(spec: ConvSpec) -> Operands:
    """What the kernel multiplies after the transforms."""
    return in_pairs(spec.operands) or spec.operands


def _enumerate(spec: ConvSpec, m: int, target: Target, threads: int) -> Iterator[Schedule]:
    sizes = _Sizes.of(spec, m)
    for rows in (d for d in range(1, sizes.rows + 1) if sizes.rows % d == 0):
        count = rows * sizes.columns
        scratch = tile_size(m) ** 2 * count * sizes.in_blocks * sizes.lanes * _multiplied(spec).data_bytes
        elements = multiplies_by_element(spec, target)
        most = COLUMNS_BY_ELEMENT if elements and in_halves(spec.operands) else count
        for blocks, tiles in _register_tiles(
            sizes.out_blocks, count, target.vector_registers, elements, most
        ):
            for group in (blocks, blocks * 2):
                if sizes.out_blocks % group:
                    continue
                if scratch <= target.l2_bytes:
                    yield Schedule(m, tiles, blocks, group, rows, False, elements=elements)
                if sizes.batch * (sizes.rows // rows) * scratch > max(
                    4 * target.l2_bytes, target.l3_bytes // 2
                ):
                    continue
                yield Schedule(m, tiles, blocks, group, rows, True, elements=elements)
                if (
                    rows == sizes.rows
                    and sizes.batch == 1
                    and group == blocks
                    and not in_halves(spec.operands)
                ):
                    for chunk in (2 * sizes.lanes, 4 * sizes.lanes):
                        if chunk < spec.in_channels:
                            yield Schedule(m, tiles, blocks, group, rows, True, chunk, elements)


def _register_tiles(
    out_blocks: int, count: int, registers: int, elements: bool, at_most: int
) -> Iterator[tuple[int, int]]:
    """(channel blocks, tiles) of a register tile: room is left for the weights and one broadcast value.

    Where elements of vectors multiply, there is room for the weights of a channel and a vector for each tile.
    """
    for blocks in (1, 2, 3, 4):
        if out_blocks % blocks:
            continue
        spare = 1 if blocks == 1 else blocks + 1
        fitting = (registers - blocks) // (blocks + 1) if elements else (registers - spare) // blocks
        most = min(fitting, count, at_most)
        for pieces in {-(-count // most), -(-count // most) + 1}:
            tiles = -(-count // pieces)
            if tiles * blocks >= 4:
                yield blocks, tiles


def cost(spec: ConvSpec, schedule: Schedule, target: Target, threads: int) -> float:
    """Estimated cycles of a call."""
    return _SLOWER[schedule.m] * _parts(spec, schedule, target, threads)


def _parts(
    spec: ConvSpec, schedule: Schedule, target: Target, threads: int, *, transformed: bool = False
) -> float:
    """The cycles of all parts of a call, in sequence; weights that come transformed are not."""
    sizes, s = _Sizes.of(spec, schedule.m), schedule
    multiplied = _multiplied(spec)
    matrices, vector = tile_size(s.m) ** 2, sizes.lanes * multiplied.data_bytes
    count = s.rows * sizes.columns
    blocks = sizes.batch * (sizes.rows // s.rows)
    load, weigh, store = (vector_cycles(target, operations) for operations in _TRANSFORM[s.m])
    stream = last_level_bandwidth(target)
    scattered = _SCATTERED * stream

    # Weights that do not stay in the first cache come from the second one for every tile.
    far_weights = 0.1
    if sizes.in_channels * s.out_blocks * vector * 2 > target.l1d_bytes:
        far_weights = l2_cycles(target, 0.5)

    def tile(size: int) -> float:
        loads = size / sizes.lanes + s.out_blocks if s.elements else size + s.out_blocks
        step = step_cycles(
            target,
            size * s.out_blocks,
            _LOAD * loads,
            operands=multiplied if multiplied.step > 1 else FLOAT32,
        )
        if s.elements:  # of tiles that multiply equally fast, the one with fewer instructions
            step += _ISSUED * loads
        return step + far_weights * s.out_blocks

    whole, rest = divmod(count, s.tiles)
    sums = (whole * tile(s.tiles) + (tile(rest) if rest else 0)) * matrices / s.out_blocks
    sums *= sizes.in_channels / multiplied.step
    sums += matrices * count * 2  # the sums to and from memory
    per_block = count * store + sums
    inputs = count * sizes.in_blocks * load
    weights_size = matrices * sizes.in_channels * vector
    inputs_size = matrices * count * sizes.in_blocks * vector
    weights = 0.0 if transformed else sizes.in_channels * weigh
    if not s.by_channels:
        far = sizes.out_blocks * weights_size / scattered
        far *= sizes.out_blocks * weights_size + inputs_size > target.l2_bytes
        if transformed:  # `beside_memory` counts the first reading
            far *= 1 - 1 / blocks
        task = sizes.out_blocks * per_block + inputs + far
        return weights * sizes.out_blocks / threads + -(-blocks // threads) * task
    held = weights_size * s.group * (s.ic_chunk or sizes.in_channels) / sizes.in_channels
    again = blocks * inputs_size / scattered
    again *= inputs_size * blocks + held + matrices * count * s.group * vector > target.l2_bytes
    task = s.group * (weights + blocks * per_block) + again
    products = matrices * count * s.group * vector
    task += 2 * blocks * l2_overflow(target, products) / stream
    if not s.ic_chunk and not transformed:
        task += 2 * l2_overflow(target, held) / stream
    task += s.group * matrices * count * 2 * (sizes.in_channels // s.ic_chunk if s.ic_chunk else 0)
    groups = sizes.out_blocks // s.group
    shared = inputs * blocks + l2_overflow(target, inputs_size * blocks) / stream
    return shared / threads + -(-groups // threads) * task
