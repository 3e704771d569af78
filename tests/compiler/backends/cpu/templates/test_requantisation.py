"""Rounding, limits and conversion in one step: the same integers, and one instruction on x86."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.templates.vector_math import with_vector_math
from edgec.compiler.backends.cpu.tir_pipeline import PIPELINE
from edgec.targets import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE, run

ROWS, LANES = 12, 8
RANGES = [
    ("uint8", 0, 0, 255),
    ("uint8", 113, 113, 200),
    ("int8", -7, -128, 127),
    ("int16", 3, -32768, 32767),
]


def kernel(dtype: str, zero: int, low: int, high: int, kept: str = "") -> PrimFunc:
    """`[ROWS, LANES]` of floats on a grid, in vectors; by way of `dtype` in the type `kept`."""
    data = te.placeholder((ROWS, LANES), "float32", "data")

    def number(value: int) -> tirx.FloatImm:
        return tirx.FloatImm("float32", float(value))

    def code(y: tirx.Var, x: tirx.Var) -> tvm.ir.Expr:
        real = tirx.nearbyint(data[y, x]) + number(zero) if zero else tirx.nearbyint(data[y, x])
        made = tirx.Min(tirx.Max(real, number(low)), number(high)).astype(dtype)
        return made.astype(kept) if kept else made

    made = te.create_prim_func([data, te.compute((ROWS, LANES), code, name="codes")])
    schedule = tvm.s_tir.Schedule(made)
    schedule.vectorize(schedule.get_loops(schedule.get_sblock("codes"))[-1])
    return with_vector_math(schedule.mod["main"])


def numbers() -> np.ndarray:
    """Halves, what lies beside them, values beyond every limit, infinities."""
    halves = np.arange(-20, 20, dtype=np.float32) / 2
    beside = np.nextafter(halves[:20], np.float32(np.inf))
    far = np.float32(
        [-np.inf, -3e38, -(2.0**31), -32769, -129, -0.0, 126.5, 127.5, 254.5, 255.5, 32767.5, 2.0**31]
    )
    values = np.concatenate([halves, beside, far, np.float32([3e38, np.inf])])
    return np.resize(values, (ROWS, LANES)).astype(np.float32)


def wanted(dtype: str, zero: int, low: int, high: int) -> np.ndarray:
    rounded = np.round(numbers().astype(np.float64)) + zero
    return np.clip(rounded, low, high).astype(dtype)


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("limits", RANGES)
def test_integers_are_those_of_the_definition(name: str, limits: tuple[str, int, int, int]) -> None:
    made = run(kernel(*limits), load_target(name), numbers())
    np.testing.assert_array_equal(made, wanted(*limits))


@pytest.mark.parametrize(("low", "high"), [(0, 255), (5, 250), (-3, 255), (0, 300)])
def test_what_is_kept_in_sixteen_bits_has_the_bits_of_the_bytes(low: int, high: int) -> None:
    name = RUNNABLE[-1]
    made = run(kernel("uint8", 4, low, high, "int16"), load_target(name), numbers())
    inside = (wanted("int64", 4, low, high) >= 0) & (wanted("int64", 4, low, high) <= 255)
    assert str(made.dtype) == "int16"
    np.testing.assert_array_equal(made[inside], wanted("int64", 4, low, high)[inside])


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_one_instruction_rounds_and_converts(name: str) -> None:
    module = tvm.IRModule({"kernel": kernel("uint8", 3, 0, 255).with_attr("global_symbol", "kernel")})
    target = tvm.target.Target(dict(load_target(name).tvm))
    code = tvm.tirx.build(module, target=target, pipeline=PIPELINE).inspect_source("s")
    assert re.search(r"\bv?cvtps2dq\b", code)
    assert not re.search(r"\bv?round(ps|scale)|cvttps2dq", code)


def test_what_has_no_limits_stays_as_it_is() -> None:
    data = te.placeholder((LANES,), "float32", "data")
    body = te.compute((LANES,), lambda x: tirx.nearbyint(data[x]).astype("int32"), name="codes")
    assert "lrint" not in str(with_vector_math(te.create_prim_func([data, body])))
