"""Reductions, extremes and their indices, sums along an axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same

I32 = np.int32
KINDS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")


def keep(dims: bool) -> schema.ReducerOptionsT:
    options = schema.ReducerOptionsT()
    options.keepDims = dims
    return options


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_reductions(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    x = cases.input(np.round(rng.standard_normal((2, 3, 4, 5)) * 3).astype(dtype))
    for number, axes in enumerate(([1, 2], [-1], [0, 3], [0, 1, 2, 3], [2])):
        for kind in KINDS:
            at = cases.constant(np.array(axes, I32))
            cases.op(kind, [x, at], dtype, keep(number % 2 == 0))
    assert_same(cases, tmp_path, tolerance=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_reductions_of_quantised_values(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    info = np.iinfo(dtype)
    zero = {"int8": -4, "uint8": 120, "int16": 0}[dtype]
    grid = {"scale": 0.06 if dtype != "int16" else 2e-4, "zero": zero}
    wide = {"scale": grid["scale"] * 1.5, "zero": zero}
    x = cases.input(rng.integers(info.min, info.max, (1, 5, 6, 4), endpoint=True).astype(dtype), **grid)
    for axes in ([1, 2], [3], [1]):
        at = cases.constant(np.array(axes, I32))
        for dims in (False, True):
            cases.op("MEAN", [x, at], dtype, keep(dims), **wide)
            cases.op("SUM", [x, at], dtype, keep(dims), scale=grid["scale"] * 8, zero=zero)
            cases.op("REDUCE_MAX", [x, at], dtype, keep(dims), **grid)
            cases.op("REDUCE_MIN", [x, at], dtype, keep(dims), **grid)
    assert_same(cases, tmp_path)


def test_truth_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    x = cases.input(rng.random((3, 4, 2)) < 0.6)
    for axes in ([1], [0, 2], [-1]):
        at = cases.constant(np.array(axes, I32))
        for kind in ("REDUCE_ANY", "REDUCE_ALL"):
            cases.op(kind, [x, at], "bool", keep(axes == [1]))
    assert_same(cases, tmp_path)


def test_places_and_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = Cases()
    for dtype in ("float32", "int32", "int8"):
        grid = {"scale": 0.1, "zero": 3} if dtype == "int8" else {}
        values = rng.permutation(60).reshape(3, 4, 5).astype(dtype)
        x = cases.input(values, **grid)
        for axis in (-1, 0, 1):
            for kind, name in (("ARG_MAX", "ArgMax"), ("ARG_MIN", "ArgMin")):
                for out in ("int32", "int64"):
                    options = getattr(schema, f"{name}OptionsT")()
                    options.outputType = getattr(schema.TensorType, out.upper())
                    cases.op(kind, [x, cases.constant(np.array(axis, I32))], out, options)
        made = [cases.tensor([], dtype, **grid), cases.tensor([], "int32")]
        cases.op("TOPK_V2", [x, cases.constant(np.array(3, I32))], made, schema.TopKV2OptionsT())
    equal = cases.input(np.array([[1, 3, 3, 0], [2, 2, 2, 2]], "float32"))
    options = schema.ArgMaxOptionsT()
    options.outputType = schema.TensorType.INT64
    cases.op("ARG_MAX", [equal, cases.constant(np.array(1, I32))], "int64", options)
    cases.op(
        "TOPK_V2",
        [equal, cases.constant(np.array(4, I32))],
        [cases.tensor([]), cases.tensor([], "int32")],
        schema.TopKV2OptionsT(),
    )
    assert_same(cases, tmp_path)


def test_sums_along_an_axis(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cases = Cases()
    for dtype in ("float32", "int32", "int64"):
        x = cases.input(np.round(rng.standard_normal((3, 4, 5)) * 4).astype(dtype))
        for axis in (0, 1, -1):
            for exclusive in (False, True):
                for reverse in (False, True):
                    options = schema.CumsumOptionsT()
                    options.exclusive, options.reverse = exclusive, reverse
                    cases.op("CUMSUM", [x, cases.constant(np.array(axis, I32))], dtype, options)
    assert_same(cases, tmp_path)


def test_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    cases = Cases()
    x = cases.input(rng.standard_normal((5, 6)).astype("float32"))
    for how, start in (("ADD", 0), ("MUL", 1), ("MINIMUM", np.inf), ("MAXIMUM", -np.inf)):
        function = {"ADD": "ADD", "MUL": "MUL", "MINIMUM": "MINIMUM", "MAXIMUM": "MAXIMUM"}[how]
        options = schema.ReduceWindowOptionsT()
        options.reduceFunction = getattr(schema.ReduceWindowFunction, function)
        parts = [cases.constant(np.array(v, np.int64)) for v in ([2, 3], [1, 2], [2, 1])]
        cases.op("REDUCE_WINDOW", [x, cases.constant(np.array(start, "float32")), *parts], options=options)
        number, body = cases.graph()
        left, right = body.input([]), body.input([])
        names = {
            "ADD": "STABLEHLO_ADD",
            "MUL": "STABLEHLO_MULTIPLY",
            "MINIMUM": "STABLEHLO_MINIMUM",
            "MAXIMUM": "STABLEHLO_MAXIMUM",
        }
        body.op(names[how], [left, right])
        hlo = schema.StablehloReduceWindowOptionsT()
        hlo.windowDimensions, hlo.windowStrides, hlo.baseDilations = [2, 3], [2, 1], [1, 2]
        hlo.windowDilations, hlo.padding, hlo.bodySubgraphIndex = [2, 1], [1, 0, 0, 2], number
        cases.op("STABLEHLO_REDUCE_WINDOW", [x, cases.constant(np.array(start, "float32"))], options=hlo)
    assert_same(cases, tmp_path)
