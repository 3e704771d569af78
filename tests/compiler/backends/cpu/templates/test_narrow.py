"""Products with weights of 4 and 8 bits in blocks against double precision, on generated shapes and vectors."""

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu.templates import narrow
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.timing import build
from edgec.compiler.graph.narrow_products import NarrowSpec, by_block, narrow_product, packed
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE


def _drawn(rng, spec):
    """Codes over the whole range, zero points and scales `[cols, …]`."""
    low, high = -(1 << spec.bits - 1), (1 << spec.bits - 1) - 1
    codes = rng.integers(low, high, (spec.cols, spec.inner), endpoint=True).astype(np.int8)
    codes[rng.random(codes.shape) < 0.1] = low
    blocks = (spec.cols, spec.inner // spec.size)
    zeros = rng.integers(low, high, blocks, endpoint=True).astype(np.float32)
    return (
        codes,
        zeros if spec.zeros else np.zeros(blocks, np.float32),
        rng.uniform(0, 2, blocks).astype(np.float32),
    )


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(RUNNABLE),
    rows=st.integers(1, 30),
    groups=st.integers(1, 4),
    size=st.sampled_from([8, 16, 32]),
    cols=st.integers(1, 90),
    bits=st.sampled_from([4, 8]),
    zeros=st.booleans(),
    pick=st.integers(0, 1000),
    threads=st.integers(1, 2),
)
def test_any_candidate_computes_the_product(name, rows, groups, size, cols, bits, zeros, pick, threads):
    target = load_target(name)
    spec = NarrowSpec(rows, groups * size, cols, bits, size, zeros)
    found = narrow.candidates(spec, target, threads)
    func = narrow.emit(spec, split_epilogue(narrow_product(spec)), found[pick % len(found)], threads)
    rng = np.random.default_rng(pick)
    codes, points, scales = _drawn(rng, spec)
    x = rng.standard_normal((rows, spec.inner)).astype(np.float32)
    out = tvm.runtime.tensor(np.full((rows, cols), np.nan, np.float32))
    stored = [packed(codes, bits), *([by_block(points)] if zeros else []), by_block(scales)]
    module = build(func, tvm.target.Target(dict(target.tvm)))
    module["kernel"](*map(tvm.runtime.tensor, (x, *stored)), out)
    real = (codes - points.repeat(size, 1).astype(np.float64)) * scales.repeat(size, 1)
    # Each sum of `inner` products may be off by that many roundings.
    bound = 1.2e-7 * (spec.inner + 3) * (np.abs(x).astype(np.float64) @ np.abs(real).T)
    assert np.all(np.abs(out.numpy() - x.astype(np.float64) @ real.T) <= bound)


def test_the_definition_alone_computes_the_product():
    """What targets without the template run."""
    spec = NarrowSpec(3, 32, 20, 4, 16, True)
    rng = np.random.default_rng(0)
    codes, points, scales = _drawn(rng, spec)
    x = rng.standard_normal((3, 32)).astype(np.float32)
    out = tvm.runtime.tensor(np.zeros((3, 20), np.float32))
    module = tvm.compile(narrow_product(spec).with_attr("global_symbol", "main"), target="llvm")
    stored = [packed(codes, 4), by_block(points), by_block(scales)]
    module["main"](*map(tvm.runtime.tensor, (x, *stored)), out)
    real = (codes - points.repeat(16, 1).astype(np.float64)) * scales.repeat(16, 1)
    np.testing.assert_allclose(out.numpy(), x.astype(np.float64) @ real.T, rtol=1e-4, atol=1e-4)
