"""StableHLO's windows at places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same


def test_windows_that_are_picked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    x = cases.input(rng.standard_normal((3, 4, 5)).astype("float32"))
    for at, offsets, collapsed, starts, vector, sizes, out in (
        ([[0, 2], [2, 9]], [1], [0, 1], [0, 1], 1, [1, 1, 5], [2, 5]),
        ([[1], [3]], [1, 2, 3], [], [1], 1, [3, 2, 5], [2, 3, 2, 5]),
        ([2, 0, 1], [1, 2], [0], [0], 1, [1, 4, 3], [3, 4, 3]),
    ):
        options = schema.StablehloGatherOptionsT()
        options.offsetDims, options.collapsedSliceDims = offsets, collapsed
        options.startIndexMap, options.indexVectorDim, options.sliceSizes = starts, vector, sizes
        made = cases.tensor(out)  # LiteRT takes its shape from the file
        cases.op("STABLEHLO_GATHER", [x, cases.input(np.array(at, np.int32))], [made], options)
    assert_same(cases, tmp_path)


def test_windows_that_are_placed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    for kind in ("STABLEHLO_ADD", "STABLEHLO_MAXIMUM", ""):
        number, body = cases.graph()
        left, right = body.input([]), body.input([])
        if kind:
            body.op(kind, [left, right])
        else:
            body.outputs.append(right)
        options = schema.StablehloScatterOptionsT()
        options.updateWindowDims, options.insertedWindowDims = [1], [0]
        options.scatterDimsToOperandDims, options.indexVectorDim = [0], 1
        options.updateComputationSubgraphIndex = number
        x = cases.input(rng.standard_normal((5, 4)).astype("float32"))
        at = cases.input(np.array([[1], [3], [4]], np.int32))
        updates = cases.input(rng.standard_normal((3, 4)).astype("float32"))
        cases.op("STABLEHLO_SCATTER", [x, at, updates], options=options)
    assert_same(cases, tmp_path)
