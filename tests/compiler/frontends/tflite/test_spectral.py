"""Transforms of every length, and the parts of their results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same


def test_transforms(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for shape, lengths in (
        ((2, 1, 16), (1, 16)),
        ((1, 12), (1, 8)),
        ((3, 1, 6), (1, 8)),
        ((2, 4, 8), (4, 8)),
        ((6, 8), (4, 8)),
    ):
        x = cases.input(rng.standard_normal(shape).astype("float32"))
        inputs = [x, cases.constant(np.array(lengths, np.int32))]
        y = cases.op("RFFT2D", inputs, "complex64", schema.Rfft2dOptionsT(), returned=False)
        for kind in ("COMPLEX_ABS", "REAL", "IMAG"):
            cases.op(kind, [y])
    assert_same(cases, tmp_path, tolerance=1e-5)
