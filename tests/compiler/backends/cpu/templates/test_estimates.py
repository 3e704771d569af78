"""The static model follows the facts of a target's core: the same facts give the same order, others another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgec.compiler.backends.cpu.dot_instructions import operands_for
from edgec.compiler.backends.cpu.specs import ConvSpec, DenseSpec, MatmulSpec, Window
from edgec.compiler.backends.cpu.templates import (
    attention,
    conv2d_candidates,
    dense,
    estimates,
    matmul,
    winograd_candidates,
)
from edgec.compiler.backends.cpu.templates.estimates import exchange_cycles
from edgec.compiler.graph.attention_spec import AttentionSpec, View
from edgec.compiler.operands.operands import BFLOAT16, FLOAT32, UINT8_INT8, Operands
from edgec.targets import Target, load_target

CASCADE_LAKE = load_target("x86-avx512-vnni")


def with_core(target: Target, **facts: float) -> Target:
    return replace(target, core=replace(target.core, **facts))


def conv(
    channels: int, outputs: int, size: int, kernel: int, stride: int = 1, operands: Operands = FLOAT32
) -> ConvSpec:
    out = (size + 2 * (kernel // 2) - kernel) // stride + 1
    window = Window((kernel,) * 2, (stride,) * 2, pad=(kernel // 2,) * 2, out=(out, out))
    lanes = CASCADE_LAKE.fp32_lanes
    in_block = lanes if channels > 3 else 0
    return ConvSpec(1, channels, (size, size), outputs, window, lanes, in_block, operands=operands)


def direct(target: Target, spec: ConvSpec) -> list[str]:
    return [str(s) for s in conv2d_candidates.candidates(spec, target, 2, flattens=True)]


# What the model answers for Cascade Lake, whose figures were once constants of its code.
@pytest.mark.parametrize(
    ("spec", "first", "estimate"),
    [
        (
            conv(3, 64, 224, 7, 2),
            [
                "direct 6x4 rows112 rows-outer",
                "direct 6x2 rows112 rows-outer",
                "direct 5x4 rows112 rows-outer",
            ],
            2373641.8,
        ),
        (
            conv(64, 64, 56, 3),
            [
                "direct 14x2 rows56 rows-outer",
                "direct 12x2 rows56 rows-outer",
                "direct 8x2 rows56 rows-outer",
            ],
            2073469.4,
        ),
        (
            conv(64, 128, 56, 3, 2),
            [
                "direct 14x2 rows28 rows-outer",
                "direct 10x2 rows28 rows-outer",
                "direct 6x4 rows28 rows-outer",
            ],
            1066840.3,
        ),
        (
            conv(512, 512, 7, 3),
            ["direct 7x2 rows7 tall2", "direct 7x2 rows7 tall2 ic448", "direct 7x2 rows7"],
            2078076.2,
        ),
        (
            conv(256, 64, 56, 1),
            [
                "direct 14x2 rows56 rows-outer",
                "direct 12x2 rows56 rows-outer",
                "direct 6x4 rows56 ic64 rows-outer",
            ],
            999703.0,
        ),
        (
            conv(32, 16, 112, 1),
            [
                "direct 28x1 rows112 rows-outer",
                "direct 8x1 rows112 rows-outer",
                "direct 6x1 rows112 rows-outer",
            ],
            171225.6,
        ),
    ],
    ids=["stem", "square", "strided", "deep", "pointwise", "wide"],
)
def test_cascade_lakes_order_of_direct_convolutions_stays(
    spec: ConvSpec, first: list[str], estimate: float
) -> None:
    found = conv2d_candidates.candidates(spec, CASCADE_LAKE, 2, flattens=True)
    assert [str(s) for s in found[:3]] == first
    assert conv2d_candidates.cost(spec, found[0], CASCADE_LAKE, 2) == pytest.approx(estimate)


def test_threads_divide_the_rows_of_an_image_rather_than_its_channels() -> None:
    """Then each finds its rows in its own cache; alone, a thread may as well keep weights while all rows pass."""
    for spec in (conv(96, 96, 28, 3), conv(192, 192, 28, 1)):
        first = conv2d_candidates.candidates(spec, CASCADE_LAKE, 2, flattens=True)[0]
        assert first.rows_outer
        assert first.rows > 1
    alone, together = (exchange_cycles(CASCADE_LAKE, 1e6, threads) for threads in (1, 2))
    assert alone == 0.0 < together


def test_cascade_lakes_order_of_other_kernels_stays() -> None:
    found = winograd_candidates.candidates(conv(128, 128, 28, 3), CASCADE_LAKE, 2)
    assert [str(s) for _, s in found[:2]] == [
        "winograd4 13x2 group4 rows7 by-channels",
        "winograd4 10x2 group4 rows7 by-channels",
    ]
    rows = dense.candidates(DenseSpec(197, 192, 576, 16), CASCADE_LAKE, 2)
    assert [str(s) for s in rows[:2]] == ["dense 12x2", "dense 9x2"]
    one = dense.candidates(DenseSpec(1, 512, 1000, 16), CASCADE_LAKE, 2)
    assert [str(s) for s in one[:2]] == ["dense 1x8", "dense 1x4 split2"]
    alone = dense.candidates(DenseSpec(1, 1280, 1000, 16), CASCADE_LAKE, 1)
    assert str(alone[0]) == "dense 1x6"
    square = matmul.candidates(MatmulSpec((12,), 128, 64, 128, 16), CASCADE_LAKE, 2)
    assert [str(s) for s in square[:2]] == ["matmul 13x2", "matmul 4x2"]
    view = View.of((12, 128, 64))
    spec = AttentionSpec((12,), 128, 128, 64, 64, 0.125, view, view, view, None, (0, 1, 2), 16)
    heads = attention.candidates(spec, CASCADE_LAKE, 2)
    assert [str(s) for s in heads[:2]] == ["attention 6x3 29x1", "attention 6x3 30x1"]


def test_the_name_and_source_of_a_core_decide_nothing() -> None:
    renamed = replace(
        CASCADE_LAKE, name="other", core=replace(CASCADE_LAKE.core, microarchitecture="x", source="y")
    )
    spec = conv(256, 256, 14, 3)
    assert direct(renamed, spec) == direct(CASCADE_LAKE, spec)


def test_half_the_bandwidth_of_the_second_cache_orders_otherwise() -> None:
    slow = with_core(CASCADE_LAKE, l2_bytes_per_cycle=CASCADE_LAKE.core.l2_bytes_per_cycle / 2)
    changed = [
        spec
        for spec in (conv(256, 256, 14, 3), conv(512, 512, 7, 3))
        if direct(slow, spec) != direct(CASCADE_LAKE, spec)
    ]
    assert changed
    for spec in changed:
        best = conv2d_candidates.candidates(spec, slow, 2, flattens=True)[0]
        assert conv2d_candidates.cost(spec, best, slow, 2) >= conv2d_candidates.cost(
            spec, best, CASCADE_LAKE, 2
        )


def test_a_core_with_one_unit_needs_half_the_sums_and_takes_twice_as_long() -> None:
    small = with_core(CASCADE_LAKE, fma_per_cycle=1.0)
    assert estimates.chains(CASCADE_LAKE) == 8
    assert estimates.chains(small) == 4
    many = {"sums": 28, "loads": 16.0}
    assert estimates.step_cycles(CASCADE_LAKE, **many) == 14
    assert estimates.step_cycles(small, **many) == 28
    few = {"sums": 2, "loads": 3.0}
    assert estimates.step_cycles(small, **few) == CASCADE_LAKE.core.fma_latency
    assert estimates.step_cycles(small, **few, split=4) == 2


def test_a_core_that_issues_one_instruction_a_cycle_is_bound_by_that() -> None:
    narrow = with_core(CASCADE_LAKE, issue_width=1)
    assert estimates.step_cycles(narrow, 14, 9.0) == 14 + 9


def test_a_dot_instruction_is_counted_by_its_own_rate_and_step() -> None:
    zen4 = load_target("zen4")
    rate = zen4.core.dots["vdpbf16ps"].per_cycle
    assert estimates.step_cycles(zen4, 28, 16.0, operands=BFLOAT16) == 28 / rate
    assert (
        estimates.step_cycles(zen4, 28, 16.0, operands=BFLOAT16.emulated) == 2 * 28 / zen4.core.fma_per_cycle
    )


def test_operands_of_half_the_size_make_the_product_cheaper() -> None:
    zen4 = load_target("zen4")
    costs = []
    for operands in (FLOAT32, BFLOAT16):
        spec = conv(256, 256, 14, 3, operands=operands)
        best = conv2d_candidates.candidates(spec, zen4, 1, flattens=True)[0]
        costs.append(conv2d_candidates.cost(spec, best, zen4, 1))
    assert costs[1] < 0.6 * costs[0]


@pytest.mark.parametrize(
    ("held", "cycles"),
    [
        (lambda t: t.l1d_bytes // 2, lambda _: 0.0),
        (lambda t: t.l2_bytes // 2, lambda t: 4096 / t.core.l2_bytes_per_cycle),
        (lambda t: t.l2_bytes * 2, lambda t: 4096 / t.core.l3_bytes_per_cycle),
    ],
    ids=["first cache", "second cache", "behind it"],
)
def test_bytes_come_from_the_cache_that_holds_them(
    held: Callable[[Target], int], cycles: Callable[[Target], float]
) -> None:
    target = load_target("rpi5")
    assert estimates.fetch_cycles(target, 4096, held(target)) == cycles(target)


def test_behind_the_second_cache_lies_memory_where_there_is_no_third() -> None:
    target = load_target("rpi4")
    assert target.l3_bytes == 0
    assert estimates.last_level_bandwidth(target) == target.core.memory_bytes_per_cycle


def test_an_in_order_core_and_a_wide_one_choose_their_own_tiles() -> None:
    small, large = load_target("cortex-a55"), load_target("cortex-a76")
    chosen = {
        target.name: str(dense.candidates(DenseSpec(1, 1280, 1000, 4), target, 1)[0])
        for target in (small, large)
    }
    assert chosen["cortex-a55"] != chosen["rpi5"]


def test_tiles_of_8_bit_integers_share_what_they_widen() -> None:
    target = load_target("x86-64-v3")  # no dot instruction, sixteen registers
    operands = operands_for(UINT8_INT8, target)
    for size, channels, kernel in ((56, 64, 3), (14, 256, 3), (14, 384, 1)):
        window = Window((kernel, kernel), pad=(kernel // 2, kernel // 2), out=(size, size))
        spec = ConvSpec(1, channels, (size, size), 64, window, 8, 8, 1, False, "int32", operands)
        first = conv2d_candidates.candidates(spec, target, 1, flattens=True)[0]
        assert first.out_blocks > 1, "columns alone widen the weights of one block for each"
        assert first.width * first.tall * first.out_blocks + 2 * first.out_blocks <= target.vector_registers


@pytest.mark.parametrize(("rows", "busiest"), [([2, 2, 2, 1], 4 / 7), ([2, 2], 1 / 2), ([3, 2, 2], 4 / 7)])
def test_the_thread_with_the_tallest_bands_is_waited_for(rows: list[int], busiest: float) -> None:
    size = sum(rows)
    spec = replace(conv(192, 1152, size, 1), in_block=16)
    tall = conv2d_candidates.Schedule(size, 2, size, tall=rows[0], rows_outer=True)
    alone, shared = (conv2d_candidates.cost(spec, tall, CASCADE_LAKE, threads) for threads in (1, 2))
    assert shared / alone == pytest.approx(busiest, rel=1e-6)


def test_a_first_layer_takes_the_same_tile_whichever_way_its_channels_lie() -> None:
    planar = conv(3, 32, 224, 3, 2)
    assert direct(CASCADE_LAKE, replace(planar, in_block=3))[0] == direct(CASCADE_LAKE, planar)[0]


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "zen4", "rpi4"])  # registers: width and number
@pytest.mark.parametrize(("kernel", "stride"), [((1, 256), 128), ((11, 11), 4), ((64, 3), 1)])
def test_every_convolution_has_a_candidate(target: str, kernel: tuple[int, int], stride: int) -> None:
    """Whatever fits into registers: a row of a Fourier transform's kernel does not."""
    there = load_target(target)
    lanes = there.fp32_lanes
    for in_channels, in_block in ((1, 0), (3, 0), (2 * lanes, lanes)):
        for dilation in (1, 3):
            window = Window(kernel, (1, stride), (1, dilation), (0, 0), (4, 9))
            spec = ConvSpec(1, in_channels, (900, 2000), 10 * lanes, window, lanes, in_block)
            assert conv2d_candidates.candidates(spec, there, 1, flattens=False)


def test_loads_that_multiply_adds_do_not_hide_favour_tiles_with_fewer_of_them() -> None:
    """On a core that waits for its loads, the tile comes first that loads least for each multiply-add."""
    hidden, exposed = (with_core(load_target("cortex-a53"), loads_exposed=share) for share in (0.0, 1.0))
    for sums, loads in ((14, 3.75), (14, 4.5)):
        assert estimates.step_cycles(exposed, sums, loads) == pytest.approx(
            estimates.step_cycles(hidden, sums, loads) + loads / hidden.core.loads_per_cycle
        )


def test_a_target_that_spares_registers_takes_smaller_tiles() -> None:
    """LLVM's order of instructions for some cores needs registers beside a tile's, and moves sums to the stack else."""
    spec = replace(conv(64, 64, 56, 3), lanes=4, in_block=4)
    used = {}
    for spare in (0, 4):
        target = replace(
            load_target("cortex-a53"), core=replace(load_target("rpi4").core, spare_registers=spare)
        )
        first = conv2d_candidates.candidates(spec, target, 1, flattens=True)[0]
        columns = first.width * first.tall
        used[spare] = columns * (first.out_blocks + 1) + first.out_blocks
    assert used[4] <= 28 < used[0]
