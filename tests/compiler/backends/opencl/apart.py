"""Models as OpenCL, run in a process without the compiler: PoCL's LLVM does not go well with TVM's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from edgec.compiler.errors import KernelUnsupported
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets.device_kinds import DEVICE_KINDS
from tests.compiler import backend_cases
from tests.compiler.backends.opencl.backend import REGISTRATION, ROOT, TARGET
from tests.compiler.onnx_models import save

LIMIT_S = 120
_RUN = """
import numpy as np, sys
from edgec.targets.device_kinds import DEVICE_KINDS
DEVICE_KINDS["opencl"] = {"backend": "", "device": "tests.compiler.backends.opencl.device:OpenClDevice"}
import edgec.runtime as rt
given = dict(np.load(sys.argv[2]))
with rt.load(sys.argv[1]) as model:
    np.savez(sys.argv[3], **model.run(given))
    layers = model.profile(given, repeats=2) if sys.argv[4:] else []
    assert all(layer.ms >= 0 for layer in layers) and bool(layers) == bool(sys.argv[4:])
"""


def run(
    artifact: Path, inputs: dict[str, np.ndarray], folder: Path, *, profiled: bool = False
) -> dict[str, np.ndarray]:
    """The outputs by name.

    Raises:
        KernelUnsupported: PoCL does not build a kernel's text.
        RuntimeError: the process failed.
    """
    np.savez(folder / "in.npz", **inputs)
    command = [sys.executable, "-c", _RUN, artifact, folder / "in.npz", folder / "out.npz"]
    done = subprocess.run(
        [*command, *(["profiled"] if profiled else [])], check=False, cwd=ROOT, text=True,
        capture_output=True, timeout=LIMIT_S,
    )  # fmt: skip
    if done.returncode == 0:
        with np.load(folder / "out.npz") as found:
            return dict(found)
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"ended by {-done.returncode}"]
    if "BUILD_PROGRAM_FAILURE" in done.stderr:
        why = next((line for line in lines if "error:" in line), lines[-1])
        raise KernelUnsupported(f"PoCL does not build it: {why}")
    raise RuntimeError(lines[-1])


def outputs_of(case: backend_cases.Case, folder: Path) -> tuple[set[str], dict[str, np.ndarray]]:
    """What ONNX Runtime computes of a node test (names of values), and the outputs by name."""
    DEVICE_KINDS["opencl"] = REGISTRATION
    shapes = {name: array.shape for name, array in case.inputs.items()}
    options = CompileOptions(tune="none", threads=1, input_shapes=shapes, states=(), verify=False)
    made = compile_model(save(case.model, folder), TARGET, options, output=folder / "model.edge")
    left = {name for segment in made.config.segments for name in segment.outputs}
    return left, run(made.artifact, case.inputs, folder)
