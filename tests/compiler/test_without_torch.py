"""PyTorch costs nothing where it is installed but not asked for, and is there when it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import helper

from tests.compiler.onnx_models import model_of, save

TELLS = 'print("torch came in", flush=True)\n'  # what stands in for PyTorch: none of TVM's uses would work with it


def run(code: str, packages: Path, *arguments: str) -> list[str]:
    before = os.environ.get("PYTHONPATH", "")
    environment = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{before}".strip(os.pathsep)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_a_compile_of_onnx_and_a_profile_leave_pytorch_alone(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(TELLS, encoding="utf-8")
    model = save(
        model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 4]}, ["y"], {}), tmp_path, "m.onnx"
    )
    code = """
import sys
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect
options = CompileOptions(tune="none", threads=1)
compile_model(sys.argv[1], detect(), options, output=sys.argv[2])
import tvm
print(tvm.__spec__.loader is tvm.__loader__, type(tvm.__loader__).__name__)
print("torch" in sys.modules)
import torch
"""
    said = run(code, tmp_path, str(model), str(tmp_path / "m.edge"))
    assert said == ["True SourceFileLoader", "False", "torch came in"]
    code = """
import sys
from edgec.cli.main import main
try:
    main()
finally:
    print("torch" in sys.modules, "tvm" in sys.modules)
"""
    limits = ["--repeats", "1", "--seconds", "0.1"]
    said = run(code, tmp_path, "profile", str(tmp_path / "m.edge"), *limits)
    assert "torch came in" not in said
    assert any("GFLOP/s" in line for line in said), "the machine was measured"
    assert said[-1] == "False True"


@pytest.mark.parametrize(
    ("package", "imports"),
    [
        ("tvm", "import edgec.compiler, tvm"),
        ("tvm", "import edgec.benchmarks, tvm"),
        ("tvm_ffi", "from edgec.runtime.execution.shared_libraries import ffi\nffi()"),
    ],
)
def test_only_the_thread_that_imports_tvm_is_kept_from_pytorch(
    package: str, imports: str, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(TELLS, encoding="utf-8")
    (tmp_path / f"{package}.py").write_text(
        """
import threading
try:
    import torch
except ImportError:
    print("not in this thread", flush=True)
def other():
    import torch
thread = threading.Thread(target=other)
thread.start()
thread.join()
import torch
""",
        encoding="utf-8",
    )
    # beside a finder as some were before Python 3.4
    old = "import sys\nclass Old:\n    def find_module(self, name, path=None): ...\nsys.meta_path.insert(0, Old())\n"
    said = run(old + imports, tmp_path)
    assert said == ["not in this thread", "torch came in"]
