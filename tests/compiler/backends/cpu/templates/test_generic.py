"""Kernels without a template: reductions along any axes, changes of shape and of order."""

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import te, tirx, topi

from edgec.compiler.backends.cpu.templates.generic import schedule_generic
from edgec.compiler.backends.cpu.tir_pipeline import storage
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE, run

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KINDS = {"sum": np.sum, "max": np.max, "min": np.min}


@pytest.fixture(params=RUNNABLE, scope="module")
def target(request):
    return load_target(request.param)


@FEW
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 7, 8, 16, 20, 32, 48]), min_size=1, max_size=4),
    kind=st.sampled_from(sorted(KINDS)), threads=st.integers(1, 2), data=st.data(),
)  # fmt: skip
def test_reductions(target, shape, kind, threads, data):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    x = te.placeholder(shape, "float32", "x")
    y = te.compute(shape, lambda *i: x[i] * 2.0, name="doubled")
    out = getattr(topi, kind)(y, axis=sorted(axes))
    func = te.create_prim_func([x, out]).without_attr("global_symbol")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    array = rng.standard_normal(shape).astype(np.float32)
    if data.draw(st.booleans()):
        array.flat[rng.integers(array.size)] = rng.choice([np.inf, -np.inf, 1e-42])
    made = run(schedule_generic(func, target, threads), target, array)
    wanted = KINDS[kind](array.astype(np.float64) * 2, axis=tuple(axes))
    finite = np.abs(array[np.isfinite(array)])
    np.testing.assert_allclose(made, wanted, rtol=1e-6, atol=2e-6 * finite.sum())


@FEW
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 8, 11, 16, 33, 50]), min_size=1, max_size=4),
    dtype=st.sampled_from(["float32", "int8", "int64", "float16"]), threads=st.integers(1, 2), data=st.data(),
)  # fmt: skip
def test_shapes_and_orders_change(target, shape, dtype, threads, data):
    order = data.draw(st.permutations(range(len(shape))))
    inner = data.draw(st.sampled_from([n for n in (1, 2, 3, 5, 8, 11) if np.prod(shape) % n == 0]))
    x = te.placeholder(shape, dtype, "x")
    array = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(-99, 99, shape).astype(dtype)
    reshaped = (int(np.prod(shape)) // inner, inner)
    for out, wanted in (
        (topi.transpose(x, order), array.transpose(order)),
        (topi.reshape(x, reshaped), array.reshape(reshaped)),
        (topi.reshape(topi.transpose(x, order), reshaped), array.transpose(order).reshape(reshaped)),
    ):
        func = te.create_prim_func([x, out]).without_attr("global_symbol")
        np.testing.assert_array_equal(run(schedule_generic(func, target, threads), target, array), wanted)


@FEW
@given(
    rows=st.lists(st.sampled_from([1, 2, 5, 60]), min_size=1, max_size=2),
    sizes=st.lists(st.integers(1, 90), min_size=2, max_size=5),
    pad=st.tuples(st.integers(0, 9), st.integers(0, 9)), threads=st.integers(1, 2),
)  # fmt: skip
def test_concatenations_and_paddings_along_the_last_axis(target, rows, sizes, pad, threads):
    parts = [te.placeholder((*rows, size), "float32", f"x{k}") for k, size in enumerate(sizes)]
    joined = topi.concatenate(parts, axis=-1)
    widths = [[1, *[0] * (len(rows) - 1), pad[0]], [*[0] * len(rows), pad[1]]]
    out = topi.nn.pad(te.compute(joined.shape, lambda *i: joined[i] * 2.0), *widths, pad_value=3.0)
    func = te.create_prim_func([*parts, out]).without_attr("global_symbol")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((*rows, size)).astype(np.float32) for size in sizes]
    made = run(schedule_generic(func, target, threads), target, *arrays)
    wanted = np.pad(np.concatenate(arrays, -1) * 2, list(zip(*widths, strict=True)), constant_values=3.0)
    np.testing.assert_array_equal(made, wanted)


def test_a_concatenation_is_cut_into_copies(target):
    """No part of the loop chooses what it reads: three loops over the columns instead of one."""
    parts = [te.placeholder((3, size), "float32", f"x{size}") for size in (64, 40, 50)]
    func = te.create_prim_func([*parts, topi.concatenate(parts, axis=-1)]).without_attr("global_symbol")
    module = tvm.IRModule({"main": schedule_generic(func, target, 1)})
    with tvm.target.Target(dict(target.tvm)):
        made = str(tvm.transform.Sequential([*storage(), tirx.transform.StmtSimplify()])(module))
    assert "if_then_else" not in made
    assert made.count(" in range(") == 4


@pytest.mark.parametrize("count", [8, 96])
def test_a_vector_is_reduced_to_one_number_beside_blocks_without_loops(target, count):
    x = te.placeholder((count,), "float32", "x")
    array = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    logarithms = array - np.log(np.exp(array.astype(np.float64)).sum())
    for out, wanted in ((topi.nn.log_softmax(x), logarithms), (topi.sum(x) / count, array.mean())):
        func = te.create_prim_func([x, out]).without_attr("global_symbol")
        made = run(schedule_generic(func, target, 1), target, array)
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)
