"""The templates against numpy on generated shapes: odd sizes, partial blocks, strides, dilations, groups, batches."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.layouts.packing import block_channels, pack_conv, pack_depthwise
from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.backends.cpu.specs import ConvSpec, DenseSpec, PoolSpec, Window
from edgec.compiler.backends.cpu.templates import conv2d, conv2d_candidates, dense, sliding
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import run

TARGETS = ["x86-64-v2", "x86-64-v3", "x86-64-v4"]
FEW = settings(max_examples=14, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(params=TARGETS, scope="module")
def target(request):
    target = load_target(request.param)
    if not runs_here(target):
        pytest.skip(f"hardware: this machine cannot run {target.name}")
    return target


def windows_of(data, window, fill):
    """`[n, c, out_height, out_width, kernel_height, kernel_width]` of an NCHW array."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    oh, ow = window.out
    need_h = (oh - 1) * sh + (kh - 1) * dh + 1
    need_w = (ow - 1) * sw + (kw - 1) * dw + 1
    top, left = window.pad
    n, c, h, w = data.shape
    padded = np.full((n, c, max(need_h, h + top), max(need_w, w + left)), fill, np.float64)
    padded[:, :, top : top + h, left : left + w] = data
    spans = sliding_window_view(padded, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(2, 3))
    return spans[:, :, :need_h:sh, :need_w:sw, ::dh, ::dw][:, :, :oh, :ow]


@st.composite
def windows(draw, size, largest=5):
    """A window that fits into an image of `size`, with padding on every side."""
    kernel, stride, dilation, pad, out = [], [], [], [], []
    for extent in size:
        k, s, d = draw(st.integers(1, largest)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        k = min(k, extent)
        before, after = draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))
        span = (k - 1) * d + 1
        if span > extent + before + after:
            d, span = 1, k
        kernel.append(k)
        stride.append(s)
        dilation.append(d)
        pad.append(before)
        out.append((extent + before + after - span) // s + 1)
    return Window(tuple(kernel), tuple(stride), tuple(dilation), tuple(pad), tuple(out))


sizes = st.tuples(st.integers(1, 17), st.integers(1, 33))


def unblock(array, channels):
    n, b, h, w, v = array.shape
    return array.transpose(0, 1, 4, 2, 3).reshape(n, b * v, h, w)[:, :channels]


def close(made, wanted):
    np.testing.assert_allclose(
        made, wanted, rtol=0, atol=2e-5 * max(1.0, float(np.abs(wanted).max(initial=0)))
    )


@FEW
@given(data=st.data())
def test_direct_convolution(target, data):
    convolve(target, data, data.draw(sizes))


@FEW
@given(data=st.data())
def test_convolution_of_a_narrow_image_by_tiles_of_several_rows(target, data):
    convolve(target, data, data.draw(st.tuples(st.integers(2, 11), st.integers(1, 7))), tall=True)


@settings(FEW, max_examples=6)
@given(data=st.data())
def test_convolution_by_parts_of_the_input_channels(target, data):
    """Partial sums in memory: of all rows, or of the row of a task."""
    convolve(target, data, data.draw(st.tuples(st.integers(1, 9), st.integers(1, 19))), chunked=True)


def convolve(target, data, size, *, tall=False, chunked=False):
    """Any convolution of an image, by any schedule, beside numpy."""
    lanes, batch = target.fp32_lanes, data.draw(st.integers(1, 2))
    window = data.draw(windows(size, 3 if chunked else 5))
    groups = data.draw(st.sampled_from([1, 1, 1, 2]))
    step = lanes if groups > 1 else 1
    ic = data.draw(st.integers(1, 40 // step)) * step * groups
    oc = data.draw(st.integers(1, 40 // step)) * step * groups
    plain = groups == 1 and not chunked and data.draw(st.booleans())
    if chunked:
        ic = (
            groups * lanes * data.draw(st.integers(2, 5))
            if groups > 1
            else data.draw(st.integers(lanes + 1, 70))
        )
    last = plain and data.draw(st.booleans())  # the channels are the last axis: one block of all of them
    spec = ConvSpec(batch, ic, size, oc, window, lanes, ic if last else 0 if plain else lanes, groups)
    found = conv2d_candidates.candidates(spec, target, 2, flattens=True)
    found = [schedule for schedule in found if schedule.tall > 1 or not tall]
    assume(found)
    schedule = found[data.draw(st.integers(0, len(found) - 1))]
    if chunked:
        outer = schedule.tall == 1 and schedule.rows > 1 and data.draw(st.booleans())
        schedule = replace(schedule, ic_chunk=lanes, rows_outer=outer)
    schedule = replace(schedule, elements=data.draw(st.booleans()))
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, ic, *size)).astype(np.float32)
    weight = rng.standard_normal((oc, ic // groups, *window.kernel)).astype(np.float32)
    kernel = conv2d.emit(spec, split_epilogue(compute.conv2d(spec)), schedule, 2)
    operand = image if plain else block_channels(image, lanes)
    operand = np.ascontiguousarray(image.transpose(0, 2, 3, 1))[:, None] if last else operand
    made = run(kernel, target, operand, pack_conv(weight, lanes, spec.chunk))
    seen = windows_of(image, window, 0.0).reshape(batch, groups, ic // groups, *window.out, *window.kernel)
    shaped = weight.reshape(groups, oc // groups, ic // groups, *window.kernel)
    wanted = np.einsum("ngcyxij,gocij->ngoyx", seen, shaped, optimize=True).reshape(batch, oc, *window.out)
    close(unblock(made, oc), wanted)


@FEW
@given(data=st.data())
def test_depthwise_convolution(target, data):
    lanes = target.fp32_lanes
    size, channels = data.draw(sizes), data.draw(st.integers(1, 40))
    window = data.draw(windows(size))
    spec = ConvSpec(1, channels, size, channels, window, lanes, lanes, channels, True)
    schedule = data.draw(st.sampled_from(sliding.candidates(spec, target, 2)))
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, channels, *size)).astype(np.float32)
    weight = rng.standard_normal((channels, 1, *window.kernel)).astype(np.float32)
    kernel = sliding.emit(spec, split_epilogue(compute.depthwise(spec)), schedule, 2)
    made = run(kernel, target, block_channels(image, lanes), pack_depthwise(weight, lanes))
    wanted = np.einsum("ncyxij,cij->ncyx", windows_of(image, window, 0.0), weight[:, 0])
    close(unblock(made, channels), wanted)


@FEW
@given(data=st.data(), kind=st.sampled_from(["max", "sum", "avg", "avg_valid"]))
def test_pooling(target, data, kind):
    lanes = target.fp32_lanes
    size, channels = data.draw(sizes), data.draw(st.integers(1, 40))
    window = data.draw(windows(size))
    if kind in ("avg", "avg_valid"):  # averages have no dilation
        window = data.draw(windows(size).filter(lambda w: w.dilation == (1, 1)))
    spec = PoolSpec(kind, 1, -(-channels // lanes), size, window, lanes)
    schedule = data.draw(st.sampled_from(sliding.candidates(spec, target, 2)))
    image = np.random.default_rng(0).standard_normal((1, channels, *size)).astype(np.float32)
    kernel = sliding.emit(spec, split_epilogue(compute.pool(spec)), schedule, 2)
    made = unblock(run(kernel, target, block_channels(image, lanes)), channels)
    lowest = float(np.finfo(np.float32).min)
    seen = windows_of(image, window, lowest if kind == "max" else 0.0)
    if kind == "max":
        wanted = seen.max(axis=(4, 5))
    else:
        ones = windows_of(np.ones_like(image), window, 0.0).sum(axis=(4, 5))
        count = {"sum": 1.0, "avg": window.kernel[0] * window.kernel[1], "avg_valid": ones}[kind]
        # A window that lies in the padding altogether has no mean.
        made, total = np.where(ones > 0, made, 0), seen.sum(axis=(4, 5))
        wanted = np.where(ones > 0, total / np.maximum(count, 1), 0)
    close(made, wanted)


@pytest.mark.parametrize("size", [(80, 80), (5, 11), (1, 9), (33, 12)])
@pytest.mark.parametrize("kind", ["sum", "avg"])
def test_a_mean_over_a_whole_image_keeps_its_digits(target, size, kind):
    """One register that takes 6400 positive numbers in turn is off by 2e-5 of the sum."""
    lanes, channels = target.fp32_lanes, 20
    spec = PoolSpec(kind, 1, -(-channels // lanes), size, Window(kernel=size, out=(1, 1)), lanes)
    image = np.abs(np.random.default_rng(0).standard_normal((1, channels, *size))).astype(np.float32)
    exact = image.astype(np.float64).sum(axis=(2, 3), keepdims=True) / (1 if kind == "sum" else np.prod(size))
    for schedule in sliding.candidates(spec, target, 2):
        kernel = sliding.emit(spec, split_epilogue(compute.pool(spec)), schedule, 2)
        made = unblock(run(kernel, target, block_channels(image, lanes)), channels)
        assert (np.abs(made - exact) / exact).max() < 1e-6


@FEW
@given(data=st.data())
def test_dense(target, data):
    lanes = target.fp32_lanes
    rows, inner, cols = (data.draw(st.integers(1, n)) for n in (20, 50, 70))
    spec = DenseSpec(rows, inner, cols, lanes)
    schedule = data.draw(st.sampled_from(dense.candidates(spec, target, 2)))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inner)).astype(np.float32)
    weight = rng.standard_normal((inner, cols)).astype(np.float32)
    blocks = -(-cols // lanes)
    packed = np.zeros((inner, blocks * lanes), np.float32)
    packed[:, :cols] = weight
    packed = np.ascontiguousarray(packed.reshape(inner, blocks, lanes).transpose(1, 0, 2))
    kernel = dense.emit(spec, split_epilogue(compute.dense(spec)), schedule, 2)
    close(run(kernel, target, x, packed), x.astype(np.float64) @ weight)


@pytest.mark.parametrize("name", [*TARGETS, "rpi4", "rpi5"])
def test_every_convolution_has_candidates(name):
    target = load_target(name)
    for channels, size, kernel in [(3, 224, 7), (16, 1, 1), (17, 5, 3), (2048, 7, 1)]:
        window = Window((kernel, kernel), pad=(kernel // 2,) * 2, out=(size, size))
        spec = ConvSpec(1, channels, (size, size), 24, window, target.fp32_lanes, target.fp32_lanes)
        for threads in (1, 4):
            assert conv2d_candidates.candidates(spec, target, threads, flattens=True)
