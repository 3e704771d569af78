"""Element-wise operators and comparisons, in every type that LiteRT has them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from tests.compiler.frontends.tflite.models import Cases, assert_same

F32 = np.float32
BINARY = {
    "ADD": schema.AddOptionsT,
    "SUB": schema.SubOptionsT,
    "MUL": schema.MulOptionsT,
    "DIV": schema.DivOptionsT,
}
PLAIN = ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "FLOOR_DIV", "FLOOR_MOD", "ATAN2")
COMPARISONS = ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
SHAPES = [
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (4,)),
    ((1, 5, 6, 3), (1, 1, 1, 3)),
    ((3, 1), (1, 4)),
    ((2, 2), ()),
]
UNARY = (
    *(
        "ABS",
        "NEG",
        "EXP",
        "SIN",
        "COS",
        "TANH",
        "LOGISTIC",
        "FLOOR",
        "CEIL",
        "ROUND",
        "SIGN",
        "RELU",
        "RELU6",
    ),
    *("RELU_N1_TO_1", "RELU_0_TO_1", "ELU", "HARD_SWISH", "SQUARE", "LOG", "SQRT", "RSQRT", "ZEROS_LIKE"),
)


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Numbers of the type without zeros; floats with halves, which rounding has to treat right."""
    if dtype == "float32":
        x = np.round(rng.standard_normal(shape) * 4) / 2
        return np.where(x == 0, 1.25, x).astype(dtype)
    low = 1 if dtype.startswith("u") else -9
    x = rng.integers(low, 10, shape)
    return np.where(x == 0, 3, x).astype(dtype)


def activation(options: object, number: int) -> object:
    options.fusedActivationFunction = number  # type: ignore[attr-defined]
    return options


def test_arithmetic_of_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = Cases()
    for number, (first, second) in enumerate(SHAPES):
        a, b = cases.input(values(rng, first)), cases.input(values(rng, second))
        for kind, options in BINARY.items():
            cases.op(kind, [a, b], options=activation(options(), (number + len(kind)) % 4))
        for kind in PLAIN:
            if kind != "ATAN2" or first == second:  # LiteRT's does not broadcast
                cases.op(kind, [a, b])
        for kind in COMPARISONS:
            cases.op(kind, [a, b], "bool")
    a, b = (cases.input(values(rng, (4, 5))) for _ in range(2))
    power = cases.op("ABS", [a], returned=False)
    cases.op("POW", [power, b], options=schema.PowOptionsT())
    cases.op(
        "ADD_N", [a, b, power], options=schema.AddNoptionsT() if hasattr(schema, "AddNoptionsT") else None
    )
    for kind in ("STABLEHLO_ADD", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM"):
        cases.op(kind, [a, b])
    assert_same(cases, tmp_path)


def test_atan2_in_every_quadrant(tmp_path: Path) -> None:
    cases = Cases()
    edges = np.array([0.0, -0.0, 1.0, -1.0, 2.5, -3.5, np.inf, -np.inf, np.nan], F32)
    y, x = np.meshgrid(edges, edges)
    cases.op("ATAN2", [cases.input(y), cases.input(x)])
    assert_same(cases, tmp_path)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_arithmetic_of_integers(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = Cases()
    for first, second in SHAPES[:3]:
        a, b = cases.input(values(rng, first, dtype)), cases.input(values(rng, second, dtype))
        for kind in ("ADD", "SUB", "MUL"):
            cases.op(kind, [a, b], dtype, activation(BINARY[kind](), len(first) % 4))
        if dtype == "int32":
            cases.op("DIV", [a, b], dtype, schema.DivOptionsT())
            cases.op("SQUARED_DIFFERENCE", [a, b], dtype)
        for kind in ("MAXIMUM", "MINIMUM", "FLOOR_MOD", "FLOOR_DIV"):
            if (kind, dtype) != ("FLOOR_DIV", "int64"):
                cases.op(kind, [a, b], dtype)
        for kind in COMPARISONS:
            cases.op(kind, [a, b], "bool")
    for kind in ("ABS", "NEG") if dtype == "int32" else ("NEG",):
        cases.op(kind, [a], dtype)
    assert_same(cases, tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_bits(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    info = np.iinfo(dtype)
    a = cases.input(rng.integers(info.min, info.max, (3, 7), endpoint=True).astype(dtype))
    by = cases.input(rng.integers(0, 8, (3, 7)).astype(dtype))
    cases.op("BITWISE_XOR", [a, by], dtype, schema.BitwiseXorOptionsT())
    cases.op("RIGHT_SHIFT", [a, by], dtype, schema.RightShiftOptionsT())
    if dtype.startswith("int"):
        cases.op("STABLEHLO_SHIFT_LEFT", [a, by], dtype, schema.StablehloShiftLeftOptionsT())
    assert_same(cases, tmp_path)


def test_truth_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = Cases()
    a, b = (cases.input(rng.random((3, 4)) < 0.5) for _ in range(2))
    for kind in ("LOGICAL_AND", "LOGICAL_OR", "EQUAL", "NOT_EQUAL"):
        cases.op(kind, [a, b], "bool")
    cases.op("LOGICAL_NOT", [a], "bool")
    assert_same(cases, tmp_path)


def test_functions_of_one_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cases = Cases()
    for shape in ((3, 5), (1, 4, 4, 8)):
        x = cases.input(values(rng, shape))
        positive = cases.op("ABS", [x], returned=False)
        for kind in UNARY:
            cases.op(kind, [positive if kind in ("LOG", "SQRT", "RSQRT") else x])
        for approximate in (True, False):
            gelu = schema.GeluOptionsT()
            gelu.approximate = approximate
            cases.op("GELU", [x], options=gelu)
        leaky = schema.LeakyReluOptionsT()
        leaky.alpha = 0.3
        cases.op("LEAKY_RELU", [x], options=leaky)
        cases.op("PRELU", [x, cases.constant(rng.random(shape[-1:]).astype("float32"))])
    assert_same(cases, tmp_path, tolerance=1e-5)


def test_choices(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    cases = Cases()
    for dtype in ("float32", "int32", "int64"):
        a, b = (cases.input(values(rng, (4, 3, 2), dtype)) for _ in range(2))
        rows, whole = (cases.input(rng.random(shape) < 0.5) for shape in ((4,), (4, 3, 2)))
        cases.op("SELECT", [rows, a, b], dtype, schema.SelectOptionsT())
        cases.op("SELECT", [whole, a, b], dtype, schema.SelectOptionsT())
        wide = cases.input(rng.random((3, 1)) < 0.5)
        cases.op("SELECT_V2", [wide, a, b], dtype, schema.SelectV2OptionsT())
    assert_same(cases, tmp_path)


GRIDS = {"int8": ((0.05, 3), (0.08, -7), (0.1, 0)), "uint8": ((0.05, 120), (0.08, 131), (0.1, 128))}


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantised_arithmetic(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    cases = Cases()
    info = np.iinfo(dtype)
    (s1, z1), (s2, z2), (s3, z3) = GRIDS[dtype]
    for first, second in SHAPES[:3]:
        a, b = (
            cases.input(rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype), scale=s, zero=z)
            for shape, s, z in ((first, s1, z1), (second, s2, z2))
        )
        for kind in ("ADD", "SUB", "MUL"):
            for fused in (0, 1, 3):
                cases.op(kind, [a, b], dtype, activation(BINARY[kind](), fused), scale=s3, zero=z3)
        for kind in COMPARISONS:
            cases.op(kind, [a, b], "bool")
        same = cases.input(
            rng.integers(info.min, info.max, first, endpoint=True).astype(dtype), scale=s1, zero=z1
        )
        for kind in ("MAXIMUM", "MINIMUM"):
            cases.op(kind, [a, same], dtype, schema.MaximumMinimumOptionsT(), scale=s1, zero=z1)
    assert_same(cases, tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_quantised_functions(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    cases = Cases()
    info = np.iinfo(dtype)
    scale, zero = {"int8": (0.04, 5), "uint8": (0.04, 133), "int16": (2.0**-12, 0)}[dtype]
    x = cases.input(
        rng.integers(info.min, info.max, (1, 6, 5, 4), endpoint=True).astype(dtype), scale=scale, zero=zero
    )
    unit = {"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (2.0**-15, 0)}[dtype]
    both = {"int8": (1 / 128, 0), "uint8": (1 / 128, 128), "int16": (2.0**-15, 0)}[dtype]
    cases.op("LOGISTIC", [x], dtype, scale=unit[0], zero=unit[1])
    cases.op("TANH", [x], dtype, scale=both[0], zero=both[1])
    leaky = schema.LeakyReluOptionsT()
    leaky.alpha = 0.2
    cases.op("LEAKY_RELU", [x], dtype, leaky, scale=scale, zero=zero)
    if dtype != "uint8":
        cases.op("ABS", [x], dtype, scale=scale, zero=zero)
    if dtype != "int16":
        wide = {"int8": (0.05, -10), "uint8": (0.05, 118)}[dtype]
        for kind in ("HARD_SWISH", "ELU", "RELU", "RELU6", "RELU_N1_TO_1"):
            if (kind, dtype) != ("ELU", "uint8"):
                cases.op(kind, [x], dtype, scale=wide[0], zero=wide[1])
    # LiteRT interpolates 16-bit functions in a table of 256 entries
    assert_same(cases, tmp_path, steps=12 if dtype == "int16" else 1)


@pytest.mark.parametrize(("kind", "zero"), [("ADD", 127), ("SUB", -128)])
def test_pixels_that_are_normalised_round_halves_as_litert_does(kind: str, zero: int, tmp_path: Path) -> None:
    """`x / 127.5 - 1`: every result lies in the middle between two integers."""
    cases = Cases()
    pixels = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)
    x = cases.input(pixels, scale=1 / 127.5, zero=-128)
    one = cases.constant(np.array(-128 if kind == "ADD" else 127, np.int8), scale=1 / 255, zero=zero)
    cases.op(kind, [x, one], "int8", BINARY[kind](), scale=1 / 127.5, zero=-1)
    assert_same(cases, tmp_path, steps=0, compiled=True)
