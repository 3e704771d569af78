"""Products of rounded activations and weights of 4 and 8 bits in blocks against exact sums, on generated shapes."""

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu.templates import rounded
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.timing import build
from edgec.compiler.graph.narrow_products import RoundedSpec, by_block, packed, rounded_product
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE


def _stored(rng, spec):
    """Arguments of the product, and its exact result: codes are of the whole range, many of them the extremes."""
    low, high = -(1 << spec.bits - 1), (1 << spec.bits - 1) - 1
    blocks = (spec.cols, spec.inner // spec.size)
    codes = rng.integers(low, high, (spec.cols, spec.inner), endpoint=True).astype(np.int8)
    codes[rng.random(codes.shape) < 0.2] = rng.choice([low, high])
    zeros = rng.integers(low, high, blocks, endpoint=True).astype(np.float32) * spec.zeros
    scales = rng.uniform(0, 2, blocks).astype(np.float32)
    x = rng.integers(-127, 128, (spec.rows, *blocks[1:], spec.size)).astype(np.int8)
    x[rng.random(x.shape) < 0.2] = rng.choice([-127, 127])
    factors = rng.uniform(0, 1, x.shape[:2]).astype(np.float32)
    flat = x.reshape(spec.rows, spec.inner)
    order = flat.reshape(spec.rows, -1, 4, 2).swapaxes(2, 3).reshape(flat.shape) if spec.bits == 4 else flat
    sums = x.sum(2, dtype=np.int64).astype(np.float32) * factors
    given_to = [order.copy(), factors, sums, packed(codes, spec.bits)]
    given_to += [*([by_block(zeros)] if spec.zeros else []), by_block(scales)]
    weights = (codes - zeros.repeat(spec.size, 1).astype(np.float64)) * scales.repeat(spec.size, 1)
    real = (x * factors[..., None].astype(np.float64)).reshape(spec.rows, spec.inner)
    # besides the roundings of a block's sums, the offset of the codes cancels
    most = (np.abs(real) @ (np.abs(weights) + 256 * scales.repeat(spec.size, 1)).T).max(initial=1e-3)
    return given_to, real @ weights.T, most * 2e-7 * (blocks[1] + 4)


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(RUNNABLE),
    rows=st.integers(1, 30),
    groups=st.integers(1, 4),
    size=st.sampled_from([8, 16, 32]),
    cols=st.integers(1, 150),
    bits=st.sampled_from([4, 8]),
    zeros=st.booleans(),
    pick=st.integers(0, 1000),
    threads=st.integers(1, 2),
)
def test_any_candidate_computes_the_product(name, rows, groups, size, cols, bits, zeros, pick, threads):
    target = load_target(name)
    spec = RoundedSpec(rows, groups * size, cols, bits, size, zeros)
    found = rounded.candidates(spec, target, threads)
    func = rounded.emit(spec, split_epilogue(rounded_product(spec)), found[pick % len(found)], threads)
    arguments, exact, bound = _stored(np.random.default_rng(pick), spec)
    out = tvm.runtime.tensor(np.full((rows, cols), np.nan, np.float32))
    build(func, tvm.target.Target(dict(target.tvm)))["kernel"](*map(tvm.runtime.tensor, arguments), out)
    assert np.abs(out.numpy() - exact).max() <= bound


def test_the_definition_alone_computes_the_product():
    """What targets without the template run."""
    for bits in (4, 8):
        spec = RoundedSpec(3, 64, 20, bits, 16, True)
        arguments, exact, bound = _stored(np.random.default_rng(0), spec)
        out = tvm.runtime.tensor(np.zeros((3, 20), np.float32))
        module = tvm.compile(rounded_product(spec).with_attr("global_symbol", "main"), target="llvm")
        module["main"](*map(tvm.runtime.tensor, arguments), out)
        assert np.abs(out.numpy() - exact).max() <= bound * 16
