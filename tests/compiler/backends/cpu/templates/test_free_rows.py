"""Products whose rows are counted when they run: each number of rows, beside exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from edgec.compiler.backends.cpu.layouts.free_rows import Product, definition
from edgec.compiler.backends.cpu.layouts.packing import pack_dense
from edgec.compiler.backends.cpu.specs import DenseSpec
from edgec.compiler.backends.cpu.templates import free_rows
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.timing import build
from edgec.targets import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE


def check(inner: int, cols: int, threads: int, name: str, activation: str, seed: int) -> None:
    """Compile a product and run it with no row, one, those around a tile and around two, and many."""
    rng, target = np.random.default_rng(seed), load_target(name)
    weight, bias = (rng.integers(-9, 10, shape).astype("float32") for shape in ((inner, cols), (cols,)))
    spec = DenseSpec(0, inner, cols, target.fp32_lanes)
    schedule = free_rows.choose(spec, target, threads)
    sizes = [tirx.Var("batch", "int64"), tirx.Var("steps", "int64")]
    epilogue = split_epilogue(definition(spec, sizes, Product(sizes[0], weight, bias, activation)))
    assert epilogue is not None
    kernel = free_rows.emit(spec, epilogue, schedule, target, threads)
    module = build(kernel, tvm.target.Target(dict(target.tvm)))
    tile = schedule.rows
    steps = {0, 1, 2, tile - 1, tile, tile + 1, 2 * tile - 1, 2 * tile + 1, int(rng.integers(1, 99))}
    for batch, count in [(1, n) for n in sorted(steps)] + [(3, tile - 1), (0, 2)]:
        x = rng.integers(-9, 10, (batch, count, inner)).astype("float32")
        y = tvm.runtime.tensor(np.full((batch, count, cols), np.nan, "float32"))
        packed = pack_dense(weight, spec.lanes)
        module["kernel"](*(tvm.runtime.tensor(one) for one in (x, packed, bias)), y)
        expected = x.astype(np.int64) @ weight.astype(np.int64) + bias
        np.testing.assert_array_equal(y.numpy(), np.maximum(expected, 0) if activation else expected)


def test_every_number_of_rows_is_exact() -> None:
    check(33, 2 * load_target(RUNNABLE[0]).fp32_lanes + 3, 2, RUNNABLE[0], "nn.relu", 1)


def test_threads_divide_rows_where_columns_are_few() -> None:
    check(600, 8, 2, RUNNABLE[-1], "", 2)


@pytest.mark.long
@settings(deadline=None)
@given(
    inner=st.integers(1, 300),
    cols=st.integers(1, 300),
    threads=st.integers(1, 3),
    name=st.sampled_from(RUNNABLE),
    activation=st.sampled_from(["", "nn.relu"]),
    seed=st.integers(0, 1 << 16),
)
def test_any_product_is_exact(
    inner: int, cols: int, threads: int, name: str, activation: str, seed: int
) -> None:
    check(inner, cols, threads, name, activation, seed)
