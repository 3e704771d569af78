"""A depthwise convolution and the 1×1 convolution behind it as one kernel: the bits of two kernels, for any shape."""

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.layouts.packing import block_channels, pack_conv, pack_depthwise
from edgec.compiler.backends.cpu.specs import ConvSpec, SeparableSpec, Window, decode, encode
from edgec.compiler.backends.cpu.templates import conv2d, conv2d_candidates, separable, sliding
from edgec.compiler.backends.cpu.templates.convolution import flattens
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue, split_epilogues
from edgec.compiler.graph.fusion import fuse
from edgec.compiler.graph.rewrite import constant
from edgec.compiler.graph.zero_products import legalisations
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE, run
from tests.compiler.backends.cpu.templates.test_templates import windows


@st.composite
def separables(draw, lanes):
    """Odd images, windows, channels and batches."""
    size = draw(st.tuples(st.integers(1, 17), st.integers(1, 21)))
    window, batch = draw(windows(size)), draw(st.integers(1, 2))
    channels, made = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    depthwise = ConvSpec(batch, channels, size, channels, window, lanes, lanes, channels, depthwise=True)
    plain = Window((1, 1), out=window.out)
    return SeparableSpec(depthwise, ConvSpec(batch, channels, window.out, made, plain, lanes, lanes))


def module(spec, arrays, *, residual):
    """`relu(depthwise + bias)`, then the 1×1 convolution with a bias, and a residual sum, as fusion gets it."""
    builder = relax.BlockBuilder()
    first, second = compute.depthwise(spec.depthwise), compute.conv2d(spec.pointwise)
    x, other = (
        relax.Var(name, relax.TensorType(array.shape, "float32"))
        for name, array in zip(("x", "other"), arrays[:2], strict=True)
    )
    dw, dw_bias, pw, pw_bias = (constant(array) for array in arrays[2:])

    def call(kernel, name, *args):
        out = kernel.params[-1].ty
        shape = relax.TensorType([int(d) for d in out.shape], "float32")
        return builder.emit(relax.call_tir(builder.add_func(kernel, name), list(args), out_ty=shape))

    with builder.function("main", [x, other]):
        with builder.dataflow():
            middle = builder.emit(relax.op.add(call(first, "depthwise", x, dw), dw_bias))
            middle = builder.emit(relax.op.nn.relu(middle))
            made = builder.emit(relax.op.add(call(second, "conv2d", middle, pw), pw_bias))
            made = builder.emit(relax.op.add(made, other)) if residual else made
            made = builder.emit_output(made)
        builder.emit_func_output(made)
    passes = [relax.transform.LegalizeOps(legalisations()), relax.transform.AnnotateTIROpPattern()]
    return tvm.transform.Sequential(passes)(builder.finalize())


def kernels(mod, **options):
    """The kernels of a module after fusion, in the order of their calls, and what they are."""
    fused, calls = fuse(mod, **options)
    bindings = [b for block in fused["main"].body.blocks for b in block.bindings]
    return [fused[b.value.args[0]] for b in bindings if isinstance(b.value, tvm.ir.Call)], calls


@pytest.mark.parametrize("name", RUNNABLE)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_kernel_computes_the_bits_of_two(name, data):
    target = load_target(name)
    spec, residual = data.draw(separables(target.fp32_lanes)), data.draw(st.booleans())
    same_bits(target, spec, residual=residual, pick=lambda found: data.draw(st.integers(0, len(found) - 1)))


def test_bands_of_an_image_of_one_column():
    """What the 1×1 convolution adds there has no column that could be a pixel's number."""
    target = load_target(RUNNABLE[-1])
    lanes, window = target.fp32_lanes, Window((4, 1), pad=(1, 0), out=(9, 1))
    depthwise = ConvSpec(1, 34, (8, 1), 34, window, lanes, lanes, 34, depthwise=True)
    pointwise = ConvSpec(1, 34, (9, 1), 2, Window((1, 1), out=(9, 1)), lanes, lanes)
    spec = SeparableSpec(depthwise, pointwise)
    same_bits(target, spec, residual=True, pick=lambda found: [s.rows for s in found].index(2))


def same_bits(target, spec, *, residual, pick):
    """One kernel, by the schedule that `pick` gives the place of, beside two."""
    lanes, first, second = target.fp32_lanes, spec.depthwise, spec.pointwise
    rng = np.random.default_rng(0)

    def blocked(batch, channels, size=(1, 1)):
        return block_channels(rng.standard_normal((batch, channels, *size)).astype(np.float32), lanes)

    weight = rng.standard_normal((first.in_channels, 1, *first.window.kernel)).astype(np.float32)
    matrix = rng.standard_normal((second.out_channels, second.in_channels, 1, 1)).astype(np.float32)
    x = blocked(first.batch, first.in_channels, first.in_size)
    other = blocked(second.batch, second.out_channels, second.window.out)
    dw_bias, pw_bias = blocked(1, first.in_channels), blocked(1, second.out_channels)
    dw, pw = pack_depthwise(weight, lanes), pack_conv(matrix, lanes, second.chunk)
    mod = module(spec, [x, other, dw, dw_bias, pw, pw_bias], residual=residual)
    with tvm.target.Target(dict(target.tvm)):
        (one, two), _ = kernels(mod)
        (both,), (called,) = kernels(
            mod, joined=lambda *anchors: encode(SeparableSpec(*map(decode, anchors)))
        )
    assert decode(called.anchor) == spec
    last, epilogue = [other] if residual else [], split_epilogue(two)
    width = sliding.candidates(first, target, 1)[0]
    tiles = conv2d_candidates.candidates(second, target, 1, flattens=flattens(epilogue))[0]
    middle = run(sliding.emit(first, split_epilogue(one), width, 1), target, x, dw, dw_bias)
    wanted = run(conv2d.emit(second, epilogue, tiles, 1), target, middle, pw, pw_bias, *last)
    epilogues = split_epilogues(both)
    found = separable.candidates(spec, target, 2, flat=flattens(epilogues[1]))
    kernel = separable.emit(spec, epilogues, found[pick(found)], 2)
    np.testing.assert_array_equal(run(kernel, target, x, dw, dw_bias, pw, pw_bias, *last), wanted)
