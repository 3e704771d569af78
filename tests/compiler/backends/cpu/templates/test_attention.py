"""Attention kernels against double precision, on generated shapes, memory orders and masks."""

import math
from dataclasses import replace

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu.specs import decode, encode
from edgec.compiler.backends.cpu.templates import attention
from edgec.compiler.backends.cpu.timing import build
from edgec.compiler.graph import attention_compute
from edgec.compiler.graph.attention_spec import FIXED, AttentionSpec, View
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE

Array = np.ndarray


def lay(array: Array, kind: int, rng: np.random.Generator) -> tuple[Array, View]:
    """A tensor in which `array`, `[batch, heads, lines, width]`, lies: as it is, between others, or in a slice."""
    if kind == 0:
        return array, View.of(array.shape)
    if kind == 1:  # heads inside
        made = np.ascontiguousarray(array.transpose(0, 2, 1, 3))
        return made, View(made.shape, (0, 2, 1, 3), (0, 0, 0, 0))
    batch, heads, lines, width = array.shape  # one of three beside each other, as one projection makes them
    made = rng.standard_normal((batch, lines + 1, 3, heads, width)).astype(np.float32)
    made[:, 1:, 1] = array.transpose(0, 2, 1, 3)
    return made, View(made.shape, (0, 2, FIXED, 1, 3), (0, 1, 1, 0, 0))


def expected(spec: AttentionSpec, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    scores = spec.scale * (q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2))
    if mask is not None:
        scores = scores + mask
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)) @ v.astype(np.float64)


@settings(deadline=None, max_examples=16)
@given(
    name=st.sampled_from(RUNNABLE),
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    rows=st.integers(16, 70),
    keys=st.integers(1, 60),
    inner=st.integers(1, 40),
    cols=st.integers(4, 50),
    kinds=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    masked=st.sampled_from(["", "keys", "heads", "all"]),
    order=st.sampled_from([(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3), (0, 1, 3, 2)]),
    pick=st.integers(0, 1000),
    threads=st.integers(1, 2),
)
def test_any_candidate_attends(name, sizes, rows, keys, inner, cols, kinds, masked, order, pick, threads):
    target = load_target(name)
    rng = np.random.default_rng(pick)
    shapes = ((*sizes, rows, inner), (*sizes, keys, inner), (*sizes, keys, cols))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    laid = [lay(array, kind, rng) for array, kind in zip(arrays, kinds, strict=True)]
    extents = {"keys": (1, 1, keys, 1), "heads": (1, sizes[1], keys, rows), "all": (*sizes, keys, rows)}
    mask, view = None, None
    if masked:
        mask = rng.standard_normal(extents[masked]).astype(np.float32)
        mask[rng.random(mask.shape) < 0.2] = -np.inf
        mask[:, :, 0] = 0.0  # some key is open to every query
        axes = tuple(
            FIXED if extent == 1 else axis for axis, extent in zip((0, 1, 3, 2), mask.shape, strict=True)
        )
        view = View(mask.shape, axes, (0, 0, 0, 0))
    lanes = target.fp32_lanes
    views = [view for _, view in laid]
    spec = AttentionSpec(sizes, rows, keys, inner, cols, 1 / math.sqrt(inner), *views, view, order, lanes)
    found = attention.candidates(spec, target, threads)
    func = attention.emit(
        spec, list(attention_compute.attention(spec).params), found[pick % len(found)], threads
    )
    out = tvm.runtime.tensor(np.full(spec.out_shape, np.nan, np.float32))
    given_ = [made for made, _ in laid] + ([] if mask is None else [mask])
    build(func, tvm.target.Target(dict(target.tvm)))["kernel"](*(tvm.runtime.tensor(a) for a in given_), out)
    wanted = expected(spec, *arrays, None if mask is None else mask.swapaxes(-1, -2)).transpose(order)
    assert np.max(np.abs(out.numpy() - wanted)) <= 2e-5 * max(1.0, np.abs(arrays[2]).max())


def test_the_definition_without_a_template_computes_the_same():
    rng = np.random.default_rng(0)
    views = [View.of((2, 6, 5)), View.of((2, 7, 5)), View.of((2, 7, 4))]
    mask = View((1, 7, 6), (FIXED, 2, 1), (0, 0, 0))
    spec = AttentionSpec((2,), 6, 7, 5, 4, 0.5, *views, mask, (1, 0, 2), 4)
    arrays = [rng.standard_normal(view.shape).astype(np.float32) for view in (*views, mask)]
    out = tvm.runtime.tensor(np.zeros(spec.out_shape, np.float32))
    kernel = tvm.compile(attention_compute.attention(spec).with_attr("global_symbol", "main"), target="llvm")
    kernel["main"](*(tvm.runtime.tensor(a) for a in arrays), out)
    wanted = expected(spec, *arrays[:3], arrays[3].swapaxes(-1, -2)).transpose(1, 0, 2)
    np.testing.assert_allclose(out.numpy(), wanted, atol=1e-5)


def test_a_specification_survives_being_written_down():
    view = View((1, 9, 3, 2, 8), (0, 2, FIXED, 1, 3), (0, 0, 2, 0, 0))
    spec = AttentionSpec((1, 2), 9, 9, 8, 8, 0.125, view, view, view, None, (0, 2, 1, 3), 8)
    assert decode(encode(spec)) == spec
    masked = replace(spec, mask=View((1, 1, 9, 1), (FIXED, FIXED, 3, FIXED), (0, 0, 0, 0)))
    assert decode(encode(masked)) == masked


def test_a_query_that_may_look_at_nothing_gives_nan_and_leaves_the_others_alone():
    target = load_target("x86-64-v3")
    view = View.of((1, 8, 8))
    mask = View((1, 8, 8), (FIXED, 2, 1), (0, 0, 0))
    spec = AttentionSpec((1,), 8, 8, 8, 8, 1.0, view, view, view, mask, (0, 1, 2), 8)
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((1, 8, 8)).astype(np.float32) for _ in range(3)]
    closed = np.zeros((1, 8, 8), np.float32)
    closed[:, :, 3] = -np.inf
    out = tvm.runtime.tensor(np.zeros((1, 8, 8), np.float32))
    first = attention.candidates(spec, target, 1)[0]
    func = attention.emit(spec, list(attention_compute.attention(spec).params), first, 1)
    module = build(func, tvm.target.Target(dict(target.tvm)))
    module["kernel"](*(tvm.runtime.tensor(a) for a in (*arrays, closed)), out)
    assert np.isnan(out.numpy()[0, 3]).all()
    rest = [i for i in range(8) if i != 3]
    np.testing.assert_allclose(out.numpy()[0, rest], expected(spec, *arrays, None)[0, rest], atol=1e-5)
