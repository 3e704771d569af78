"""From one element type or grid to another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same

GRIDS = {"int8": (0.05, 3), "uint8": (0.05, 131), "int16": (2e-4, 0)}


def test_casts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    types = ("float32", "int32", "int64", "int16", "int8", "uint8", "bool")
    for source in types:
        values = (rng.random((3, 5)) * 100).astype(source)
        x = cases.input(values)
        for target in types:
            if target != source:
                cases.op("CAST", [x], target, schema.CastOptionsT())
    assert_same(cases, tmp_path)


def test_grids(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    x = cases.input((rng.standard_normal((4, 9)) * 5).astype("float32"))
    for dtype, (scale, zero) in GRIDS.items():
        y = cases.op("QUANTIZE", [x], dtype, schema.QuantizeOptionsT(), scale=scale, zero=zero)
        cases.op("DEQUANTIZE", [y], options=schema.DequantizeOptionsT())
        other = {"int8": (0.08, -9), "uint8": (0.08, 100), "int16": (3e-4, 0)}[dtype]
        cases.op("QUANTIZE", [y], dtype, schema.QuantizeOptionsT(), scale=other[0], zero=other[1])
    whole = cases.input(rng.integers(-128, 128, (3, 4)).astype("int8"), scale=0.05, zero=3)
    cases.op("QUANTIZE", [whole], "uint8", schema.QuantizeOptionsT(), scale=0.05, zero=131)
    for low, high, bits in ((-3.0, 4.0, 8), (0.0, 6.0, 8), (-1.5, 0.25, 4)):
        options = schema.FakeQuantOptionsT()
        options.min, options.max, options.numBits = low, high, bits
        cases.op("FAKE_QUANT", [x], options=options)
    assert_same(cases, tmp_path, tolerance=1e-6)


def test_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    for source, target in (
        ("float32", "int32"),
        ("int32", "float32"),
        ("int8", "uint8"),
        ("int32", "uint32"),
    ):
        values = rng.standard_normal((3, 4)).astype("float32")
        x = cases.input((values * 50).astype(source) if source != "int32" else values.view(np.int32))
        cases.op("BITCAST", [x], [cases.tensor([3, 4], target)], schema.BitcastOptionsT())
    assert_same(cases, tmp_path)
