"""Softmax and layer normalisation against double precision, on generated shapes, for both vector widths."""

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu.templates import normalisation
from edgec.compiler.backends.cpu.timing import build
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE

TARGETS = st.sampled_from(RUNNABLE)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 210))


def run(func, target, *arrays):
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    out = tvm.runtime.tensor(np.full(arrays[0].shape, np.nan, np.float32))
    build(func, tvm.target.Target(dict(target.tvm)))["kernel"](*tensors, out)
    return out.numpy()


@settings(deadline=None, max_examples=20)
@given(name=TARGETS, shape=SHAPES, scale=st.sampled_from([1e-3, 1.0, 50.0]), seed=st.integers(0, 99))
def test_softmax(name, shape, scale, seed):
    target = load_target(name)
    data = (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
    got = run(normalisation.softmax(shape, target.fp32_lanes), target, data)
    wide = np.exp(data.astype(np.float64) - data.max(-1, keepdims=True))
    np.testing.assert_allclose(got, wide / wide.sum(-1, keepdims=True), rtol=1e-5, atol=1e-30)


@settings(deadline=None, max_examples=10)
@given(name=TARGETS, shape=SHAPES, axis=st.integers(0, 1), seed=st.integers(0, 99))
def test_softmax_across(name, shape, axis, seed):
    target = load_target(name)
    data = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 3
    got = run(normalisation.softmax_across(shape, axis, target.fp32_lanes), target, data)
    wide = np.exp(data.astype(np.float64))
    np.testing.assert_allclose(got, wide / wide.sum(axis, keepdims=True), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("shape", [(6, 5), (1, 5), (6, 1), (37, 70)])
def test_softmax_down_the_columns_of_a_matrix(shape):
    """Nothing is outside of the columns: one task does it all."""
    target = load_target(RUNNABLE[-1])
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 3
    got = run(normalisation.softmax_across(shape, 0, target.fp32_lanes), target, data)
    wide = np.exp(data.astype(np.float64))
    np.testing.assert_allclose(got, wide / wide.sum(0, keepdims=True), rtol=1e-5, atol=1e-30)


def test_softmax_leaves_masked_elements_at_zero():
    target = load_target(RUNNABLE[-1])
    data = np.zeros((2, 3, 37), np.float32)
    data[..., 30:] = np.float32(-3.4e38)
    got = run(normalisation.softmax(data.shape, target.fp32_lanes), target, data)
    assert not got[..., 30:].any()
    np.testing.assert_allclose(got[..., :30], 1 / 30, rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(name=TARGETS, shape=SHAPES, offset=st.sampled_from([0.0, 100.0]), seed=st.integers(0, 99))
def test_layer_norm(name, shape, offset, seed):
    target = load_target(name)
    rng = np.random.default_rng(seed)
    data = (rng.standard_normal(shape) + offset).astype(np.float32)
    scale, shift = (rng.standard_normal(shape[-1]).astype(np.float32) for _ in range(2))
    got = run(normalisation.layer_norm(shape, 1e-5, target.fp32_lanes), target, data, scale, shift)
    wide = data.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift
    # Numbers around 100 carry seven digits: what is left after the mean is taken off has five.
    np.testing.assert_allclose(got, expected, atol=2e-5 if offset == 0 else 3e-3, rtol=1e-5)


@settings(deadline=None, max_examples=10)
@given(name=TARGETS, shape=SHAPES, scale=st.sampled_from([1e-3, 1.0, 50.0]), seed=st.integers(0, 99))
def test_rms_norm(name, shape, scale, seed):
    target, rng = load_target(name), np.random.default_rng(seed)
    data = (rng.standard_normal(shape) * scale).astype(np.float32)
    factor = rng.standard_normal(shape[-1]).astype(np.float32)
    got = run(normalisation.rms_norm(shape, 1e-5, target.fp32_lanes), target, data, factor)
    wide = data.astype(np.float64)
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * factor
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
