"""Prepare a folder for a GPU's machine: artifacts, inputs, reference outputs, wheels and a script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgec.benchmarks.gpu.plan import Case, Plan
from edgec.compiler.options import CompileOptions, Precision
from edgec.compiler.pipeline import compile_model
from edgec.models import build, sample_inputs
from edgec.targets import load_target

ROOT = Path(__file__).resolve().parents[2]
# What `edgec.runtime` imports; a GPU's artifact needs nothing else but the driver.
_WHEELS = ("numpy", "msgspec")
_SCRIPT = """\
#!/bin/sh
# Installs the wheels of this folder into an environment of its own and runs its cases, in {seconds:.0f} s at most.
set -e
cd "$(dirname "$0")"
python3 -m venv --system-site-packages "${{OUT:-.}}/environment"
"${{OUT:-.}}/environment/bin/pip" install --quiet --no-index --find-links wheels edgec
"${{OUT:-.}}/environment/bin/python" -m edgec.benchmarks.gpu run . --out "${{OUT:-.}}/results.json"
"""


def prepare(
    folder: Path,
    target: str,
    networks: Sequence[str],
    precisions: Sequence[Precision],
    seconds: float,
    report: Callable[[str], None],
    *,
    wheels: bool = True,
) -> Plan:
    """Fill `folder`.

    Args:
        folder: made if it is missing.
        target: a GPU of `edgec targets list`.
        networks: names of the zoo.
        precisions: of their products; each is a case.
        seconds: for all cases together.
        report: told what is being done.
        wheels: download those that a bare machine needs, by pip as it is configured here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name in networks:
        report(f"{name}: inputs and reference")
        model = build(name, folder / "models" / name)
        arrays = folder / f"{name}.npz"
        _write_arrays(model, name, arrays)
        for precision in precisions:
            report(f"{name}: compile for {target} in {precision}")
            artifact = folder / f"{name}-{precision}.edge"
            options = CompileOptions(tune="none", precision=precision, verify=False)
            compile_model(model, load_target(target), options, output=artifact)
            cases.append(Case(name, precision, artifact.name, arrays.name))
    plan = Plan(target, seconds, tuple(cases))
    plan.write(folder)
    if wheels:
        report("wheels")
        _download(folder / "wheels")
    script = folder / "run.sh"
    script.write_text(_SCRIPT.format(seconds=seconds), "utf-8")
    script.chmod(0o755)
    return plan


def _write_arrays(model: Path, name: str, file: Path) -> None:
    inputs = sample_inputs(name)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    outputs = session.run(None, inputs)
    named = {f"out.{one.name}": value for one, value in zip(session.get_outputs(), outputs, strict=True)}
    arrays: dict[str, Any] = {**{f"in.{key}": value for key, value in inputs.items()}, **named}
    np.savez(file, **arrays)


def _download(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    subprocess.run([*pip, "download", "--only-binary=:all:", "--dest", folder, *_WHEELS], check=True)
