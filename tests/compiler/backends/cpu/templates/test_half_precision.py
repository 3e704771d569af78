"""Kernels in half precision against numpy.

On x86-64 LLVM computes halves as float32 and rounds, which it takes long to compile: generated shapes are for
long runs.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.layouts.packing import block_channels, pack_conv, pack_dense, pack_depthwise
from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.backends.cpu.specs import ConvSpec, DenseSpec, PoolSpec, Window
from edgec.compiler.backends.cpu.templates import (
    conv2d,
    conv2d_candidates,
    dense,
    sliding,
    winograd,
    winograd_candidates,
)
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.templates.winograd import ERROR_OF_HALVES
from edgec.compiler.operands.operands import FLOAT16
from edgec.compiler.options import ERROR_BUDGET
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import run
from tests.compiler.backends.cpu.templates.test_templates import sizes, unblock, windows, windows_of

FEW = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LANES = 8  # of a vector of NEON


@pytest.fixture(params=["x86-64-v3", "aarch64"], scope="module")
def target(request):
    target = load_target(request.param)
    if not runs_here(target):
        pytest.skip(f"hardware: this machine cannot run {target.name}")
    return target


def halves(rng, shape):
    return rng.standard_normal(shape).astype(np.float16)


def close(made, wanted, products):
    """Within what sums of `products` products may lose: some roundings, each of half a unit of 2**-10."""
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(
        made, wanted, rtol=0, atol=2.0**-10 * scale * (1 + min(products, 64) ** 0.5 / 2)
    )


@pytest.mark.long
@FEW
@given(data=st.data())
def test_direct_convolution(target, data):
    size, batch = data.draw(sizes), data.draw(st.integers(1, 2))
    window = data.draw(windows(size))
    groups = data.draw(st.sampled_from([1, 1, 2]))
    step = LANES if groups > 1 else 1
    ic = data.draw(st.integers(1, 90 // step)) * step * groups
    oc = data.draw(st.integers(1, 40 // step)) * step * groups
    plain = groups == 1 and data.draw(st.booleans())
    spec = ConvSpec(batch, ic, size, oc, window, LANES, 0 if plain else LANES, groups, operands=FLOAT16)
    found = conv2d_candidates.candidates(spec, load_target("rpi5"), 2, flattens=True)
    schedule = found[data.draw(st.integers(0, len(found) - 1))]
    rng = np.random.default_rng(0)
    image, weight = halves(rng, (batch, ic, *size)), halves(rng, (oc, ic // groups, *window.kernel))
    kernel = conv2d.emit(spec, split_epilogue(compute.conv2d(spec)), schedule, 2)
    operand = image if plain else block_channels(image, LANES)
    made = run(kernel, target, operand, pack_conv(weight, LANES, spec.chunk))
    seen = windows_of(image, window, 0.0).reshape(batch, groups, ic // groups, *window.out, *window.kernel)
    shaped = weight.astype(np.float64).reshape(groups, oc // groups, ic // groups, *window.kernel)
    wanted = np.einsum("ngcyxij,gocij->ngoyx", seen, shaped, optimize=True).reshape(batch, oc, *window.out)
    close(unblock(made, oc), wanted, ic // groups * np.prod(window.kernel))


@pytest.mark.long
@FEW
@given(data=st.data())
def test_depthwise_convolution(target, data):
    size, channels = data.draw(sizes), data.draw(st.integers(1, 20))
    window = data.draw(windows(size))
    spec = ConvSpec(1, channels, size, channels, window, LANES, LANES, channels, True, "float16")
    schedule = data.draw(st.sampled_from(sliding.candidates(spec, load_target("rpi5"), 2)))
    rng = np.random.default_rng(0)
    image, weight = halves(rng, (1, channels, *size)), halves(rng, (channels, 1, *window.kernel))
    kernel = sliding.emit(spec, split_epilogue(compute.depthwise(spec)), schedule, 2)
    made = run(kernel, target, block_channels(image, LANES), pack_depthwise(weight, LANES))
    wanted = np.einsum("ncyxij,cij->ncyx", windows_of(image, window, 0.0), weight[:, 0].astype(np.float64))
    close(unblock(made, channels), wanted, np.prod(window.kernel))


@pytest.mark.long
@FEW
@given(data=st.data())
def test_dense(target, data):
    rows, cols = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 70))
    inner = data.draw(st.integers(1, 700))
    spec = DenseSpec(rows, inner, cols, LANES, operands=FLOAT16)
    found = dense.candidates(spec, load_target("rpi5"), 2)
    assume(found)
    rng = np.random.default_rng(0)
    left, weight = halves(rng, (rows, inner)), halves(rng, (inner, cols))
    schedule = data.draw(st.sampled_from(found))
    kernel = dense.emit(spec, split_epilogue(compute.dense(spec)), schedule, 2)
    made = run(kernel, target, left, pack_dense(weight, LANES))
    close(made, left.astype(np.float64) @ weight.astype(np.float64), inner)


@pytest.mark.long
@FEW
@given(data=st.data())
def test_maximum_pool(target, data):
    size = data.draw(sizes)
    window = data.draw(windows(size))
    spec = PoolSpec("max", 1, 2, size, window, LANES, "float16")
    image = halves(np.random.default_rng(0), (1, 16, *size))
    schedule = data.draw(st.sampled_from(sliding.candidates(spec, load_target("rpi5"), 2)))
    made = run(
        sliding.emit(spec, split_epilogue(compute.pool(spec)), schedule, 2),
        target,
        block_channels(image, LANES),
    )
    np.testing.assert_array_equal(unblock(made, 16), windows_of(image, window, -np.inf).max(axis=(-2, -1)))


def test_a_convolution_in_chunks_and_its_borders(target):
    """40 channels of 3×3: five chunks, the first and last column without some taps."""
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (2, 3))
    spec = ConvSpec(1, 40, (2, 3), LANES, window, LANES, LANES, operands=FLOAT16)
    schedule = conv2d_candidates.candidates(spec, load_target("rpi5"), 1, flattens=True)[0]
    rng = np.random.default_rng(0)
    image, weight = halves(rng, (1, 40, 2, 3)), halves(rng, (LANES, 40, 3, 3))
    kernel = conv2d.emit(spec, split_epilogue(compute.conv2d(spec)), schedule, 1)
    made = run(kernel, target, block_channels(image, LANES), pack_conv(weight, LANES, spec.chunk))
    wanted = np.einsum("ncyxij,ocij->noyx", windows_of(image, window, 0.0), weight.astype(np.float64))
    close(unblock(made, LANES), wanted, 360)


@pytest.mark.parametrize("channels", [24, 68])
def test_winograd(target, channels):
    """One chunk of channels, and several with a part of a block left over."""
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (7, 15))
    spec = ConvSpec(1, channels, (7, 15), LANES, window, LANES, LANES, operands=FLOAT16)
    schedule = winograd_candidates.candidates(spec, load_target("rpi5"), 1, ERROR_BUDGET["fp16"])[0][1]
    rng = np.random.default_rng(0)
    image, weight = halves(rng, (1, channels, 7, 15)), halves(rng, (LANES, channels, 3, 3))
    kernel = winograd.emit(spec, split_epilogue(compute.conv2d(spec)), schedule, 1)
    made = run(kernel, target, block_channels(image, LANES), pack_conv(weight, LANES, spec.chunk))
    wanted = np.einsum("ncyxij,ocij->noyx", windows_of(image, window, 0.0), weight.astype(np.float64))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(unblock(made, LANES), wanted, rtol=0, atol=1.5 * ERROR_OF_HALVES[2] * scale)


def test_long_sums_keep_what_short_ones_have(target):
    """2304 equal products: in half precision alone the sum stops growing at 2048 times the smallest step."""
    spec = DenseSpec(1, 2304, LANES, LANES, operands=FLOAT16)
    schedule = dense.candidates(spec, load_target("rpi5"), 1)[0]
    kernel = dense.emit(spec, split_epilogue(compute.dense(spec)), schedule, 1)
    left, weight = np.ones((1, 2304), np.float16), np.ones((2304, LANES), np.float16)
    np.testing.assert_array_equal(run(kernel, target, left, pack_dense(weight, LANES)), 2304.0)
