"""Functions that kernels compute by polynomials, against double precision over all of their range."""

import math

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from edgec.compiler.backends.cpu.templates.vector_math import with_vector_math


def _f(value: float) -> tirx.FloatImm:
    return tirx.FloatImm("float32", value)


FUNCTIONS = {
    "erf": (tirx.erf, math.erf, 2.5e-7, 5e-7),
    "gelu": (
        lambda x: x * (tirx.erf(x * _f(0.5**0.5)) + _f(1.0)) * _f(0.5),
        lambda x: 0.5 * x * math.erfc(-(0.5**0.5) * x),
        4e-6,  # of 20
        7e-7,
    ),
    "silu": (lambda x: x * tirx.sigmoid(x), lambda x: x / (1 + math.exp(-x)), None, 4e-7),
    "exp": (tirx.exp, math.exp, None, 3e-7),
    "tanh": (tirx.tanh, math.tanh, 4e-7, 4e-7),
    "sigmoid": (tirx.sigmoid, lambda x: 1 / (1 + math.exp(-x)), 3e-7, 4e-7),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy_over_the_range(name: str) -> None:
    function, exact, absolute, relative = FUNCTIONS[name]
    near = np.geomspace(1e-6, 0.5, 20_001)
    x = np.concatenate([np.linspace(-20, 20, 100_001), near, -near, [np.nan]]).astype(np.float32)
    data = te.placeholder(x.shape, "float32", "data")
    out = te.compute(x.shape, lambda i: function(data[i]), name="out")
    kernel = with_vector_math(te.create_prim_func([data, out])).with_attr("global_symbol", "main")
    result = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(kernel, target="llvm")["main"](tvm.runtime.tensor(x), result)
    assert np.isnan(result.numpy()[-1])
    x, got = x[:-1], result.numpy()[:-1]
    wanted = np.array([exact(float(value)) for value in x])
    error = np.abs(got.astype(np.float64) - wanted)
    if absolute is not None:
        assert error.max() <= absolute
    small = np.abs(x) < 0.5
    assert np.max(error[small] / np.abs(wanted[small] + (wanted[small] == 0))) <= relative


def test_the_tail_of_a_gaussian_unit_is_what_its_sum_in_float32_leaves() -> None:
    x = np.array([-3, -4, -5, -5.5, 1e-12], np.float32)
    data = te.placeholder(x.shape, "float32", "data")
    unit = te.compute(
        x.shape, lambda i: data[i] * (tirx.erf(data[i] * _f(0.5**0.5)) + _f(1.0)) * _f(0.5), name="unit"
    )
    kernel = with_vector_math(te.create_prim_func([data, unit])).with_attr("global_symbol", "main")
    result = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(kernel, target="llvm")["main"](tvm.runtime.tensor(x), result)
    wanted = [0.5 * float(v) * float(np.float32(1) + np.float32(math.erf(v * 0.5**0.5))) for v in x]
    np.testing.assert_allclose(result.numpy(), wanted, rtol=2e-2)


def test_the_exponential_of_large_numbers_overflows_where_it_should() -> None:
    near = np.linspace(88.3, 88.9, 6001, dtype=np.float32)
    x = np.concatenate([near, np.array([89, 1e4, np.inf, -86.9, -88, -104, -1e4, -np.inf], np.float32)])
    data = te.placeholder(x.shape, "float32", "data")
    out = te.compute(x.shape, lambda i: tirx.exp(data[i]), name="out")
    kernel = with_vector_math(te.create_prim_func([data, out])).with_attr("global_symbol", "main")
    result = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(kernel, target="llvm")["main"](tvm.runtime.tensor(x), result)
    with np.errstate(over="ignore"):
        wanted = np.exp(x.astype(np.float64)).astype(np.float32)
    at_limit = np.abs(wanted / np.finfo(np.float32).max - 1) < 1e-6
    np.testing.assert_allclose(result.numpy()[~at_limit], wanted[~at_limit], rtol=4e-7, atol=2e-38)


def test_the_logarithm_from_subnormals_to_infinity() -> None:
    near = 1 + np.linspace(-0.4, 0.5, 20_001, dtype=np.float32)
    x = np.concatenate([near, np.geomspace(1e-45, 3e38, 40_001, dtype=np.float32)])
    x = np.concatenate([x, np.array([0, -0.0, np.inf, -1, -1e-45, -np.inf, np.nan], np.float32)])
    data = te.placeholder(x.shape, "float32", "data")
    out = te.compute(x.shape, lambda i: tirx.log(data[i]), name="out")
    kernel = with_vector_math(te.create_prim_func([data, out])).with_attr("global_symbol", "main")
    result = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(kernel, target="llvm")["main"](tvm.runtime.tensor(x), result)
    with np.errstate(all="ignore"):
        wanted = np.log(x.astype(np.float64))
    np.testing.assert_allclose(result.numpy(), wanted, rtol=3e-7)
