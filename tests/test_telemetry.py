"""No process of ours lets ONNX Runtime report a user's models to its makers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SESSION = """
import onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
"""
DIRECTLY = "onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])"
ON_A_DEVICE = """
from types import SimpleNamespace
from edgec.runtime.execution.fallback import session_of
stored = SimpleNamespace(path="x", layer=lambda *_: "graph", read=lambda _: open("graph", "rb").read())
session_of(stored, SimpleNamespace(layer="graph"), SimpleNamespace(threads=1))
"""
MADE = "import pathlib\npathlib.Path('graph').write_bytes(model)\n"


def left(folder: Path, program: str) -> set[str]:
    """Files in the temporary folder after a program ran as on a user's machine."""
    (temporary := folder / "tmp").mkdir()
    plain = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment = plain | {"HOME": str(folder), "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder, env=environment, timeout=120)
    return {path.name for path in temporary.iterdir()}


@pytest.mark.parametrize(
    "package",
    ["edgec.compiler.frontends.onnx.simplify", "edgec.models.reference", "edgec.benchmarks.networks.worker"],
)
def test_who_uses_onnxruntime_silences_it(tmp_path: Path, package: str) -> None:
    assert left(tmp_path, f"import {package}\n{SESSION}{DIRECTLY}") == set()


def test_a_device_silences_it_before_a_part_runs(tmp_path: Path) -> None:
    make = SESSION.replace("import onnxruntime\n", "") + MADE
    assert left(tmp_path, make + ON_A_DEVICE) == set()
