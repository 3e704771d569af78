"""Borders, gaps and blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.tflite.flat import read
from edgec.compiler.frontends.tflite.load import to_onnx
from tests.compiler.frontends.tflite.models import Cases, assert_same

I32 = np.int32
GRID = {"scale": 0.07, "zero": 11}


def test_borders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for dtype in ("float32", "int32", "int64"):
        x = cases.input((rng.standard_normal((2, 4, 5, 3)) * 9).astype(dtype))
        pads = cases.constant(np.array([[0, 1], [2, 0], [1, 3], [0, 0]], I32))
        cases.op("PAD", [x, pads], dtype, schema.PadOptionsT())
        cases.op("PADV2", [x, pads, cases.constant(np.array(-2, dtype))], dtype, schema.PadV2OptionsT())
        for mode in (schema.MirrorPadMode.REFLECT, schema.MirrorPadMode.SYMMETRIC):
            options = schema.MirrorPadOptionsT()
            options.mode = mode
            cases.op(
                "MIRROR_PAD",
                [x, cases.constant(np.array([[0, 0], [3, 2], [1, 4], [0, 1]], I32))],
                dtype,
                options,
            )
    rows = cases.input(rng.standard_normal((3, 2)).astype("float32"))
    cases.op(
        "PADV2", [rows, cases.constant(np.array([[1, 0], [0, 2]], I32)), cases.input(np.array(4, "float32"))]
    )
    quantised = cases.input(rng.integers(-128, 128, (1, 3, 3, 2)).astype("int8"), **GRID)
    pads = cases.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], I32))
    cases.op("PAD", [quantised, pads], "int8", schema.PadOptionsT(), **GRID)
    value = cases.constant(np.array(-100, "int8"), **GRID)
    cases.op("PADV2", [quantised, pads, value], "int8", schema.PadV2OptionsT(), **GRID)
    assert_same(cases, tmp_path)


def test_gaps(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    for dtype in ("float32", "int32"):
        x = cases.input((rng.standard_normal((2, 3, 4)) * 9).astype(dtype))
        for steps in ([1, 2, 3], [3, 1, 1]):
            inputs = [x, cases.constant(np.array(steps, I32)), cases.constant(np.array(-1, dtype))]
            cases.op("DILATE", inputs, dtype, schema.DilateOptionsT())
    for low, high, inner in (([1, 0], [0, 2], [0, 1]), ([-1, 1], [2, -1], [2, 0])):
        options = schema.StablehloPadOptionsT()
        options.edgePaddingLow, options.edgePaddingHigh, options.interiorPadding = low, high, inner
        x = cases.input(rng.standard_normal((3, 4)).astype("float32"))
        cases.op("STABLEHLO_PAD", [x, cases.constant(np.array(0.5, "float32"))], options=options)
    assert_same(cases, tmp_path)


def test_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    for number, dtype in enumerate(("float32", "int32", "int8")):
        grid = GRID if dtype == "int8" else {}
        x = cases.input((rng.standard_normal((4, 4, 6, 8)) * 30).astype(dtype), **grid)
        into, out_of = schema.SpaceToDepthOptionsT(), schema.DepthToSpaceOptionsT()
        into.blockSize = out_of.blockSize = 2
        cases.op("SPACE_TO_DEPTH", [x], dtype, into, **grid)
        cases.op("DEPTH_TO_SPACE", [x], dtype, out_of, **grid)
        block = cases.constant(np.array([2, 2], I32))
        pads = cases.constant(np.array([[0, 0], [1, 1]], I32) * (number != 1))
        cases.op("SPACE_TO_BATCH_ND", [x, block, pads], dtype, **grid)
        cases.op("BATCH_TO_SPACE_ND", [x, block, pads], dtype, **grid)
    rows = cases.input(rng.standard_normal((6, 4, 5)).astype("float32"))
    block, pads = cases.constant(np.array([3], I32)), cases.constant(np.array([[1, 1]], I32))
    cases.op("SPACE_TO_BATCH_ND", [rows, block, pads])
    cases.op("BATCH_TO_SPACE_ND", [rows, block, pads])
    assert_same(cases, tmp_path)


def test_mirrors_longer_than_the_axis_are_refused(tmp_path: Path) -> None:
    cases = Cases()
    x = cases.input(np.zeros((2, 3), "float32"))
    cases.op(
        "MIRROR_PAD", [x, cases.constant(np.array([[2, 0], [0, 0]], I32))], options=schema.MirrorPadOptionsT()
    )
    path = cases.save(tmp_path, shaped=False)
    with pytest.raises(UnsupportedModel, match="mirrors 2 of 2 entries"):
        to_onnx(read(path.read_bytes(), path), path)
