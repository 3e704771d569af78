"""Shapes, joins and parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same

I32 = np.int32


def test_joins_and_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for axis in (-1, 0, 1, 2):
        parts = [cases.input(rng.standard_normal((3, 4, 2)).astype("float32")) for _ in range(3)]
        join, pack = schema.ConcatenationOptionsT(), schema.PackOptionsT()
        join.axis, pack.axis, pack.valuesCount = axis, axis, 3
        cases.op("CONCATENATION", parts, options=join)
        cases.op("PACK", parts, options=pack)
        length = (3, 4, 2)[axis]
        unpack = schema.UnpackOptionsT()
        unpack.axis, unpack.num = axis, length
        cases.op("UNPACK", parts[:1], [cases.tensor([]) for _ in range(length)], unpack)
        along = cases.constant(np.array(axis, I32))
        if length % 2 == 0:
            split = schema.SplitOptionsT()
            split.numSplits = 2
            cases.op("SPLIT", [along, parts[0]], [cases.tensor([]), cases.tensor([])], split)
        split_v = schema.SplitVOptionsT()
        split_v.numSplits = 2
        sizes = cases.constant(np.array([1, -1], I32))
        cases.op("SPLIT_V", [parts[0], sizes, along], [cases.tensor([]), cases.tensor([])], split_v)
    assert_same(cases, tmp_path)


def test_shapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    shape_options = schema.ShapeOptionsT()
    shape_options.outType = schema.TensorType.INT32
    for dtype in ("float32", "int32"):
        x = cases.input((rng.standard_normal((2, 3, 4)) * 9).astype(dtype))
        for order in ([2, 0, 1], [0, -1, 1], [1, 0, 2]):
            cases.op(
                "TRANSPOSE", [x, cases.constant(np.array(order, I32))], dtype, schema.TransposeOptionsT()
            )
        for shape in ([6, 4], [-1, 2], [24], [1, 2, 3, 4]):
            cases.op("RESHAPE", [x, cases.constant(np.array(shape, I32))], dtype)
        cases.op("EXPAND_DIMS", [x, cases.constant(np.array(-2, I32))], dtype)
        cases.op("TILE", [x, cases.constant(np.array([1, 2, 3], I32))], dtype)
        cases.op("BROADCAST_TO", [x, cases.constant(np.array([2, 2, 3, 4], I32))], dtype, version=2)
        cases.op("SHAPE", [x], "int32", shape_options)
        cases.op("RANK", [x], "int32")
        cases.op("FILL", [cases.constant(np.array([2, 5], I32)), cases.input(np.array(7, dtype))], dtype)
        cases.op("ZEROS_LIKE", [x], dtype)
        flat = cases.input(np.arange(6, dtype=dtype).reshape(2, 3))
        cases.op("MATRIX_DIAG", [flat], dtype)
        for rows, columns in ((3, 3), (3, 5), (4, 3)):
            square = cases.input((rng.standard_normal((2, rows, columns)) * 9).astype(dtype))
            diagonal = cases.input(np.arange(6, dtype=dtype).reshape(2, 3))
            cases.op("MATRIX_SET_DIAG", [square, diagonal], dtype)
    squeeze = schema.SqueezeOptionsT()
    squeeze.squeezeDims = [1, -1]
    cases.op("SQUEEZE", [cases.input(rng.standard_normal((2, 1, 3, 1)).astype("float32"))], options=squeeze)
    ranges = [cases.constant(np.array(v, I32)) for v in (2, 17, 4)]
    cases.op("RANGE", ranges, "int32")
    shapes = [cases.input(np.array(v, I32)) for v in ([4, 1, 3], [5, 1])]
    cases.op("BROADCAST_ARGS", shapes, "int32")
    assert_same(cases, tmp_path)


def test_quantised_values_keep_their_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    grid = {"scale": 0.07, "zero": 11}
    x = cases.input(rng.integers(-128, 128, (2, 4, 4, 6)).astype("int8"), **grid)
    other = cases.input(rng.integers(-128, 128, (2, 4, 4, 6)).astype("int8"), **grid)
    cases.op("TRANSPOSE", [x, cases.constant(np.array([3, 0, 2, 1], I32))], "int8", **grid)
    cases.op("RESHAPE", [x, cases.constant(np.array([-1, 3], I32))], "int8", **grid)
    cases.op("TILE", [x, cases.constant(np.array([2, 1, 1, 1], I32))], "int8", **grid)
    for axis in (1, 3):
        join = schema.ConcatenationOptionsT()
        join.axis = axis
        cases.op("CONCATENATION", [x, other], "int8", join, **grid)
    split = schema.SplitOptionsT()
    split.numSplits = 2
    halves = [cases.tensor([], "int8", **grid) for _ in range(2)]
    cases.op("SPLIT", [cases.constant(np.array(3, I32)), x], halves, split)
    assert_same(cases, tmp_path)
