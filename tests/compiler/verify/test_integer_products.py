"""Models with 8-bit products are run exactly on every CPU, or it is said that they are not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.verify.integer_products import (
    PLAIN,
    SATURATING,
    STANDARD,
    UNFUSED,
    UNFUSED_UNSIGNED,
    UNSIGNED_WEIGHTS,
    saturates,
    ways_to_run,
)
from edgec.compiler.verify.reference import Reference
from edgec.targets import machine_arch
from tests.compiler.small_models import model_of
from tests.compiler.verify.integer_models import Case, cases, error_of, source_of

WITHOUT_VNNI = ("x86_64", frozenset({"sse4_1", "avx2"}))
WITH_VNNI = ("x86_64", frozenset({"sse4_1", "avx2", "avx512_vnni"}))
ROUNDING = 1e-6  # the evaluator multiplies scales in another order
CASES = {case.name: case for case in cases()}


@pytest.mark.parametrize(
    ("arch", "features", "expected"),
    [
        ("x86_64", {"avx2"}, True),  # Haswell to Zen 3
        ("x86_64", {"avx2", "avx512f"}, True),  # Skylake-X
        ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, False),
        ("x86_64", {"avx2", "avx_vnni"}, False),  # Alder Lake
        ("x86_64", {"sse4_2"}, False),  # measured under qemu's Nehalem: exact
        ("aarch64", {"asimd"}, False),
    ],
)
def test_only_avx2_without_vnni_saturates(arch: str, features: set[str], expected: bool) -> None:
    assert saturates(arch, frozenset(features)) == expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_cpu_with_vnni_needs_no_help(case: Case) -> None:
    assert ways_to_run(case.model, *WITH_VNNI) == (PLAIN,)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("MatMulInteger uint8 × uint8", (PLAIN,)),
        ("MatMul of floats uint8 × uint8", (PLAIN,)),
        ("MatMulInteger int8 × int8", (PLAIN,)),
        ("ConvInteger uint8 × int8", (PLAIN,)),
        ("MatMulInteger uint8 × int8", (UNSIGNED_WEIGHTS, STANDARD)),
        ("QLinearMatMul uint8 × int8", (UNSIGNED_WEIGHTS, STANDARD)),
        ("dynamic × int8", (UNSIGNED_WEIGHTS, STANDARD)),
        ("MatMulInteger uint8 × int8, computed", (STANDARD,)),
        ("QLinearMatMul uint8 × int8, computed", (STANDARD,)),
        ("ConvInteger int8 × uint8", (STANDARD,)),
        ("Gemm of floats uint8 × int8", (UNSIGNED_WEIGHTS, UNFUSED, STANDARD)),
        ("MatMul of floats uint8 × int8, computed", (UNFUSED, STANDARD)),
        ("MatMul of floats int8 × int8", (UNSIGNED_WEIGHTS, UNFUSED, STANDARD)),
    ],
)
def test_a_cpu_without_vnni_decides_by_the_products(name: str, ways: tuple[object, ...]) -> None:
    assert ways_to_run(CASES[name].model, *WITHOUT_VNNI) == ways


def test_operators_that_the_standard_lacks_are_run_as_well_as_can_be() -> None:
    dynamic = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    scale = np.float32(0.01).reshape(())
    weights = np.full((64, 16), 127, np.int8)
    constant = model_of([dynamic], {"x": [4, 64]}, ["y"], {"w": weights, "s": scale})
    assert ways_to_run(constant, *WITHOUT_VNNI) == (UNSIGNED_WEIGHTS, SATURATING)
    computed = model_of([dynamic], {"x": [4, 64], "w": (TensorProto.INT8, [64, 16])}, ["y"], {"s": scale})
    ways = ways_to_run(computed, *WITHOUT_VNNI)
    assert not any(way.exact for way in ways)
    reference = Reference(source_of(computed), ways=ways_to_run(computed, *WITHOUT_VNNI))
    assert "saturate on this CPU" in reference.description


def test_both_kinds_of_products_in_one_model_are_both_helped() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "s"], ["real"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["weights"]),
        helper.make_node("MatMul", ["real", "weights"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "s"], ["b"]),
        helper.make_node("MatMulInteger", ["b", "w"], ["y"]),
    ]
    constants = {"s": np.float32(0.1).reshape(()), "w": np.ones((8, 8), np.int8)}
    model = model_of(
        nodes, {"a": (TensorProto.UINT8, [4, 8])}, ["y"], constants, output_type=TensorProto.INT32
    )
    assert ways_to_run(model, *WITHOUT_VNNI) == (UNFUSED_UNSIGNED, STANDARD)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_chosen_way_computes_the_exact_outputs(case: Case) -> None:
    """On this machine; what a CPU without VNNI makes of them is the emulator's business."""
    reference = Reference(source_of(case.model), ways=ways_to_run(case.model, *WITHOUT_VNNI))
    assert reference.way == ways_to_run(case.model, *WITHOUT_VNNI)[0]
    (got,) = reference.run(case.inputs).values()
    assert got.dtype == case.expected.dtype
    assert error_of(got, case.expected) <= ROUNDING


def test_a_session_that_fails_gives_way_to_the_next() -> None:
    """With signed activations ONNX Runtime has no `QLinearMatMul` of unsigned weights."""
    case = CASES["QLinearMatMul int8 × int8"]
    nodes = [*case.model.graph.node, helper.make_node("MatMulInteger", ["u", "b"], ["z"])]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer}
    inputs = {"a": (TensorProto.INT8, [4, 64]), "u": (TensorProto.UINT8, [4, 64])}
    model = model_of(nodes, inputs, ["y", "z"], constants)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT32
    assert ways_to_run(model, *WITHOUT_VNNI) == (UNSIGNED_WEIGHTS, STANDARD)
    reference = Reference(source_of(model), ways=ways_to_run(model, *WITHOUT_VNNI))
    assert reference.way == STANDARD
    assert reference.description.startswith("onnx ")
    got = reference.run({**case.inputs, "u": np.full((4, 64), 255, np.uint8)})
    assert error_of(got["y"], case.expected) <= ROUNDING


def test_a_model_that_nothing_runs_is_refused() -> None:
    model = model_of([helper.make_node("Unheard", ["x"], ["y"])], {"x": [1]}, ["y"])
    with pytest.raises(ModelError, match=r"model\.onnx: ONNX Runtime cannot run this model: .*Unheard"):
        Reference(source_of(model))


@pytest.mark.emulator
def test_references_are_exact_on_an_emulated_cpu_without_vnni() -> None:
    if machine_arch() != "x86_64":
        pytest.skip("hardware: ONNX Runtime's build for x86-64 is emulated")
    emulator = shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("qemu-x86_64-static is not here: scripts/test-tools.sh")
    command = [emulator, "-cpu", "Haswell", sys.executable, "-m", "tests.compiler.verify.integer_models"]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [*command, *WITHOUT_VNNI[1]], cwd=root, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found.keys() == CASES.keys()
    assert all(exact <= ROUNDING for _, exact, _ in found.values()), found
    assert sum(plain > 0.3 for plain, _, _ in found.values()) >= 8  # else this shows nothing
