"""Pools and resized pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same

GRID = {
    "int8": {"scale": 0.06, "zero": -4},
    "uint8": {"scale": 0.06, "zero": 120},
    "int16": {"scale": 2e-4, "zero": 0},
}


def pool_options(kernel: tuple[int, int], strides: tuple[int, int], padding: int, fused: int) -> object:
    options = schema.Pool2DOptionsT()
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = strides
    options.padding, options.fusedActivationFunction = padding, fused
    return options


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int16"])
def test_pools(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    grid = GRID.get(dtype, {})
    for size, kernel, strides, padding, fused in (
        ((7, 9), (2, 2), (2, 2), 0, 0),
        ((7, 9), (3, 2), (2, 1), 0, 1),
        ((8, 6), (3, 3), (1, 2), 1, 3),
        ((5, 5), (5, 5), (1, 1), 1, 0),
        ((3, 4), (5, 5), (2, 2), 0, 0),
    ):
        if dtype == "float32":
            x = cases.input(rng.standard_normal((2, *size, 4)).astype("float32"))
        else:
            info = np.iinfo(dtype)
            x = cases.input(
                rng.integers(info.min, info.max, (1, *size, 4), endpoint=True).astype(dtype), **grid
            )
        for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"):
            if kind != "L2_POOL_2D" or dtype == "float32":
                cases.op(kind, [x], dtype, pool_options(kernel, strides, padding, fused), **grid)
    assert_same(cases, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int16"])
@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((5, 7), (10, 14)),
        ((6, 6), (4, 9)),
        ((8, 4), (3, 3)),
        ((4, 4), (1, 1)),
        ((2, 2), (7, 5)),
        ((3, 5), (3, 5)),
    ],
)
def test_resized_pictures(size: tuple[int, int], out: tuple[int, int], dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    grid = GRID.get(dtype, {})
    if dtype == "float32":
        x = cases.input(rng.standard_normal((1, *size, 3)).astype("float32"))
    else:
        info = np.iinfo(dtype)
        x = cases.input(rng.integers(info.min, info.max, (1, *size, 3), endpoint=True).astype(dtype), **grid)
    to = cases.constant(np.array(out, np.int32))
    for align, half in ((False, False), (True, False), (False, True)):
        for kind in ("ResizeBilinear", "ResizeNearestNeighbor"):
            options = getattr(schema, f"{kind}OptionsT")()
            options.alignCorners, options.halfPixelCenters = align, half
            name = "RESIZE_BILINEAR" if kind == "ResizeBilinear" else "RESIZE_NEAREST_NEIGHBOR"
            cases.op(name, [x, to], dtype, options, **grid)
    # interpolated integers are rounded by LiteRT after each of two fixed-point products
    assert_same(cases, tmp_path, tolerance=5e-6)


def test_bytes_are_interpolated_with_the_same_bits(tmp_path: Path) -> None:
    """At twice the size every sixteenth value lies in the middle between two integers."""
    cases = Cases()
    x = cases.input(
        np.random.default_rng(3).integers(-128, 128, (1, 6, 6, 8)).astype("int8"), scale=0.1, zero=24
    )
    options = schema.ResizeBilinearOptionsT()
    options.halfPixelCenters = True
    to = cases.constant(np.array([12, 12], np.int32))
    cases.op("RESIZE_BILINEAR", [x, to], "int8", options, scale=0.1, zero=24)
    assert_same(cases, tmp_path, steps=0, compiled=True)
