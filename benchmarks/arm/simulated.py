"""A tuner that times candidates by llvm-mca, to judge the estimates that order them on cores that are not at hand.

    python -m edgec.benchmarks.arm.simulated MODEL… --targets rpi3,imx95,rpi4,rpi5,graviton2

compiles each model for each target; a candidate's time is what llvm-mca gives for the main loop of its code, by
multiply-add. So caches and the edges of tiles do not count: this judges registers, loads and the order of instructions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

from edgec.benchmarks.arm.loops import main_loops
from edgec.benchmarks.arm.throughput import cycles
from edgec.benchmarks.estimates.agreement import Agreement, agreement
from edgec.benchmarks.estimates.collect import collect
from edgec.compiler.backends.cpu.backend import CpuBackend
from edgec.compiler.backends.interface import CandidateFailed
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import Target, load_target
from edgec.targets.device_kinds import DEVICE_KINDS
from edgec.targets.target import TimedOn

KIND = "cpu-simulated"


class SimulatedTrial:
    """A candidate that was built, with the cycles of its main loop."""

    def __init__(self, seconds: float) -> None:
        self.best_s = seconds
        self.seconds = [seconds]
        self.output: npt.NDArray[Any] = np.zeros(1, np.float32)  # nothing runs, so nothing differs

    def time(self, budget_s: float) -> None:
        """Do nothing: the simulation is exact."""

    def rest(self) -> None:
        """Hold nothing."""


class SimulatedTrials:
    """The candidates of a workload."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def add_all(self, kernels: Sequence[PrimFunc]) -> list[Any]:
        """Build candidates and simulate the main loop of each; or why that is not possible."""
        return [self._add(kernel) for kernel in kernels]

    def again(self, trial: Any) -> Any:  # noqa: ANN401 - as `Trial`
        """The same result."""
        return trial

    def _add(self, kernel: PrimFunc) -> SimulatedTrial | CandidateFailed:
        from edgec.compiler.backends.cpu.library import build_functions

        named = kernel.with_attr("global_symbol", "kernel")
        loops = main_loops(build_functions({"kernel": named}, self._target))
        if not loops:
            return CandidateFailed("there is no loop of multiply-adds")
        loop = max(loops, key=lambda one: one.products)
        found = cycles(loop.assembly, self._target.core.microarchitecture)
        if found is None:
            return CandidateFailed(f"llvm-mca does not know {self._target.core.microarchitecture}")
        return SimulatedTrial(found / loop.products * 1e-3)


class SimulatedBackend(CpuBackend):
    """Compiles for a CPU, and times by llvm-mca."""

    def trials(self) -> Any:  # noqa: ANN401 - as `Trials`
        """Begin to simulate the candidates of a workload."""
        return SimulatedTrials(self.target)


def simulate(models: list[Path], name: str, tune: Any = "fast") -> Agreement | None:  # noqa: ANN401 - a literal
    """How estimates and llvm-mca agree on the candidates of the models' kernels."""
    DEVICE_KINDS[KIND] = {**DEVICE_KINDS["cpu"], "backend": f"{__name__}:SimulatedBackend"}
    target = replace(load_target(name), device_kind=KIND, timed_on=TimedOn("llvm-mca", 1, ""))
    with tempfile.TemporaryDirectory(prefix="edgec-simulated-") as folder:
        cache = Path(folder) / "cache"
        options = CompileOptions(threads=1, tune=tune, verify=False, cache_dir=cache)
        for model in models:
            compile_model(model, target, options, output=Path(folder) / "model.edge")
        return agreement(collect(cache))


def main() -> None:
    """Print the agreement for each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--targets", default="rpi3,imx95,rpi4,rpi5,graviton2")
    parser.add_argument("--tune", choices=["fast", "full"], default="fast")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    told: dict[str, Any] = {}
    for name in arguments.targets.split(","):
        found = simulate(arguments.models, name, arguments.tune)
        if found is None:
            sys.stderr.write(f"{name}: too few candidates to rank\n")
            continue
        told[name] = vars(found)
        if not arguments.json:
            core = load_target(name).core.microarchitecture
            told_of = f"rank correlation {found.correlation:.2f} over {found.workloads} workloads"
            lost = f"the first candidate is {found.loss:.0%} slower than the best, the best of three"
            sys.stdout.write(f"{name:<10} {core:<12} {told_of}; {lost} {found.loss_of_three:.0%}\n")
            sys.stdout.flush()
    if arguments.json:
        json.dump(told, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
