"""Where reductions start: seen in what they make of infinities alone."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te

from edgec.compiler.graph.reduction_starts import start_from_infinity
from edgec.targets import detect
from tests.compiler.backends.cpu.kernels import run


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("largest", [True, False])
def test_the_extreme_of_infinities_is_infinite(dtype: str, *, largest: bool) -> None:
    x = np.full((3, 5), -np.inf if largest else np.inf, dtype)
    x[1, 2], x[2, 4] = 7, np.nan
    data = te.placeholder(x.shape, dtype, "data")
    k = te.reduce_axis((0, 5), "k")
    reduce = te.max if largest else te.min
    made = te.create_prim_func([data, te.compute((3,), lambda i: reduce(data[i, k], axis=k), "out")])
    mod = start_from_infinity(tvm.IRModule({"main": made}))
    np.testing.assert_array_equal(run(mod["main"], detect(), x), np.array([x[0, 0], 7, np.nan], dtype))


def test_sums_and_integers_stay_as_they_are() -> None:
    data = te.placeholder((3, 5), "int32", "data")
    k = te.reduce_axis((0, 5), "k")
    made = te.create_prim_func([data, te.compute((3,), lambda i: te.max(data[i, k], axis=k), "out")])
    assert start_from_infinity(tvm.IRModule({"main": made}))["main"].same_as(made)
