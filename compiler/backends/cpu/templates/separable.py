"""A depthwise convolution and the 1×1 convolution behind it as one kernel.

A task is a band of rows: the depthwise convolution writes all channels of it into memory that stays in the first
cache, and the 1×1 convolution reads them there. So the tensor between the two is never written as a whole, and threads
wait for each other once instead of twice. Both compute what their own templates compute, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx import IfThenElse, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import ConvSpec, SeparableSpec, decode, encode
from edgec.compiler.backends.cpu.templates import conv2d, conv2d_candidates, sliding
from edgec.compiler.backends.cpu.templates.conv2d_tiles import Schedule as Tiles
from edgec.compiler.backends.cpu.templates.convolution import flattens
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue, PlacedEpilogue, split_epilogues
from edgec.compiler.backends.cpu.templates.estimates import (
    fetch_cycles,
    in_vectors,
    step_cycles,
    stream_cycles,
)
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Expr,
    Index,
    const,
    index,
    loop,
    parallel,
    tile_sizes,
)
from edgec.compiler.backends.cpu.templates.template import PARALLEL_FLOPS, Choice, Request, Template
from edgec.compiler.operands.operands import FLOAT32
from edgec.targets.target import Target

VERSION = 1
HEIGHTS = (1, 2, 3, 4, 6, 8, 12, 16)  # rows of a band that are worth timing, beside equal shares of an image
SHARES = (1, 2, 3, 4)  # bands a thread
TILES = 3  # tiles of the 1×1 convolution that are worth timing with each band
WIDTHS = 2
BAND = 100.0  # cycles of a band beside its sums
# Cycles until all threads have begun the next kernel: assumed, as launches were not timed alone. On two threads of a
# Zen 4 four launches fewer, and what else one kernel saves, took 11 microseconds from ds-cnn.
WAIT = 4000.0
# Of layers that are estimated to be a little slower as one kernel, none was measured to be, on two cores of a Zen 4.
TOLERANCE = 1.05
# With fewer, tiles are so small that weights beyond the first cache are fetched in vain for each band: MobileNetV2 took
# 4 % longer in AVX2 on a Zen 4.
MANY_REGISTERS = 32


@dataclass(frozen=True)
class Schedule:
    """A candidate: rows of a band, columns of a tile of the depthwise convolution, tiles of the 1×1 convolution."""

    rows: int
    width: int
    tiles: Tiles

    def __str__(self) -> str:
        return f"separable rows{self.rows} sliding {self.width}, {self.tiles}"


def band(spec: ConvSpec, rows: int) -> ConvSpec:
    """The 1×1 convolution of a band of rows."""
    size = (rows, spec.in_size[1])
    return replace(spec, batch=1, in_size=size, window=replace(spec.window, out=size))


def emit(
    spec: SeparableSpec, epilogues: tuple[Epilogue, Epilogue], schedule: Schedule, threads: int
) -> PrimFunc:
    """The kernel for `schedule`."""
    return _Separable(spec, epilogues, schedule).build(threads)


class _Separable:
    def __init__(self, spec: SeparableSpec, epilogues: tuple[Epilogue, Epilogue], schedule: Schedule) -> None:
        self.first, self.second = epilogues
        self.spec, self.schedule = spec, schedule
        self.rows, self.columns = spec.depthwise.window.out
        self.lanes = spec.depthwise.lanes
        self.blocks = -(-spec.depthwise.in_channels // self.lanes)

    def build(self, threads: int) -> PrimFunc:
        sizes = tile_sizes(self.rows, self.schedule.rows)
        count = sum(down for _, down in sizes)

        def task(n: Expr, number: Expr) -> Stmt:
            (larger, down), *rest = sizes
            made = self._band(n, number * const(larger), larger)
            if not rest:
                return made
            smaller = rest[0][0]
            top = const(down * larger) + (number - const(down)) * const(smaller)
            return IfThenElse(number < const(down), made, self._band(n, top, smaller))

        body = parallel([self.spec.depthwise.batch, count], task, threads)
        return self.second.build(body)

    def _band(self, n: Expr, top: Expr, rows: int) -> Stmt:
        """`rows` rows of the result from row `top` on."""
        shape = (1, self.blocks, rows, self.columns, self.lanes)
        between = tirx.decl_buffer(shape, "float32", "between", scope="global", data_alignment=64)

        def place(at: Sequence[Index]) -> list[Index]:
            return [const(0), at[1], index(at[2]) - top, *at[3:]]

        def position(at: Sequence[Index]) -> list[Index]:
            if self.schedule.tiles.flat:
                return [n, at[1], at[2], top * const(self.columns) + at[3], at[4]]
            return [n, at[1], top + at[2], *at[3:]]

        into = PlacedEpilogue.of(self.first, between, place=place)
        out = PlacedEpilogue.of(self.second, self.second.output, position=position)
        out = replace(out, inputs=(between, self.second.inputs[1]))
        part, tiles = band(self.spec.pointwise, rows), self.schedule.tiles

        def channels(b: Expr) -> Stmt:
            return loop(
                rows,
                lambda y: sliding.emit_row(self.spec.depthwise, into, self.schedule.width, (n, b, top + y)),
                "y",
            )

        groups = -(-part.out_channels // part.lanes) // tiles.out_blocks
        down = 1 if tiles.flat else -(-rows // tiles.tall)

        def outputs(b: Expr) -> Stmt:
            return loop(down, lambda y: conv2d.emit_row(part, out, tiles, (const(0), b, y)), "y")

        return tirx.SeqStmt(
            [tirx.AllocBuffer(between), loop(self.blocks, channels, "b"), loop(groups, outputs, "b")]
        )


def candidates(spec: SeparableSpec, target: Target, threads: int, *, flat: bool) -> list[Schedule]:
    """The schedules worth timing, best guess first."""
    found: list[tuple[float, Schedule]] = []
    rows = spec.depthwise.window.out[0]
    heights = {rows, *HEIGHTS, *(-(-rows // (threads * k)) for k in SHARES)}
    widths = list(dict.fromkeys(s.width for s in sliding.candidates(spec.depthwise, target, threads)))
    for height in {tile_sizes(rows, h)[0][0] for h in heights if h <= rows}:
        part = band(spec.pointwise, height)
        tiles = [
            t
            for t in conv2d_candidates.candidates(part, target, 1, flattens=flat)
            if not t.ic_chunk and not t.rows_outer and (t.rows == 1 or not t.flat)
        ]
        found += [
            (_cost(spec, height, t, target, threads), Schedule(height, width, t))
            for t in tiles[:TILES]
            for width in widths[:WIDTHS]
        ]
    # A stable order: of one band and tile, the columns that promise most come first.
    return [schedule for _, schedule in sorted(found, key=lambda pair: pair[0])]


def _cost(spec: SeparableSpec, rows: int, tiles: Tiles, target: Target, threads: int) -> float:
    """Estimated cycles of a call."""
    sizes = tile_sizes(spec.depthwise.window.out[0], rows)
    bands = [size for size, count in sizes for _ in range(count)] * spec.depthwise.batch
    share = -(-len(bands) // threads)
    busiest = max(sum(bands[at : at + share]) for at in range(0, len(bands), share)) / rows
    part = band(spec.pointwise, rows)
    held = 4 * part.in_channels * rows * part.in_size[1]
    between = 2 * fetch_cycles(target, held, held)
    first = sliding_cycles(spec.depthwise, target) * rows / spec.depthwise.window.out[0]
    return busiest * (first + conv2d_candidates.cost(part, tiles, target, 1) + between + BAND)


def sliding_cycles(spec: ConvSpec, target: Target) -> float:
    """Estimated cycles of the sums of one image of a depthwise convolution on one thread, in the first cache."""
    taps, (rows, columns) = spec.window.kernel[0] * spec.window.kernel[1], spec.window.out
    blocks = -(-spec.in_channels // spec.lanes)
    width = min(columns, 8)
    vectors = rows * columns * blocks / width
    return vectors * (taps * step_cycles(target, width, width + 1) + 2 * width)


def _separate_cost(spec: SeparableSpec, target: Target, threads: int) -> float:
    """Estimated cycles of two kernels."""
    first, second = spec.depthwise, spec.pointwise
    (rows, columns), blocks = first.window.out, -(-first.in_channels // first.lanes)
    tasks = first.batch * rows * blocks
    share = -(-tasks // threads) / (rows * blocks)
    if first.flops < PARALLEL_FLOPS:
        share, tasks = first.batch, 1
    written = 4 * first.batch * blocks * first.lanes * rows * columns / threads
    waits = WAIT if threads > 1 and tasks > 1 else 0
    return (
        sliding_cycles(first, target) * share
        + stream_cycles(target, written)
        + conv2d_candidates.least_cost(second, target, threads, flattens=True)
        + waits
    )


def separable_of(first: str, second: str, target: Target, threads: int) -> str | None:
    """The specification of one kernel for a depthwise convolution and the 1×1 convolution that alone reads it.

    None where the two are something else, and where two kernels are estimated to be as fast.
    """
    depthwise, pointwise = decode(first), decode(second)
    if not isinstance(depthwise, ConvSpec) or not isinstance(pointwise, ConvSpec) or not depthwise.depthwise:
        return None
    w = pointwise.window
    plain = (w.kernel, w.stride, w.pad, w.out) == ((1, 1), (1, 1), (0, 0), pointwise.in_size)
    blocked = depthwise.lanes == pointwise.lanes == pointwise.in_block and pointwise.groups == 1
    floats = {depthwise.dtype, pointwise.dtype} == {"float32"}
    multiplied = depthwise.operands == pointwise.operands == FLOAT32
    if not (plain and blocked and floats and multiplied) or pointwise.depthwise:
        return None
    weights = 4 * pointwise.in_channels * pointwise.out_channels
    if target.vector_registers < MANY_REGISTERS and weights > target.l1d_bytes:
        return None
    spec = SeparableSpec(depthwise, pointwise)
    narrow = in_vectors(target, depthwise.lanes)
    best = candidates(spec, narrow, threads, flat=True)[0]
    one, two = _cost(spec, best.rows, best.tiles, narrow, threads), _separate_cost(spec, narrow, threads)
    if one > TOLERANCE * two:
        return None
    return encode(spec)


def choose(spec: SeparableSpec, request: Request) -> Choice | None:
    """Bands of different heights."""
    epilogues = split_epilogues(request.func)
    if epilogues is None:
        return None
    target, threads = in_vectors(request.target, spec.depthwise.lanes), request.threads
    found = candidates(spec, target, threads, flat=flattens(epilogues[1]))
    return Choice(VERSION, found, lambda schedule: emit(spec, epilogues, schedule, threads))


TEMPLATE = Template(
    "separable", (VERSION,), lambda spec: isinstance(spec, SeparableSpec), choose, takes_epilogue=False
)
