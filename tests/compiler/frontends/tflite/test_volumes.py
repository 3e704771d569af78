"""Convolutions over three axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same


def options_of(
    strides: tuple[int, int, int], dilations: tuple[int, int, int], padding: int, fused: int
) -> object:
    options = schema.Conv3DOptionsT()
    options.strideD, options.strideH, options.strideW = strides
    options.dilationDFactor, options.dilationHFactor, options.dilationWFactor = dilations
    options.padding, options.fusedActivationFunction = padding, fused
    return options


def test_convolutions_of_volumes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for kernel, strides, padding, fused in (
        ((3, 3, 3), (1, 1, 1), 0, 0),
        ((2, 3, 1), (2, 1, 2), 0, 1),
        ((3, 2, 2), (1, 2, 1), 1, 3),
    ):
        x = cases.input(rng.standard_normal((1, 5, 6, 7, 3)).astype("float32"))
        filters = cases.constant(rng.standard_normal((*kernel, 3, 4)).astype("float32"))
        bias = cases.constant(rng.standard_normal(4).astype("float32"))
        cases.op("CONV_3D", [x, filters, bias], options=options_of(strides, (1, 1, 1), padding, fused))
        out = [
            n * s if padding == 0 else (n - 1) * s + k
            for n, s, k in zip((2, 3, 4), strides, kernel, strict=True)
        ]
        small = cases.input(rng.standard_normal((1, 2, 3, 4, 3)).astype("float32"))
        shape = cases.constant(np.array([1, *out, 5], np.int32))
        filters = cases.constant(rng.standard_normal((*kernel, 5, 3)).astype("float32"))
        options = options_of(strides, (1, 1, 1), padding, 0)
        cases.op("CONV_3D_TRANSPOSE", [shape, filters, small], options=options)
    assert_same(cases, tmp_path, tolerance=1e-5)
