"""Build candidates and time them in this process.

Between two uses of a layer's weights all other layers of a network run, so weights come from the last-level cache or
from memory: a layer of many weights is timed on several copies of them in turn. With one copy, tiles that read their
weights often would look better than they are (strided layers of ResNet-50 by up to 50 %).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.tir_pipeline import PIPELINE
from edgec.compiler.backends.interface import CandidateFailed, Trial
from edgec.compiler.backends.random_arguments import random_arrays
from edgec.targets.detection import usable_cores
from edgec.targets.target import Target

FAR_BYTES = 48 << 20  # copies of weights amount to this: more than a last-level cache keeps for one user
FEW_BYTES = 1 << 17  # weights below this take no time to fetch beside the work on them
# What TVM raises for a kernel that it cannot build: its exceptions have no common base.
BUILD_ERRORS = (tvm.error.InternalError, ValueError, TypeError, RuntimeError, IndexError)


Arguments: TypeAlias = list[tvm.runtime.Tensor]


def far_arguments(first: Arguments) -> list[Arguments]:
    """Arguments for calls in turn: `first`, and more with copies of all but the first operand and the output."""
    contents = [argument.numpy() for argument in first[1:-1]]
    size = sum(content.nbytes for content in contents)
    if size < FEW_BYTES:
        return [first]
    copies = max(2, -(-FAR_BYTES // size))
    middles = ([tvm.runtime.tensor(content) for content in contents] for _ in range(copies - 1))
    return [first, *([first[0], *middle, first[-1]] for middle in middles)]


def random_arguments(func: PrimFunc) -> Arguments:
    """Tensors for a kernel's parameters: small normal numbers."""
    return [tvm.runtime.tensor(array) for array in random_arrays(func)]


def build(func: PrimFunc, target: tvm.target.Target) -> tvm.runtime.Module:
    """Machine code of one kernel, in memory.

    Raises:
        whatever TVM raises for a kernel that cannot be built (its exceptions have no common base).
    """
    named = func.with_attr("global_symbol", "kernel")
    return tvm.tirx.build(tvm.IRModule({"kernel": named}), target=target, pipeline=PIPELINE)


class CpuTrial:
    """A built candidate: how to run it, what it computed, its times so far in seconds a call."""

    def __init__(self, module: tvm.runtime.Module, common: CommonArguments) -> None:
        self.module = module
        self._common: CommonArguments | None = common
        self.seconds: list[float] = []
        output = common.first[-1]
        output.copyfrom(np.zeros(output.shape, str(output.dtype)))
        module["kernel"](*common.first)
        self.output: npt.NDArray[Any] = output.numpy().copy()

    @property
    def best_s(self) -> float:
        """The shortest time seen, because noise only adds."""
        return min(self.seconds)

    def time(self, budget_s: float) -> None:
        """Add measurements of about `budget_s` in all, and of three calls at least."""
        sets = self._common.sets if self._common else []
        if len(sets) > 1:
            self.seconds += _time_in_turn(self.module["kernel"], sets, budget_s)
            return
        device, arguments = tvm.cpu(), sets[0]
        first = self.module.time_evaluator("kernel", device, number=1, repeat=2)(*arguments)
        single = max(min(first.results), 1e-7)
        number = max(1, min(200, int(budget_s / 3 / single)))
        timed = self.module.time_evaluator("kernel", device, number=number, repeat=3)(*arguments)
        self.seconds += [float(t) for t in timed.results]

    def rest(self) -> None:
        """Release the arguments."""
        self._common = None


class CommonArguments:
    """The arguments of all candidates of a workload; `sets` are used in turn while timing."""

    def __init__(self, first: Arguments) -> None:
        self.first = first

    @cached_property
    def sets(self) -> list[Arguments]:
        """`first`, and what else `far_arguments` returns for it."""
        return far_arguments(self.first)


class CpuTrials:
    """The candidates of one workload, run on this machine."""

    def __init__(self, target: Target) -> None:
        self._target = tvm.target.Target(dict(target.tvm))
        self._common: CommonArguments | None = None

    def add_all(self, kernels: Sequence[PrimFunc]) -> list[Trial | CandidateFailed]:
        """Build candidates on all cores and run each once; for one that TVM or LLVM refuses, why."""
        if not kernels:
            return []
        # TVM releases the GIL while LLVM works, and each module has its own LLVM state
        with ThreadPoolExecutor(min(usable_cores(), len(kernels))) as threads:
            modules = list(threads.map(self._build, kernels))
        if self._common is None:
            self._common = CommonArguments(random_arguments(kernels[0]))
        common = self._common
        return [made if isinstance(made, CandidateFailed) else CpuTrial(made, common) for made in modules]

    def again(self, trial: Trial) -> CpuTrial:
        """A trial of earlier trials, with these trials' arguments."""
        if self._common is None or not isinstance(trial, CpuTrial):
            raise TypeError("a trial of other trials is timed beside new candidates only")
        return CpuTrial(trial.module, self._common)

    def _build(self, kernel: PrimFunc) -> tvm.runtime.Module | CandidateFailed:
        try:
            return build(kernel, self._target)
        except BUILD_ERRORS as error:
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            return CandidateFailed(last[:200])


def _time_in_turn(kernel: tvm.runtime.Module, sets: Sequence[Arguments], budget_s: float) -> list[float]:
    """Seconds a call, the mean over each of three passes over some of `sets`."""
    kernel(*sets[0])
    begin = time.perf_counter()
    kernel(*sets[1])
    each = max(1, min(len(sets), round(budget_s / 3 / max(time.perf_counter() - begin, 1e-6))))
    results = []
    for turn in range(3):
        chosen = [sets[(turn * each + i) % len(sets)] for i in range(each)]
        begin = time.perf_counter()
        for arguments in chosen:
            kernel(*arguments)
        results.append((time.perf_counter() - begin) / each)
    return results
