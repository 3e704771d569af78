"""The standard's own node tests through the compiler.

Each operator's first and last test run here (some 350), and a few hard ones by name; all of them are part of
the long tests. Values are compared with the tolerances that the tests state (see `cases.run_case`).
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from onnx.backend.test.case import node

from tests.compiler import backend_cases as cases

ROOT = Path(__file__).resolve().parent.parent.parent
# One family of operators a line: the module of the onnx package, the operator, the test, what comes of it.
SAMPLE = (
    ("attention", "Attention", "test_attention_4d_attn_mask_causal_bf16", "native"),
    ("attention", "Attention", "test_attention_local_window_gqa_rank4_mask", "native"),
    ("roialign", "RoiAlign", "test_roialign_mode_max", "native"),
    ("bitshift", "BitShift", "test_bitshift_right_int8_negative_shift", "native"),
    ("bitcast", "BitCast", "test_bitcast_float32_to_int32", "native"),
    ("mod", "Mod", "test_mod_float_edge_cases_fmod_0_float32", "native"),
    ("mod", "Mod", "test_mod_mixed_sign_int8", "native"),
    ("celu", "Celu", "test_celu_expanded", "native"),
    ("affinegrid", "AffineGrid", "test_affine_grid_2d_expanded", "native"),
    ("compress", "Compress", "test_compress_0", "native"),
    ("dequantizelinear", "DequantizeLinear", "test_dequantizelinear_blocked", "native"),
    ("quantizelinear", "QuantizeLinear", "test_quantizelinear_axis", "native"),
    ("einsum", "Einsum", "test_einsum_batch_diagonal", "native"),
    ("eyelike", "EyeLike", "test_eyelike_populate_off_main_diagonal", "native"),
    ("maxunpool", "MaxUnpool", "test_maxunpool_export_with_output_shape", "native"),
    ("batch_normalization", "BatchNormalization", "test_batchnorm_example_training_mode", "native"),
    ("reducemax", "ReduceMax", "test_reduce_max_bool_inputs", "native"),
    ("resize", "Resize", "test_resize_downsample_scales_cubic_antialias", "native"),
    ("resize", "Resize", "test_resize_upsample_scales_nearest", "native"),
    ("resize", "Resize", "test_resize_tf_crop_and_resize_extrapolation_value", "native"),
    ("rnn", "RNN", "test_simple_rnn_batchwise", "native"),
    ("dft", "DFT", "test_dft_irfft", "native"),
    ("swiglu", "SwiGLU", "test_swiglu_alpha", "native"),
    ("tensorscatter", "TensorScatter", "test_tensorscatter_circular", "native"),
)


@pytest.mark.parametrize(("module", "operator", "name", "result"), SAMPLE, ids=[row[2] for row in SAMPLE])
def test_a_node_test_of_the_standard(
    module: str, operator: str, name: str, result: str, tmp_path: Path
) -> None:
    importlib.import_module(f"onnx.backend.test.case.node.{module}")  # its cases come with its import
    test = next(test for test in node._NodeTestCases if test.name == name)
    assert operator in {one.op_type for one in test.model.graph.node} or "expanded" in name
    case = cases.make_case(test)
    assert isinstance(case, cases.Case), case
    outcome = cases.run_case(case, tmp_path)
    assert (outcome.result, outcome.detail) == (result, "")


PARTS = 12  # of the modules, so that several processes share the work

PARTLY_FALLBACK = frozenset({"Loop", "Scan", "TreeEnsemble"})  # depending on their attributes


def picked(module: str, patterns: dict[str, str]) -> list[Any]:
    """The first and last test of each operator that a module of the `onnx` package has tests for."""
    before = {test.name for test in node._NodeTestCases}
    importlib.import_module(f"onnx.backend.test.case.node.{module}")
    by_operator: dict[str, list[Any]] = defaultdict(list)
    for test in sorted(node._NodeTestCases, key=lambda test: str(test.name)):
        if test.name in before or "expanded" in test.name or cases.excluded(test.name, patterns):
            continue
        by_operator[test.model.graph.node[0].op_type].append(test)
    return [tests[place] for tests in by_operator.values() for place in sorted({0, len(tests) - 1})]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, where a case is about infinities
@pytest.mark.parametrize("part", range(PARTS))
def test_a_part_of_the_standard_node_tests(part: int, tmp_path: Path) -> None:
    names = sorted(module.name for module in pkgutil.iter_modules(node.__path__))
    patterns = cases.exclusions()
    made = [cases.make_case(test) for name in names[part::PARTS] for test in picked(name, patterns)]
    known = [case for case in made if isinstance(case, cases.Case)]  # else no case, for the reason that it is
    failed = []
    for group in cases.grouped(known, cases.TOGETHER):
        for case, outcome in zip(group, cases.run_together(group, tmp_path), strict=True):
            wanted = {"native"}
            wanted |= {"native", "fallback"} if case.operator in PARTLY_FALLBACK else set()
            if outcome.result not in wanted:
                failed.append(outcome)
    assert not failed
    assert len(known) >= 15, "the package's tests are there"


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_standard_node_tests(tmp_path: Path) -> None:
    results = tmp_path / "coverage.jsonl"
    script = [sys.executable, str(ROOT / "scripts/operator_coverage.py"), "--results", str(results)]
    subprocess.run([*script, "--document", str(tmp_path / "operators.md")], check=True)
    counts = Counter(json.loads(line)["result"] for line in results.read_text().splitlines())
    counted = sum(counts.values()) - counts["excluded"]
    assert counts["native"] >= 0.95 * counted
    assert counts["native"] + counts["fallback"] >= 0.995 * counted
