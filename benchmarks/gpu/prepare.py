"""Prepare a folder for a GPU's machine: artifacts, inputs, references, networks for PyTorch, wheels, a script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edgec.benchmarks.gpu.networks import describe, with_batch
from edgec.benchmarks.gpu.plan import BATCHES, GOAL, Case, Plan
from edgec.compiler.options import CompileOptions, Precision
from edgec.compiler.pipeline import compile_model
from edgec.models import build, sample_inputs
from edgec.targets import load_target
from edgec.targets.errors import EdgecError

MODELS = "models"  # sources, which the GPU's machine does not need
ROOT = Path(__file__).resolve().parents[2]
# What `edgec.runtime` imports; a GPU's artifact needs nothing else but the driver.
_WHEELS = ("numpy", "msgspec")
_SANITIZER = "nvidia-cuda-sanitizer-api-cu12"
_PYTHONS = ("3.11", "3.12", "3.13")
_SAME = 1e-4  # of a batch and of its parts one by one, relative to the largest value
_SCRIPT = """\
#!/bin/sh
# Installs the wheels of this folder into an environment of its own and runs its cases, in {seconds:.0f} s at most.
# PyTorch and numpy are used as the machine has them. PYTHON names another interpreter (3.11 or later). Run again, it
# goes on with what a run before had no time for.
set -e
cd "$(dirname "$0")"
out="${{OUT:-.}}"
python="${{PYTHON:-python3}}"
"$python" -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later: set PYTHON"'
"$python" -m venv --system-site-packages "$out/environment"
python="$out/environment/bin/python"
"$python" -m pip install --quiet --no-index --no-deps wheels/edgec-*.whl
for name in numpy msgspec; do
  "$python" -c "import $name" 2>/dev/null ||
    "$python" -m pip install --quiet --no-warn-conflicts --no-index --find-links wheels "$name"
done
"$python" -m pip install --quiet --no-index --no-deps --find-links wheels {sanitizer} ||
  echo "compute-sanitizer: the one of this machine is used, if it has one"
"$python" -m edgec.benchmarks.gpu run . --out "$out/results.json"
"$python" -m edgec.benchmarks.gpu page "$out/results.json" > "$out/gpu.md"
"""


def prepare(
    folder: Path,
    target: str,
    networks: Sequence[str],
    precisions: Sequence[Precision],
    seconds: float,
    report: Callable[[str], None],
    *,
    batches: Sequence[int] = BATCHES,
    wheels: bool = True,
) -> Plan:
    """Fill `folder`.

    Args:
        folder: made if it is missing.
        target: a GPU of `edgec targets list`.
        networks: names of the zoo.
        precisions: of their products; each is a case.
        seconds: for all cases together.
        report: told what is being done, and which case cannot be made.
        batches: of each network.
        wheels: download those that a bare machine needs, by pip as it is configured here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name in networks:
        for batch in batches:
            report(f"{name}, batch {batch}: inputs and reference")
            model = _model(folder, name, batch)
            if model is None:
                report(f"{name}: the network has no batch of {batch}")
                continue
            for precision in precisions:
                report(f"{name}, batch {batch}: compile for {target} in {precision}")
                try:
                    cases.append(_case(folder, model, name, target, precision, batch))
                except EdgecError as error:  # the other cases are worth carrying without it
                    report(f"{name}, batch {batch}, {precision} is left out: {error}")
    cases.sort(key=_importance)
    plan = Plan(target, seconds, tuple(cases))
    plan.write(folder)
    if wheels:
        report("wheels")
        _download(folder / "wheels", report)
    script = folder / "run.sh"
    script.write_text(_SCRIPT.format(seconds=seconds, sanitizer=_SANITIZER), "utf-8")
    script.chmod(0o755)
    carried = sum(
        one.stat().st_size for one in folder.rglob("*") if one.is_file() and MODELS not in one.parts
    )
    report(
        f"carry {folder} without its folder {MODELS!r} ({carried / 1e6:.0f} MB) to the GPU's machine: ./run.sh"
    )
    return plan


def _importance(case: Case) -> tuple[bool, bool, bool]:
    """What is run first: the networks of the goal, one picture at a time, in half precision."""
    return case.batch > 1, case.network not in GOAL, case.precision != "fp16"


def _case(folder: Path, model: Path, name: str, target: str, precision: Precision, batch: int) -> Case:
    artifact = folder / f"{model.stem}-{precision}.edge"
    options = CompileOptions(tune="none", precision=precision, verify=False)
    compile_model(model, load_target(target), options, output=artifact)
    stem = model.stem
    return Case(name, precision, batch, artifact.name, f"{stem}.npz", f"{stem}.json", f"{stem}-constants.npz")


def _model(folder: Path, name: str, batch: int) -> Path | None:
    """Write the network for a batch, with what belongs to it; None where it does not compute the same then."""
    whole = onnx.load(build(name, folder / MODELS / name))
    given = sample_inputs(name)
    if batch == 1:
        inputs, wanted = given, _outputs(whole, given)
    else:
        rng, parts = np.random.default_rng(batch), [given]
        for _ in range(1, batch):
            parts.append({key: _another(rng, value) for key, value in given.items()})
        one_by_one = [_outputs(whole, part) for part in parts]
        inputs = {key: np.concatenate([part[key] for part in parts]) for key in given}
        separate = {key: np.concatenate([one[key] for one in one_by_one]) for key in one_by_one[0]}
        whole = with_batch(whole, batch)
        try:
            wanted = _outputs(whole, inputs)
        except Exception:  # noqa: BLE001 - of ONNX Runtime, which has many: shapes do not fit
            return None
        for key, value in wanted.items():
            if value.shape != separate[key].shape or not _close(value, separate[key]):
                return None
    path = folder / MODELS / f"{name}-b{batch}.onnx"
    onnx.save(whole, path)
    stem = folder / path.stem
    named: dict[str, Any] = {f"in.{key}": value for key, value in inputs.items()}
    named |= {f"out.{key}": value for key, value in wanted.items()}
    np.savez(stem.with_suffix(".npz"), **named)
    describe(whole, stem.with_suffix(".json"), folder / f"{path.stem}-constants.npz")
    return path


def _another(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    return rng.standard_normal(value.shape).astype("float32") if value.dtype == np.float32 else value


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.max(np.abs(a - b))) <= _SAME * max(float(np.max(np.abs(b))), 1e-12)


def _outputs(model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime computes on the processor."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _download(folder: Path, report: Callable[[str], None]) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    for version in _PYTHONS:
        options = ["--only-binary=:all:", "--python-version", version, "--dest", str(folder)]
        subprocess.run([*pip, "download", *options, *_WHEELS], check=True)
    sanitizer = [*pip, "download", "--no-deps", "--dest", str(folder), _SANITIZER]
    if subprocess.run(sanitizer, check=False).returncode:
        report(f"{_SANITIZER} cannot be had: compute-sanitizer runs where the GPU's machine has it")
