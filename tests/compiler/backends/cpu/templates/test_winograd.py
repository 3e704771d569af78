"""Winograd kernels against a convolution in double precision, on generated shapes, for both vector widths."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.layouts.packing import pack_conv
from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.backends.cpu.specs import ConvSpec, Window
from edgec.compiler.backends.cpu.templates import winograd, winograd_transforms
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.templates.winograd_candidates import candidates
from edgec.compiler.backends.cpu.timing import build
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE

TARGETS = ["x86-64-v3", "x86-64-v4"]


def make_spec(target, channels=(16, 32), size=(12, 12), pad=(1, 1), batch=1):
    out = (size[0] + 2 * pad[0] - 2, size[1] + 2 * pad[1] - 2)
    lanes = target.fp32_lanes
    return ConvSpec(batch, channels[0], size, channels[1], Window((3, 3), pad=pad, out=out), lanes, lanes)


def operands(spec, seed=0):
    rng = np.random.default_rng(seed)
    data = np.maximum(rng.standard_normal((spec.batch, spec.in_channels, *spec.in_size)), 0)
    weight = rng.standard_normal((spec.out_channels, spec.in_channels, 3, 3)) / np.sqrt(9 * spec.in_channels)
    return data.astype(np.float32), weight.astype(np.float32)


def block(array, lanes, fill):
    """NCHW to blocked; the lanes beyond the last channel hold `fill`."""
    n, c, h, w = array.shape
    padded = np.full((n, -(-c // lanes) * lanes, h, w), fill, np.float32)
    padded[:, :c] = array
    return np.ascontiguousarray(padded.reshape(n, -1, lanes, h, w).transpose(0, 1, 3, 4, 2))


def reference(spec, data, weight):
    pad = spec.window.pad
    padded = np.pad(data.astype(np.float64), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def run(spec, schedule, target, data, weight, threads=2):
    func = winograd.emit(spec, split_epilogue(compute.conv2d(spec)), schedule, threads)
    module = build(func, tvm.target.Target(dict(target.tvm)))
    # Nothing may read the lanes beyond the last channel into a result: they hold NaN.
    packed = pack_conv(weight, spec.lanes, spec.chunk)
    shape = (spec.batch, -(-spec.out_channels // spec.lanes), *spec.window.out, spec.lanes)
    made = [block(data, spec.lanes, np.nan), packed, np.full(shape, np.nan, np.float32)]
    tensors = [tvm.runtime.tensor(array) for array in made]
    module["kernel"](*tensors)
    out = tensors[-1].numpy().transpose(0, 1, 4, 2, 3)
    return out.reshape(spec.batch, -1, *spec.window.out)[:, : spec.out_channels]


def relative_error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.fixture(params=TARGETS)
def target(request):
    made = load_target(request.param)
    if not runs_here(made):
        pytest.skip(f"hardware: this machine cannot run {request.param}")
    return made


@pytest.mark.parametrize("m", [2, 4, 6])
def test_the_matrices_make_a_correlation(m):
    """Aᵀ[(G g) ⊙ (Bᵀ d)] is the sliding product of d and g, exactly but for rounding in double precision."""
    rng = np.random.default_rng(m)
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    a, b = winograd_transforms.output_matrix(m), winograd_transforms.input_matrix(m)
    got = a @ ((winograd_transforms.weight_matrix(m) @ g) * (b @ d))
    np.testing.assert_allclose(got, np.correlate(d, g, "valid"), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(
    name=st.sampled_from(RUNNABLE),
    channels=st.tuples(st.integers(8, 70), st.integers(8, 70)),
    size=st.tuples(st.integers(3, 23), st.integers(3, 23)),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    batch=st.integers(1, 2),
    pick=st.integers(0, 10_000),
    threads=st.integers(1, 3),
    elements=st.booleans(),
)
def test_any_candidate_computes_the_convolution(name, channels, size, pad, batch, pick, threads, elements):
    target = load_target(name)
    spec = make_spec(target, channels, size, pad, batch)
    found = candidates(spec, target, threads)
    assume(found)
    schedule = replace(found[pick % len(found)][1], elements=elements)
    data, weight = operands(spec, pick)
    got = run(spec, schedule, target, data, weight, threads)
    assert relative_error(got, reference(spec, data, weight)) < winograd.ERROR[schedule.m], schedule


@pytest.mark.parametrize("m", [2, 4])
def test_the_stated_error_holds_with_many_channels(target, m):
    spec = make_spec(target, (512, 32), (14, 14))
    schedule = next(s for _, s in candidates(spec, target, 2) if s.m == m)
    data, weight = operands(spec)
    got = run(spec, schedule, target, data, weight)
    assert relative_error(got, reference(spec, data, weight)) < winograd.ERROR[m]


def test_a_small_error_budget_leaves_no_large_tiles(target):
    spec = make_spec(target, (64, 64), (28, 28))
    assert {s.m for _, s in candidates(spec, target, 1, 1e-3)} == {2, 4}
    assert {s.m for _, s in candidates(spec, target, 1, 2e-5)} == {2}
    assert not candidates(spec, target, 1, 1e-7)


@pytest.mark.parametrize(
    "window",
    [
        Window((3, 3), stride=(2, 2), pad=(1, 1), out=(14, 14)),
        Window((3, 3), dilation=(2, 2), pad=(2, 2), out=(28, 28)),
        Window((5, 5), pad=(2, 2), out=(28, 28)),
        Window((1, 1), out=(28, 28)),
    ],
)
def test_other_convolutions_are_left_to_the_direct_template(target, window):
    lanes = target.fp32_lanes
    assert not candidates(ConvSpec(1, 64, (28, 28), 64, window, lanes, lanes), target, 1)
