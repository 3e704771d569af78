"""Softmax and normalisations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same


def test_normalised_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for shape in ((3, 7), (2, 3, 4, 5), (6,)):
        x = cases.input(rng.standard_normal(shape).astype("float32") * 3)
        for beta in (1.0, 0.5):
            options = schema.SoftmaxOptionsT()
            options.beta = beta
            cases.op("SOFTMAX", [x], options=options)
        cases.op("LOG_SOFTMAX", [x], options=schema.LogSoftmaxOptionsT())
        cases.op("L2_NORMALIZATION", [x], options=schema.L2NormOptionsT())
    x = cases.input(rng.standard_normal((1, 3, 4, 9)).astype("float32"))
    for radius, bias, alpha, beta in ((2, 1.0, 0.5, 0.75), (1, 2.0, 1.0, 0.5), (20, 1.0, 0.1, 1.0)):
        options = schema.LocalResponseNormalizationOptionsT()
        options.radius, options.bias, options.alpha, options.beta = radius, bias, alpha, beta
        cases.op("LOCAL_RESPONSE_NORMALIZATION", [x], options=options)
    assert_same(cases, tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_normalised_integers(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (4, 9), endpoint=True).astype(dtype)
    scale, zero = {"int8": (0.08, -3), "uint8": (0.08, 125), "int16": (2e-4, 0)}[dtype]
    made = {"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (1 / 32768, 0)}[dtype]
    given = cases.input(x, scale=scale, zero=zero)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    cases.op("SOFTMAX", [given], dtype, options, scale=made[0], zero=made[1])
    if dtype != "int16":
        both = {"int8": (1 / 128, 0), "uint8": (1 / 128, 128)}[dtype]
        cases.op("L2_NORMALIZATION", [given], dtype, schema.L2NormOptionsT(), scale=both[0], zero=both[1])
        logs = {"int8": (16 / 256, 127), "uint8": (16 / 256, 255)}[dtype]
        cases.op("LOG_SOFTMAX", [given], dtype, schema.LogSoftmaxOptionsT(), scale=logs[0], zero=logs[1])
    # LiteRT takes exponentials of 16 bits from tables
    assert_same(cases, tmp_path, steps=8 if dtype == "int16" else 1)
