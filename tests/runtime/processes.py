"""Run scripts in processes of their own: what a process imports and how it ends can be seen only from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

# PyTorch, where it is installed, would be imported by tvm_ffi: seconds that these tests are not about.
PROBE = """
import sys
sys.modules["torch"] = None
import numpy as np

def load():
    import edgec.runtime as rt
    return rt.load(sys.argv[1], threads=1)

def check(model):
    x = np.full((1, 32), 0.25, "float32")
    found = model.run({"x": x})["y.0"]
    assert found.shape == (1, 32) and (found == model.run({"x": x})["y.0"]).all()
    assert model.profile({"x": x}, 2)

def check_ffi(tvm_ffi):
    array = np.arange(6, dtype="float32")
    tensor = tvm_ffi.from_dlpack(array)
    assert np.shares_memory(np.from_dlpack(tensor), array)
    assert list(tvm_ffi.convert([1, 2, 3])) == [1, 2, 3]
    assert tvm_ffi.get_global_func("vm.builtin.alloc_storage", allow_missing=True) is not None
    assert tvm_ffi.convert_func(lambda x: x + 1)(41) == 42
    assert tvm_ffi.dataclasses and tvm_ffi.cpp and tvm_ffi.core.Tensor is tvm_ffi.Tensor
"""


def run_python(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script and return how it ended."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def probe(script: str, *arguments: str | Path, **environment: str) -> str:
    """Run a script after `PROBE` and return what it prints; it has to succeed."""
    done = run_python(PROBE + textwrap.dedent(script), *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
