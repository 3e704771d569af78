"""Moves of channels, changes of layout, and convolutions in rows of pixels, against numpy on generated shapes."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu.layouts.packing import block_channels
from edgec.compiler.backends.cpu.specs import ChannelsSpec, PackSpec, PlanarSpec, Run, UnpackSpec
from edgec.compiler.backends.cpu.templates import channels, planar, relayouts
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE, run

FEW = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SPECIAL = np.array([np.nan, np.inf, -np.inf, 1e-42, -0.0], np.float32)


@pytest.fixture(params=RUNNABLE, scope="module")
def target(request):
    return load_target(request.param)


def images(draw, *shape):
    """Normal numbers, some of them special ones: a move has to preserve every bit."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    data = rng.standard_normal(shape).astype(np.float32)
    where = rng.random(shape) < 0.05
    data[where] = rng.choice(SPECIAL, int(where.sum()))
    return data


@st.composite
def moves(draw):
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    runs = []
    for _ in range(draw(st.integers(1, 5))):
        operand = draw(st.integers(-1, len(counts) - 1))
        if operand < 0:
            runs.append(Run(-1, 0, draw(st.integers(1, 20))))
            continue
        wrap, count = draw(st.integers(1, 4)), draw(st.integers(1, counts[operand]))
        first, step = draw(st.integers(0, counts[operand] - 1)), draw(st.integers(1, 9))
        run = Run(operand, first, count, step, wrap)
        inside = max(run.channel(k) for k in range(count)) < counts[operand]
        runs.append(run if inside else Run(operand, 0, count))
    used = sorted({run.operand for run in runs if run.operand >= 0})
    # operands in the order of their first use, as the planner gives them
    order = list(dict.fromkeys(run.operand for run in runs if run.operand >= 0))
    renumbered = [
        Run(order.index(r.operand) if r.operand >= 0 else -1, r.first, r.count, r.step, r.wrap) for r in runs
    ]
    size = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    return [counts[i] for i in order] if used else [], renumbered, (draw(st.integers(1, 2)), size)


@FEW
@given(case=moves(), data=st.data())
def test_channels_move(target, case, data):
    counts, runs, (batch, size) = case
    if not counts:
        return
    lanes = target.fp32_lanes
    fields = tuple((r.operand, r.first, r.count, r.step, r.wrap) for r in runs)
    spec = ChannelsSpec(batch, tuple(counts), size, fields, lanes)
    arrays = [images(data.draw, batch, count, *size) for count in counts]
    definition = channels.channels(spec)
    (schedule,) = channels.candidates(spec, target, 2)
    made = run(
        channels.emit(spec, split_epilogue(definition), schedule, 2),
        target,
        *[block_channels(array, lanes) for array in arrays],
    )
    parts = [
        np.zeros((batch, r.count, *size), np.float32)
        if r.operand < 0
        else arrays[r.operand][:, [r.channel(k) for k in range(r.count)]]
        for r in runs
    ]
    np.testing.assert_array_equal(made, block_channels(np.concatenate(parts, axis=1), lanes))


@FEW
@given(
    batch=st.integers(1, 2), count=st.integers(1, 37), size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    pad=st.tuples(*[st.integers(0, 3)] * 4), data=st.data(),
)  # fmt: skip
def test_layouts_change(target, batch, count, size, pad, data):
    lanes = target.fp32_lanes
    array = images(data.draw, batch, count, *size)
    blocked = block_channels(array, lanes)
    packed = PackSpec(batch, count, size, lanes)
    for schedule in relayouts.candidates(packed):
        kernel = relayouts.emit(packed, split_epilogue(relayouts.pack(packed)), schedule, 2)
        np.testing.assert_array_equal(run(kernel, target, array), blocked)
    for around in (pad, (0, 0, 0, 0)):
        spec = UnpackSpec(batch, count, size, lanes, around)
        wanted = np.pad(array, ((0, 0), (0, 0), (around[0], around[2]), (around[1], around[3])))
        for schedule in relayouts.candidates(spec):
            kernel = relayouts.emit(spec, split_epilogue(relayouts.unpack(spec)), schedule, 2)
            np.testing.assert_array_equal(run(kernel, target, blocked), wanted)


@FEW
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(*[st.integers(1, 5)] * 2), dilation=st.tuples(*[st.integers(1, 2)] * 2),
    stride=st.integers(1, 2), out=st.tuples(st.integers(1, 4), st.integers(0, 45)),
    spare=st.tuples(*[st.integers(0, 2)] * 2), seed=st.integers(0, 2**32), which=st.integers(0, 99),
)  # fmt: skip
def test_convolutions_in_rows_of_pixels(target, sizes, kernel, dilation, stride, out, spare, seed, which):
    batch, ins, outs = sizes
    rows, columns = out[0], out[1] + target.fp32_lanes
    size = (
        (rows - 1) * stride + (kernel[0] - 1) * dilation[0] + 1 + spare[0],
        columns + (kernel[1] - 1) * dilation[1] + spare[1],
    )
    spec = PlanarSpec(batch, ins, size, outs, kernel, dilation, stride, (rows, columns), target.fp32_lanes)
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((batch, ins, *size)).astype(np.float32)
    weight = rng.standard_normal((outs, ins, *kernel)).astype(np.float32)
    wanted = np.zeros((batch, outs, rows, columns))
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            y, x = ky * dilation[0], kx * dilation[1]
            part = data[:, :, y : y + rows * stride : stride, x : x + columns][:, :, :rows].astype(np.float64)
            wanted += np.einsum("nihw,oi->nohw", part, weight[:, :, ky, kx].astype(np.float64))
    found = planar.candidates(spec, target, 2)
    schedule = found[which % len(found)]
    made = run(planar.emit(spec, split_epilogue(planar.planar(spec)), schedule, 2), target, data, weight)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
