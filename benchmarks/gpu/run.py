"""Run a prepared folder on a GPU: results against the reference, memory errors, and times beside PyTorch."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.benchmarks.gpu.plan import BOUNDS, SMALL, Case, Plan
from edgec.compiler.verify.timing import time_in_blocks
from edgec.targets.errors import EdgecError

_RUNS, _CASE_S = 100, 4.0
_TORCHVISION = {"resnet18": "resnet18", "resnet50": "resnet50", "mobilenetv2": "mobilenet_v2"}

Arrays = dict[str, npt.NDArray[Any]]


class Outcome(msgspec.Struct):
    """What a case gave.

    Attributes:
        network: its name.
        precision: of its products.
        error: the largest difference from the reference, relative to the largest value of its output.
        right: whether that is within the bound of the precision.
        median_ms: of a call from host arrays to host arrays, by side: `edgec`, and of PyTorch where it is installed and
            has such a network `eager`, `channels last` (with cuDNN's autotuning) and `compiled` (max-autotune).
        device_ms: time of the kernels alone, by events.
        sanitizer: what compute-sanitizer found; None where it did not run.
        failed: the message, where a case ended with an error.
    """

    network: str
    precision: str
    error: float = float("nan")
    right: bool = False
    median_ms: dict[str, float] = msgspec.field(default_factory=dict)
    device_ms: float = float("nan")
    sanitizer: str | None = None
    failed: str = ""


class Results(msgspec.Struct):
    """Outcomes with the machine that gave them."""

    device: str
    target: str
    seconds: float
    outcomes: list[Outcome]


def run(folder: Path, report: Callable[[str], None]) -> Results:
    """Run all cases; those that no time is left for are left out, and said so."""
    plan, begin = Plan.read(folder), time.monotonic()
    outcomes = []
    for case in plan.cases:
        if time.monotonic() - begin > plan.seconds:
            report(f"{case.network} in {case.precision}: no time left")
            continue
        made = _measured(folder, case)
        made.sanitizer = _sanitized(folder, case) if case.network in SMALL else None
        outcomes.append(made)
        report(_line(made))
    return Results(_device(), plan.target, time.monotonic() - begin, outcomes)


def run_once(folder: Path, network: str, precision: str) -> None:
    """One call, for compute-sanitizer."""
    case = next(
        one for one in Plan.read(folder).cases if (one.network, one.precision) == (network, precision)
    )
    with rt.load(folder / case.artifact) as model:
        model.run(_arrays(folder, case, "in."))


def _arrays(folder: Path, case: Case, prefix: str) -> Arrays:
    with np.load(folder / case.arrays, allow_pickle=False) as content:
        return {key.removeprefix(prefix): content[key] for key in content.files if key.startswith(prefix)}


def _measured(folder: Path, case: Case) -> Outcome:
    made = Outcome(case.network, case.precision)
    inputs, wanted = _arrays(folder, case, "in."), _arrays(folder, case, "out.")
    try:
        with rt.load(folder / case.artifact) as model:
            found = model.run(inputs)
            made.error = max(_error(found[name], value) for name, value in wanted.items())
            made.right = made.error <= BOUNDS[case.precision]
            sides: dict[str, Callable[[], object]] = {"edgec": lambda: model.run(inputs)}
            sides |= _torch_sides(case, inputs)
            times = time_in_blocks(sides, runs=_RUNS, limit_s=_CASE_S)
            made.median_ms = {name: latency.median_ms for name, latency in times.items()}
            made.device_ms = sum(layer.ms for layer in model.profile(inputs))
    except EdgecError as error:  # one case's failure leaves the others their time
        made.failed = str(error)
    return made


def _error(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    scale = max(float(np.max(np.abs(wanted))), 1e-12)
    return float(np.max(np.abs(found.astype("float64") - wanted))) / scale


def _torch_sides(case: Case, inputs: Arrays) -> dict[str, Callable[[], object]]:
    """Calls of PyTorch on the same arrays, from the host and back; none where it or the network is missing."""
    name = _TORCHVISION.get(case.network)
    if name is None or not all(importlib.util.find_spec(one) for one in ("torch", "torchvision")):
        return {}
    import torch
    import torchvision  # type: ignore[import-not-found]

    torch.backends.cudnn.benchmark = True
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[case.precision]
    network = getattr(torchvision.models, name)(weights=None).eval().cuda().to(dtype)
    (array,) = inputs.values()

    def side(call: Callable[[Any], Any], layout: Any) -> Callable[[], object]:  # noqa: ANN401 - PyTorch's type
        def once() -> object:
            with torch.inference_mode():
                given = torch.from_numpy(array).cuda().to(dtype).contiguous(memory_format=layout)
                return call(given).float().cpu()

        return once

    planar, innermost = torch.contiguous_format, torch.channels_last
    sides = {"eager": side(network, planar)}
    last = getattr(torchvision.models, name)(weights=None).eval().cuda().to(dtype).to(memory_format=innermost)
    sides["channels last"] = side(last, innermost)
    sides["compiled"] = side(torch.compile(last, mode="max-autotune"), innermost)
    return sides


def _sanitized(folder: Path, case: Case) -> str | None:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return None
    once = ["-m", "edgec.benchmarks.gpu", "once", str(folder), case.network, case.precision]
    done = subprocess.run(
        [tool, "--error-exitcode", "9", sys.executable, *once],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return "no error" if done.returncode == 0 else done.stdout[-400:].strip()


def _device() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown (no nvidia-smi)"
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()


def _line(made: Outcome) -> str:
    if made.failed:
        return f"{made.network} in {made.precision}: failed: {made.failed}"
    times = ", ".join(f"{side} {ms:.3f} ms" for side, ms in made.median_ms.items())
    verdict = "right" if made.right else "WRONG"
    return f"{made.network} in {made.precision}: {verdict} (error {made.error:.1e}); {times}"
