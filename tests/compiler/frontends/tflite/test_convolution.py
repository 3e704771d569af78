"""Convolutions and products with weights: of floats, of 8 and 16 bits, and of floats with weights of 8 and 4 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same

# (height, width), kernel, strides, dilations, SAME or VALID, channels in and out, fused activation
CONVOLUTIONS = [
    ((7, 9), (3, 3), (1, 1), (1, 1), 0, 3, 8, 0),
    ((7, 9), (3, 3), (2, 2), (1, 1), 0, 4, 8, 1),
    ((8, 6), (5, 2), (2, 1), (1, 1), 1, 5, 4, 3),
    ((9, 9), (3, 3), (1, 1), (2, 2), 0, 3, 4, 2),
    ((9, 10), (2, 3), (1, 1), (3, 2), 1, 2, 4, 0),
    ((5, 5), (1, 1), (1, 1), (1, 1), 0, 16, 8, 3),
    ((6, 5), (1, 1), (2, 2), (1, 1), 1, 8, 4, 0),
]


def conv_options(strides: tuple[int, int], dilations: tuple[int, int], padding: int, fused: int) -> object:
    options = schema.Conv2DOptionsT()
    options.strideH, options.strideW = strides
    options.dilationHFactor, options.dilationWFactor = dilations
    options.padding, options.fusedActivationFunction = padding, fused
    return options


def depthwise_options(
    strides: tuple[int, int], dilations: tuple[int, int], padding: int, fused: int, multiplier: int
) -> object:
    options = schema.DepthwiseConv2DOptionsT()
    options.strideH, options.strideW = strides
    options.dilationHFactor, options.dilationWFactor = dilations
    options.padding, options.fusedActivationFunction, options.depthMultiplier = padding, fused, multiplier
    return options


def transposed_options(strides: tuple[int, int], padding: int, fused: int = 0) -> object:
    options = schema.TransposeConvOptionsT()
    options.strideH, options.strideW = strides
    options.padding, options.fusedActivationFunction = padding, fused
    return options


def test_convolutions_of_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for size, kernel, strides, dilations, padding, channels, out, fused in CONVOLUTIONS:
        x = cases.input(rng.standard_normal((2, *size, channels)).astype("float32"))
        filters = cases.constant(rng.standard_normal((out, *kernel, channels)).astype("float32"))
        bias = cases.constant(rng.standard_normal(out).astype("float32"))
        cases.op("CONV_2D", [x, filters, bias], options=conv_options(strides, dilations, padding, fused))
        for multiplier in (1, 2):
            deep = cases.constant(rng.standard_normal((1, *kernel, channels * multiplier)).astype("float32"))
            options = depthwise_options(strides, dilations, padding, fused, multiplier)
            bias = cases.constant(rng.standard_normal(channels * multiplier).astype("float32"))
            cases.op("DEPTHWISE_CONV_2D", [x, deep, bias], options=options)
    grouped = cases.constant(rng.standard_normal((8, 3, 3, 2)).astype("float32"))
    x = cases.input(rng.standard_normal((1, 6, 6, 4)).astype("float32"))
    bias = cases.constant(np.zeros(8, "float32"))
    cases.op("CONV_2D", [x, grouped, bias], options=conv_options((1, 1), (1, 1), 0, 0))
    assert_same(cases, tmp_path, tolerance=1e-5)


def test_transposed_convolutions(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    for size, kernel, strides, padding in (
        ((4, 5), (3, 3), (2, 2), 0),
        ((4, 5), (2, 2), (2, 2), 1),
        ((3, 3), (4, 3), (2, 3), 0),
        ((3, 4), (3, 5), (1, 1), 1),
        ((3, 3), (2, 2), (3, 3), 0),
    ):
        x = cases.input(rng.standard_normal((1, *size, 3)).astype("float32"))
        filters = cases.constant(rng.standard_normal((5, *kernel, 3)).astype("float32"))
        out = [
            n * s if padding == 0 else (n - 1) * s + k for n, s, k in zip(size, strides, kernel, strict=True)
        ]
        shape = cases.constant(np.array([1, *out, 5], np.int32))
        cases.op("TRANSPOSE_CONV", [shape, filters, x], options=transposed_options(strides, padding))
        bias = cases.constant(rng.standard_normal(5).astype("float32"))
        options = transposed_options(strides, padding, 1)
        cases.op("TRANSPOSE_CONV", [shape, filters, x, bias], options=options, version=4)
    assert_same(cases, tmp_path, tolerance=1e-5)


def quantised_weights(
    rng: np.random.Generator, shape: tuple[int, ...], axis: int, per_channel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of 8 bits around zero, and their scales."""
    scales = rng.uniform(0.004, 0.02, shape[axis] if per_channel else 1).astype("float32")
    return rng.integers(-127, 128, shape).astype("int8"), scales


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_convolutions_of_integers(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    info = np.iinfo(dtype)
    grid = {"int8": (0.05, 3), "uint8": (0.05, 131), "int16": (2e-4, 0)}[dtype]
    made = {"int8": (0.12, -5), "uint8": (0.12, 123), "int16": (6e-4, 0)}[dtype]
    wide = "int64" if dtype == "int16" else "int32"
    for number, (size, kernel, strides, dilations, padding, channels, out, fused) in enumerate(CONVOLUTIONS):
        if dtype == "int16" and fused == 2:
            continue  # LiteRT does not clamp to -1 there
        x = rng.integers(info.min, info.max, (1, *size, channels), endpoint=True).astype(dtype)
        given = cases.input(x, scale=grid[0], zero=grid[1])
        for deep in (False, True):
            shape, axis = ((1, *kernel, channels), 3) if deep else ((out, *kernel, channels), 0)
            weights, scales = quantised_weights(rng, shape, axis, dtype != "uint8" and number % 2 == 0)
            if dtype == "uint8":
                zeros, weights = 125, (weights.astype(int) + 128).astype("uint8")
            else:
                zeros = 0
            filters = cases.constant(weights, scale=scales, zero=zeros, axis=axis)
            bias = rng.integers(-200, 200, shape[axis]).astype(wide)
            stored = cases.constant(bias, scale=scales * np.float32(grid[0]), zero=0)
            options = (
                depthwise_options(strides, dilations, padding, fused, 1)
                if deep
                else conv_options(strides, dilations, padding, fused)
            )
            kind = "DEPTHWISE_CONV_2D" if deep else "CONV_2D"
            cases.op(kind, [given, filters, stored], dtype, options, scale=made[0], zero=made[1])
    assert_same(cases, tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_products_of_integers(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = Cases()
    info = np.iinfo(dtype)
    grid, made = {"int8": ((0.05, 3), (0.2, -5)), "int16": ((2e-4, 0), (8e-4, 0))}[dtype]
    wide = "int64" if dtype == "int16" else "int32"
    x = rng.integers(info.min, info.max, (3, 24), endpoint=True).astype(dtype)
    given = cases.input(x, scale=grid[0], zero=grid[1])
    for fused in (0, 1, 3):
        weights, scales = quantised_weights(rng, (10, 24), 0, fused == 1 and dtype == "int8")
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = fused
        filters = cases.constant(weights, scale=scales, zero=0)
        bias = cases.constant(
            rng.integers(-300, 300, 10).astype(wide), scale=scales * np.float32(grid[0]), zero=0
        )
        cases.op("FULLY_CONNECTED", [given, filters, bias], dtype, options, scale=made[0], zero=made[1])
        if not fused:
            cases.op("FULLY_CONNECTED", [given, filters, -1], dtype, options, scale=made[0], zero=made[1])
    left = cases.input(
        rng.integers(info.min, info.max, (2, 4, 6), endpoint=True).astype(dtype), scale=grid[0], zero=grid[1]
    )
    right = cases.input(
        rng.integers(info.min, info.max, (2, 6, 3), endpoint=True).astype(dtype), scale=grid[0], zero=grid[1]
    )
    cases.op(
        "BATCH_MATMUL", [left, right], dtype, schema.BatchMatMulOptionsT(), scale=made[0] / 2, zero=made[1]
    )
    assert_same(cases, tmp_path)


def test_products_of_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cases = Cases()
    for shape, keep in (((3, 12), False), ((2, 5, 12), True), ((2, 5, 12), False), ((2, 3, 4), False)):
        x = cases.input(rng.standard_normal(shape).astype("float32"))
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims, options.fusedActivationFunction = keep, len(shape) % 2
        weights = rng.standard_normal((7, 12)).astype("float32")
        bias = cases.constant(rng.standard_normal(7).astype("float32"))
        cases.op("FULLY_CONNECTED", [x, cases.constant(weights), bias], options=options)
        cases.op("FULLY_CONNECTED", [x, cases.input(weights), -1], options=options)
    for left, right, x_flip, y_flip in (
        ((2, 3, 4), (2, 4, 5), False, False),
        ((2, 4, 3), (2, 5, 4), True, True),
        ((3, 1, 2, 4), (1, 2, 4, 3), False, False),
        ((3, 4), (2, 4, 5), False, False),
    ):
        options = schema.BatchMatMulOptionsT()
        options.adjX, options.adjY = x_flip, y_flip
        sides = [cases.input(rng.standard_normal(shape).astype("float32")) for shape in (left, right)]
        cases.op("BATCH_MATMUL", sides, options=options)
    assert_same(cases, tmp_path, tolerance=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
def test_floats_with_weights_of_eight_bits(per_channel: bool, tmp_path: Path) -> None:
    """Dynamic range quantisation: LiteRT rounds the activations, too."""
    rng = np.random.default_rng(5)
    cases = Cases()
    for size, kernel, strides, dilations, padding, channels, out, fused in CONVOLUTIONS:
        x = cases.input(rng.standard_normal((2, *size, channels)).astype("float32"))
        for deep in (False, True):
            shape, axis = ((1, *kernel, channels), 3) if deep else ((out, *kernel, channels), 0)
            weights, scales = quantised_weights(rng, shape, axis, per_channel or deep)
            bias = cases.constant(rng.standard_normal(shape[axis]).astype("float32"))
            filters = cases.constant(weights, scale=scales, zero=0, axis=axis)
            options = (
                depthwise_options(strides, dilations, padding, fused, 1)
                if deep
                else conv_options(strides, dilations, padding, fused)
            )
            cases.op("DEPTHWISE_CONV_2D" if deep else "CONV_2D", [x, filters, bias], options=options)
    out_shape = cases.constant(np.array([1, 8, 10, 5], np.int32))
    weights, scales = quantised_weights(rng, (5, 3, 3, 4), 0, per_channel)
    x = cases.input(rng.standard_normal((1, 4, 5, 4)).astype("float32"))
    filters = cases.constant(weights, scale=scales, zero=0)
    cases.op("TRANSPOSE_CONV", [out_shape, filters, x], options=transposed_options((2, 2), 0))
    if not per_channel:
        for flip, asymmetric in ((False, False), (True, False), (False, True)):
            options = schema.BatchMatMulOptionsT()
            options.adjY, options.asymmetricQuantizeInputs = flip, asymmetric
            shape = (2, 3, 8) if flip else (2, 8, 3)
            weights, scales = quantised_weights(rng, shape, 0, False)
            x = cases.input(rng.standard_normal((2, 4, 8)).astype("float32"))
            cases.op("BATCH_MATMUL", [x, cases.constant(weights, scale=scales, zero=0)], options=options)
    for asymmetric in (False, True):
        for shape, keep in (((3, 24), False), ((2, 5, 24), True)):
            options = schema.FullyConnectedOptionsT()
            options.asymmetricQuantizeInputs, options.keepNumDims = asymmetric, keep
            weights, scales = quantised_weights(rng, (10, 24), 0, per_channel)
            x = cases.input(rng.standard_normal(shape).astype("float32"))
            bias = cases.constant(rng.standard_normal(10).astype("float32"))
            cases.op(
                "FULLY_CONNECTED", [x, cases.constant(weights, scale=scales, zero=0), bias], options=options
            )
    assert_same(cases, tmp_path, tolerance=2e-5)


def test_floats_with_weights_of_four_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    cases = Cases()
    for per_channel in (False, True):
        scales = rng.uniform(0.02, 0.1, 10 if per_channel else 1)
        weights = cases.constant(rng.integers(-7, 8, (10, 24)), "int4", scale=scales, zero=0)
        x = cases.input(rng.standard_normal((3, 24)).astype("float32"))
        options = schema.FullyConnectedOptionsT()
        options.asymmetricQuantizeInputs = True
        cases.op("FULLY_CONNECTED", [x, weights, -1], options=options, version=10)
    assert_same(cases, tmp_path, tolerance=2e-5)
