"""Small models with 8-bit products whose sums would saturate in 16 bits, and their exact outputs.

Run as a program, it tells how far this process's references are from the exact outputs, as JSON. A test does so under
an emulated CPU without VNNI, whose `/proc/cpuinfo` is that of the host: so the features are arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from edgec.compiler.frontends.onnx.prepare import ports_of
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.integer_products import ways_to_run
from edgec.compiler.verify.reference import Reference, session_of
from tests.compiler.small_models import model_of

U8, S8 = np.dtype(np.uint8), np.dtype(np.int8)
ELEMENTS = {U8: TensorProto.UINT8, S8: TensorProto.INT8}
SCALES = {"sa": np.float32(0.05), "sb": np.float32(0.01), "sy": np.float32(0.5)}


@dataclass(frozen=True)
class Case:
    name: str
    model: ModelProto
    inputs: dict[str, np.ndarray]
    expected: np.ndarray


def cases() -> Iterator[Case]:
    """One model for each way to write a product: as integers, between (de)quantisers, with computed operands."""
    for left, right in ((U8, U8), (U8, S8), (S8, S8)):
        for computed in (False, True):
            yield _matmul_integer(left, right, computed)
            yield _qlinear_matmul(left, right, computed)
            yield _quantised_floats("MatMul", left, right, computed)
        yield _quantised_floats("Gemm", left, right, False)
    yield _conv_integer(U8, S8)
    yield _conv_integer(S8, U8)
    yield _dynamic(S8)


def _operands(left: np.dtype, right: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Values of which two neighbours' products add up to more than 16 bits."""
    rng = np.random.default_rng(0)
    high = np.where(rng.random((4, 64)) < 0.9, np.iinfo(left).max, 3).astype(left)
    ends = np.iinfo(right)
    return high, np.where(rng.random((64, 16)) < 0.6, ends.max, ends.min).astype(right)


def _product(a: np.ndarray, b: np.ndarray, zero: int) -> np.ndarray:
    return (a.astype(np.int64) - zero) @ b.astype(np.int64)


def _requantised(sums: np.ndarray, kind: np.dtype) -> np.ndarray:
    scale = float(SCALES["sa"]) * float(SCALES["sb"]) / float(SCALES["sy"])
    ends = np.iinfo(kind)
    return np.clip(np.rint(sums * scale) + 7, ends.min, ends.max).astype(kind)


def _case(
    name: str, nodes: list[NodeProto], a: np.ndarray, b: np.ndarray, computed: bool, **of: object
) -> Case:
    left, right = a.dtype, b.dtype
    inputs = {"a": (ELEMENTS[left], list(a.shape))}
    constants = {**SCALES, "za": left.type(3), "zb": right.type(0), "zy": left.type(7)}
    if computed:
        inputs["b"] = (ELEMENTS[right], list(b.shape))
    else:
        constants["b"] = b
    read = {used for node in nodes for used in node.input}
    constants = {key: np.asarray(value) for key, value in constants.items() if key in read}
    model = model_of(nodes, inputs, ["y"], constants, output_type=of["output_type"])
    label = f"{name} {left.name} × {right.name}{', computed' if computed else ''}"
    return Case(label, model, {"a": a, "b": b} if computed else {"a": a}, np.asarray(of["expected"]))


def _matmul_integer(left: np.dtype, right: np.dtype, computed: bool) -> Case:
    a, b = _operands(left, right)
    nodes = [helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])]
    expected = _product(a, b, 3).astype(np.int32)
    return _case("MatMulInteger", nodes, a, b, computed, output_type=TensorProto.INT32, expected=expected)


def _qlinear_matmul(left: np.dtype, right: np.dtype, computed: bool) -> Case:
    a, b = _operands(left, right)
    nodes = [helper.make_node("QLinearMatMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], ["y"])]
    expected = _requantised(_product(a, b, 3), left)
    return _case("QLinearMatMul", nodes, a, b, computed, output_type=ELEMENTS[left], expected=expected)


def _quantised_floats(op: str, left: np.dtype, right: np.dtype, computed: bool) -> Case:
    a, b = _operands(left, right)
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "sa", "za"], ["real_a"]),
        helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["real_b"]),
        helper.make_node(op, ["real_a", "real_b"], ["real_y"]),
        helper.make_node("QuantizeLinear", ["real_y", "sy", "zy"], ["y"]),
    ]
    expected = _requantised(_product(a, b, 3), left)
    return _case(f"{op} of floats", nodes, a, b, computed, output_type=ELEMENTS[left], expected=expected)


def _conv_integer(left: np.dtype, right: np.dtype) -> Case:
    """Of 1 × 1 pixels: a product of matrices."""
    a, b = _operands(left, right)
    picture, weights = a.T.reshape(1, 64, 2, 2), b.T.reshape(16, 64, 1, 1)
    nodes = [helper.make_node("ConvInteger", ["a", "b", "za", "zb"], ["y"])]
    expected = _product(a, b, 3).T.reshape(1, 16, 2, 2).astype(np.int32)
    return _case(
        "ConvInteger", nodes, picture, weights, False, output_type=TensorProto.INT32, expected=expected
    )


def _dynamic(right: np.dtype) -> Case:
    """Activations that are quantised as they come, as ONNX Runtime's quantiser writes it."""
    a, b = _operands(U8, right)
    x = a.astype(np.float32)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "sx", "zx"]),
        helper.make_node("MatMulInteger", ["a", "b", "zx", "zb"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sx", "sb"], ["scale"]),
        helper.make_node("Mul", ["real", "scale"], ["y"]),
    ]
    constants = {"b": b, "zb": np.zeros((), right), "sb": np.asarray(SCALES["sb"])}
    model = model_of(nodes, {"x": [4, 64]}, ["y"], constants)
    expected = (x.astype(np.float64) @ b.astype(np.float64) * float(SCALES["sb"])).astype(np.float32)
    return Case(f"dynamic × {right.name}", model, {"x": x}, expected)


def source_of(model: ModelProto) -> SourceModel:
    """A source model as a front end would make it, without importing one."""
    ports = ports_of(model.graph.input), ports_of(model.graph.output)
    return SourceModel(Path("model.onnx"), "", model, model, *ports, (), {})


def error_of(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())


def main(features: frozenset[str]) -> None:
    """Print, for each case, the errors of ONNX Runtime as it is and of the product's reference."""
    found = {}
    for case in cases():
        (plain,) = session_of(case.model.SerializeToString()).run(None, case.inputs)
        reference = Reference(source_of(case.model), ways=ways_to_run(case.model, "x86_64", features))
        (exact,) = reference.run(case.inputs).values()
        found[case.name] = (
            error_of(plain, case.expected),
            error_of(exact, case.expected),
            reference.description,
        )
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(frozenset(sys.argv[1:]))
