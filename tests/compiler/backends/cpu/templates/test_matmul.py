"""Batched products of activations against double precision, on generated shapes, for both vector widths."""

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.specs import MatmulSpec
from edgec.compiler.backends.cpu.templates import matmul
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.timing import build
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(RUNNABLE),
    batch=st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple),
    rows=st.integers(1, 40),
    inner=st.integers(1, 70),
    cols=st.integers(1, 90),
    pick=st.integers(0, 1000),
    threads=st.integers(1, 2),
)
def test_any_candidate_computes_the_product(name, batch, rows, inner, cols, pick, threads):
    target = load_target(name)
    spec = MatmulSpec(batch, rows, inner, cols, target.fp32_lanes)
    found = matmul.candidates(spec, target, threads)
    assert bool(found) == (cols >= spec.lanes)
    if not found:
        return
    func = matmul.emit(spec, split_epilogue(compute.matmul(spec)), found[pick % len(found)], threads)
    rng = np.random.default_rng(pick)
    left = rng.standard_normal((*batch, rows, inner)).astype(np.float32)
    right = rng.standard_normal((*batch, inner, cols)).astype(np.float32)
    out = tvm.runtime.tensor(np.full((*batch, rows, cols), np.nan, np.float32))
    module = build(func, tvm.target.Target(dict(target.tvm)))
    module["kernel"](tvm.runtime.tensor(left), tvm.runtime.tensor(right), out)
    # Each sum of `inner` products may be off by that many roundings.
    bound = 1e-7 * (inner + 2) * (np.abs(left).astype(np.float64) @ np.abs(right))
    assert np.all(np.abs(out.numpy() - left.astype(np.float64) @ right) <= bound)
