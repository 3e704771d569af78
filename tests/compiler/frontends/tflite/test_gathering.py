"""Values picked and placed by indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same

I32 = np.int32


def test_gathers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    shape = (2, 3, 4, 5)
    for axis, batch, at in (
        (0, 0, (3,)),
        (-1, 0, (2, 2)),
        (1, 1, (2, 6)),
        (2, 1, (2, 3)),
        (3, 2, (2, 3, 4)),
        (2, 2, (2, 3)),
    ):
        options = schema.GatherOptionsT()
        options.axis, options.batchDims = axis, batch
        x = cases.input(rng.standard_normal(shape).astype("float32"))
        cases.op("GATHER", [x, cases.input(rng.integers(0, shape[axis], at).astype(I32))], options=options)
    x = cases.input(rng.standard_normal(shape).astype("float32"))
    for depth in (1, 2, 3):
        at = np.stack([rng.integers(0, n, (3, 2)) for n in shape[:depth]], axis=-1)
        cases.op("GATHER_ND", [x, cases.input(at.astype(I32))])
    table = cases.constant(rng.standard_normal((7, 2, 3)).astype("float32"))
    cases.op("EMBEDDING_LOOKUP", [cases.input(rng.integers(0, 7, 5).astype(I32)), table])
    assert_same(cases, tmp_path)


def test_values_placed_at_indices(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    for dtype in ("float32", "int32"):
        at = cases.input(np.array([[1], [3], [1]], I32))
        updates = cases.input((rng.standard_normal((3, 2)) * 9).astype(dtype))
        cases.op("SCATTER_ND", [at, updates, cases.constant(np.array([5, 2], I32))], dtype)
        for indices, values in ((2, 7), ([1, 3], [5, 6]), ([1, 4], 3), ([[0, 1], [2, 2]], [8, 9])):
            at = np.array(indices, I32)
            shape = [3, 4] if at.ndim == 2 else [5]
            inputs = [
                cases.input(at),
                cases.constant(np.array(shape, I32)),
                cases.input(np.array(values, dtype)),
            ]
            inputs.append(cases.constant(np.array(-1, dtype)))
            cases.op("SPARSE_TO_DENSE", inputs, dtype, schema.SparseToDenseOptionsT())
        for axis in (-1, 0, 1):
            options = schema.OneHotOptionsT()
            options.axis = axis
            inputs = [cases.input(np.array([[0, 2, -1], [5, 3, 1]], I32)), cases.constant(np.array(4, I32))]
            inputs += [cases.constant(np.array(v, dtype)) for v in (6, -2)]
            cases.op("ONE_HOT", inputs, dtype, options)
    assert_same(cases, tmp_path)


def test_segments(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    for dtype in ("float32", "int32"):
        x = cases.input(np.round(rng.standard_normal((6, 3)) * 4).astype(dtype))
        cases.op("SEGMENT_SUM", [x, cases.constant(np.array([0, 0, 1, 2, 2, 3], I32))], dtype)
        count = cases.constant(np.array(5, I32))
        for how in ("SUM", "PROD", "MAX", "MIN"):
            for segments in ([2, 0, 2, -1, 3, 0], [1, 1, 1, 1, 1, 1]):
                inputs = [x, cases.input(np.array(segments, I32)), count]
                cases.op(f"UNSORTED_SEGMENT_{how}", inputs, dtype)
    assert_same(cases, tmp_path)


def test_buckets(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = Cases()
    options = schema.BucketizeOptionsT()
    options.boundaries = [-1.0, 0.5, 2.0, 3.0]
    for dtype in ("float32", "int32", "int64"):
        x = np.append(rng.standard_normal(20) * 3, [2.0, -1.0]).astype(dtype)
        cases.op("BUCKETIZE", [cases.input(x)], "int32", options)
    assert_same(cases, tmp_path)


def test_how_many_values_there_are_depends_on_them(tmp_path: Path) -> None:
    cases = Cases()
    flags = cases.input(np.array([[1, 0, 1], [0, 1, 1]], bool))
    cases.op("WHERE", [flags], "int64")
    options = schema.UniqueOptionsT()
    options.idxOutType = schema.TensorType.INT32
    made = [cases.tensor([]), cases.tensor([], "int32")]
    cases.op("UNIQUE", [cases.input(np.array([3, 1, 3, 2, 1], "float32"))], made, options)
    assert_same(cases, tmp_path, native=False)
