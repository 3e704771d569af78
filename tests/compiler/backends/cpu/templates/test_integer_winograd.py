"""Winograd's algorithm on 8-bit integers: every bit against exact arithmetic, and which convolutions it computes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.dot_instructions import activations_of, operands_for
from edgec.compiler.backends.cpu.layouts.packing import block_channels
from edgec.compiler.backends.cpu.layouts.stored_winograd import integer_winograd as chosen
from edgec.compiler.backends.cpu.specs import ConvSpec, Window, WinogradSpec, decode, encode
from edgec.compiler.backends.cpu.templates import integer_winograd
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.templates.generic import schedule_generic
from edgec.compiler.backends.cpu.templates.winograd_candidates import stored_candidates
from edgec.compiler.backends.cpu.tir_pipeline import PIPELINE
from edgec.compiler.operands.operands import INT8, UINT8_INT8
from edgec.targets import Target, load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE, run


def spec_for(target: Target, channels=(16, 32), size=(12, 12), pad=(1, 1), batch=1) -> WinogradSpec:
    native = UINT8_INT8 if activations_of(target) == "uint8" else INT8
    out = (size[0] + 2 * pad[0] - 2, size[1] + 2 * pad[1] - 2)
    window = Window((3, 3), pad=pad, out=out)
    operands = operands_for(native, target)
    return WinogradSpec(batch, channels[0], size, channels[1], window, target.fp32_lanes, 2, operands)


def numbers(spec: WinogradSpec, seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Activations and weights: of all values, of the extremes only, or all of them the least or the largest."""
    rng = np.random.default_rng(seed)

    def filled(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if kind == "any":
            return rng.integers(low, high, shape, dtype, endpoint=True)
        values = [low, high] if kind == "extremes" else [rng.choice([low, high])]
        return rng.choice(values, shape).astype(dtype)

    data = filled((spec.batch, spec.in_channels, *spec.in_size), spec.operands.data)
    return data, filled((spec.out_channels, spec.in_channels, 3, 3), "int8")


def exact(spec: WinogradSpec, data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    pad = spec.window.pad
    padded = np.pad(data.astype(np.int64), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.int64), optimize=True)


def blocked(spec: WinogradSpec, data: np.ndarray) -> np.ndarray:
    """Blocks of channels; the lanes beyond the last channel hold numbers that no result may depend on."""
    missing = -data.shape[1] % spec.lanes
    filled = np.pad(data, ((0, 0), (0, missing), (0, 0), (0, 0)), constant_values=77)
    return block_channels(filled, spec.lanes)


def computed(func, spec: WinogradSpec, target: Target, data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    made = run(func, target, blocked(spec, data), integer_winograd.pack(weight, spec))
    out = made.transpose(0, 1, 4, 2, 3).reshape(spec.batch, -1, *spec.window.out)
    return out[:, : spec.out_channels]


@settings(deadline=None, max_examples=12)
@given(
    name=st.sampled_from(RUNNABLE),
    channels=st.tuples(st.integers(2, 12).map(lambda n: 4 * n), st.integers(8, 40)),
    size=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    batch=st.integers(1, 2),
    pick=st.integers(0, 10_000),
    threads=st.integers(1, 3),
    kind=st.sampled_from(["any", "extremes", "one value"]),
)
def test_any_candidate_computes_four_times_the_sums(
    name, channels, size, pad, batch, pick, threads, kind
) -> None:
    target = load_target(name)
    spec = spec_for(target, channels, size, pad, batch)
    found = stored_candidates(spec, target, threads)
    assume(found)
    schedule = found[pick % len(found)][1]
    data, weight = numbers(spec, pick, kind)
    func = integer_winograd.emit(spec, split_epilogue(compute.winograd(spec)), schedule, threads)
    made = computed(func, spec, target, data, weight)
    np.testing.assert_array_equal(made, 4 * exact(spec, data, weight), err_msg=str(schedule))


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_definition_computes_them_too(name: str) -> None:
    target = load_target(name)
    spec = spec_for(target, (12, 10), (5, 6))
    data, weight = numbers(spec, 1, "any")
    func = schedule_generic(compute.winograd(spec), target, 1).with_attr("global_symbol", "kernel")
    np.testing.assert_array_equal(computed(func, spec, target, data, weight), 4 * exact(spec, data, weight))


def test_a_specification_survives_its_text() -> None:
    spec = spec_for(load_target("x86-64-v3"))
    assert decode(encode(spec)) == spec


def test_weights_whose_sums_may_leave_int32_stay_as_they_are() -> None:
    few, many = np.full((8, 64, 3, 3), 127, np.int8), np.full((8, 2048, 3, 3), 127, np.int8)
    assert integer_winograd.fits(few, "uint8")
    assert not integer_winograd.fits(many, "uint8")
    small = np.ones((8, 2048, 3, 3), np.int8)
    assert integer_winograd.fits(small, "uint8")


def test_the_bound_counts_the_worst_input() -> None:
    """With weights of one sign and the largest input, a sum reaches the share of the bound that it can."""
    weight = np.full((1, 8, 3, 3), 127, np.int8)
    largest = 4 * 8 * 9 * 127 * 255
    limit = integer_winograd._LARGEST_SUM
    integer_winograd._LARGEST_SUM = largest
    try:
        assert not integer_winograd.fits(weight, "uint8")
    finally:
        integer_winograd._LARGEST_SUM = limit


def choice(name: str, channels: tuple[int, int], size: int, kernel: int = 3) -> WinogradSpec | None:
    target = load_target(name)
    spec = spec_for(target, channels, (size, size)).conv
    if kernel != 3:
        spec = ConvSpec(**{**vars(spec), "window": Window((kernel, kernel), out=spec.window.out)})
    weight = np.random.default_rng(0).integers(-100, 100, (channels[1], channels[0], kernel, kernel), np.int8)
    plan = SimpleNamespace(target=target, error_budget=1e-3)
    return chosen(plan, spec, weight, activations_of(target))


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "zen3", "aarch64", "rpi4"])
def test_processors_without_a_dot_instruction_multiply_less(name: str) -> None:
    assert choice(name, (64, 64), 56) is not None
    assert choice(name, (64, 64), 56, kernel=1) is None


@pytest.mark.parametrize("name", ["x86-avx512-vnni", "n100", "rpi5"])
def test_those_with_one_multiply_directly(name: str) -> None:
    assert choice(name, (64, 64), 56) is None


def test_layers_whose_weights_would_grow_by_megabytes_do_not() -> None:
    assert choice("x86-64-v3", (512, 512), 14) is None


@pytest.mark.parametrize(
    ("name", "wanted"), [("x86-64-v3", r"vpmaddwd\b.*ymm"), ("rpi4", r"smlal\b.*\.4h")], ids=["AVX2", "NEON"]
)
def test_a_product_is_an_instruction(name: str, wanted: str) -> None:
    target = load_target(name)
    spec = spec_for(target)
    schedule = stored_candidates(spec, target, 1)[0][1]
    kernel = integer_winograd.emit(spec, split_epilogue(compute.winograd(spec)), schedule, 1)
    module = tvm.IRModule({"kernel": kernel.with_attr("global_symbol", "kernel")})
    built = tvm.tirx.build(module, target=tvm.target.Target(dict(target.tvm)), pipeline=PIPELINE)
    assert re.search(rf"\b{wanted}", built.inspect_source("s"))
