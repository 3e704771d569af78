"""Convolutions whose weights the compiler transforms for Winograd's algorithm: which ones, and what they compute."""

from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.layouts.stored_winograd import pack_winograd, stored_winograd
from edgec.compiler.backends.cpu.specs import WinogradSpec, decode, encode
from edgec.compiler.backends.cpu.templates import winograd
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.templates.generic import schedule_generic
from edgec.compiler.backends.cpu.templates.winograd_candidates import stored_candidates
from edgec.compiler.backends.cpu.timing import build
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE
from tests.compiler.backends.cpu.templates.test_winograd import (
    block,
    make_spec,
    operands,
    reference,
    relative_error,
)


def stored(spec, m):
    return WinogradSpec(
        spec.batch, spec.in_channels, spec.in_size, spec.out_channels, spec.window, spec.lanes, m
    )


def run(func, spec, m, target, data, weight):
    module = build(func, tvm.target.Target(dict(target.tvm)))
    shape = (spec.batch, -(-spec.out_channels // spec.lanes), *spec.window.out, spec.lanes)
    # Nothing may read the lanes beyond the last channel into a result: they hold NaN.
    made = [
        block(data, spec.lanes, np.nan), pack_winograd(weight, m, spec.lanes), np.full(shape, np.nan, np.float32)
    ]  # fmt: skip
    tensors = [tvm.runtime.tensor(array) for array in made]
    module["kernel"](*tensors)
    out = tensors[-1].numpy().transpose(0, 1, 4, 2, 3)
    return out.reshape(spec.batch, -1, *spec.window.out)[:, : spec.out_channels]


@settings(deadline=None, max_examples=12)
@given(
    name=st.sampled_from(RUNNABLE),
    m=st.sampled_from([2, 4, 6]),
    channels=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    size=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    batch=st.integers(1, 2),
    pick=st.integers(0, 10_000),
    threads=st.integers(1, 3),
)
def test_any_candidate_computes_the_convolution(name, m, channels, size, pad, batch, pick, threads):
    target = load_target(name)
    spec = make_spec(target, channels, size, pad, batch)
    found = stored_candidates(stored(spec, m), target, threads)
    assume(found)
    schedule = found[pick % len(found)][1]
    data, weight = operands(spec, pick)
    epilogue = split_epilogue(compute.winograd(stored(spec, m)))
    func = winograd.emit(spec, epilogue, schedule, threads, transformed=True)
    got = run(func, spec, m, target, data, weight)
    assert relative_error(got, reference(spec, data, weight)) < winograd.ERROR[m], schedule


def test_the_definition_transforms_the_weights_back():
    target = load_target(RUNNABLE[0])
    spec = make_spec(target, (9, 10), (5, 6))
    data, weight = operands(spec)
    data_without = np.nan_to_num(data)
    func = schedule_generic(compute.winograd(stored(spec, 4)), target, 1)
    got = run(func.with_attr("global_symbol", "kernel"), spec, 4, target, data_without, weight)
    assert relative_error(got, reference(spec, data, weight)) < 1e-5


def test_a_specification_survives_its_text():
    spec = stored(make_spec(load_target("rpi5")), 4)
    assert decode(encode(spec)) == spec


def chosen(name, channels, size, error_budget=1e-3):
    target = load_target(name)
    plan = SimpleNamespace(target=target, error_budget=error_budget)
    return stored_winograd(plan, make_spec(target, channels, (size, size)))


def test_small_images_with_many_channels_have_their_weights_transformed_on_arm():
    assert chosen("rpi5", (256, 256), 14).m == 4
    assert chosen("rpi5", (128, 128), 28).m == 6


@pytest.mark.parametrize(
    ("name", "channels", "error_budget"),
    [("x86-64-v3", (256, 256), 1e-3), ("rpi5", (4, 16), 1e-3), ("rpi5", (256, 256), 1e-6)],
    ids=["x86", "few channels", "a small error budget"],
)
def test_other_weights_stay_as_they_are(name, channels, error_budget):
    assert chosen(name, channels, 14, error_budget) is None


@pytest.mark.parametrize(("name", "m"), [("rpi5", 4), ("rpi3", 2)], ids=["8 GiB", "1 GiB"])
def test_large_weights_grow_by_less_where_memory_is_small(name, m):
    assert chosen(name, (512, 512), 7).m == m
