"""Choose a schedule for each workload: from the cache, by timing here, or by the static order of the candidates."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import tvm

from edgec.compiler.backends.cpu.templates.workloads import Workload
from edgec.compiler.backends.cpu.timing import (
    Arguments,
    Trial,
    agreeing,
    build,
    far_arguments,
    random_arguments,
    time_once,
    try_out,
)
from edgec.compiler.lowered import TuningSummary
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress
from edgec.compiler.tuning.cache import TuningCache, Winner
from edgec.targets import features
from edgec.targets.loader import detect
from edgec.targets.target import Target

TRIALS = {"none": 0, "fast": 5, "full": 40}
BUDGET_S = {"none": 0.0, "fast": 0.008, "full": 0.03}
# What TVM raises for a kernel that it cannot build, and templates for a schedule that does not fit.
_BUILD_ERRORS = (tvm.error.InternalError, ValueError, TypeError, RuntimeError, IndexError)
ROUNDS = 4
HOPELESS = 2.5  # slower than that by more than a neighbour on the machine explains
# Features that decide which schedule is fast.
_DECIDING = {features.AVX2, features.AVX512F, features.AVX512_VNNI, features.AVX512_BF16, features.DOTPROD}
CLOSE = 1.08  # candidates within 8 % of the best are timed again


@dataclass
class _Counts:
    workloads: int = 0
    hits: int = 0
    timed: int = 0
    dropped: int = 0
    seconds: float = 0.0


class Tuner:
    """Tunes the workloads of one compile."""

    def __init__(self, target: Target, options: CompileOptions, progress: Progress) -> None:
        self.target, self.options, self.progress = target, options, progress
        self.tvm_target = tvm.target.Target(dict(target.tvm))
        self.cache = TuningCache(options.cache_dir, cache_key(target), shipped_key(target))
        self.measures = options.tune != "none" and runs_here(target)
        self.counts = _Counts()

    def choose(self, work: Workload) -> Any:  # noqa: ANN401  (each template has its own schedule type)
        """The schedule for `work`."""
        self.counts.workloads += len(work.candidates) > 1
        if len(work.candidates) == 1:
            return work.candidates[0]
        chosen = self._known(work)
        if chosen is not None:
            self.counts.hits += 1
            return chosen
        if not self.measures:
            return work.candidates[0]
        return self._measure(work)

    def _known(self, work: Workload) -> Any:  # noqa: ANN401
        """The winner of the workload, else of its family; None when there is none, or none that fits."""
        for key in (work.key, work.family):
            known = self.cache.get(key, self.options.tune)
            chosen = next((c for c in work.candidates if known and str(c) == known.schedule), None)
            if chosen is not None:
                return chosen
        return None

    def _measure(self, work: Workload) -> Any:  # noqa: ANN401
        started = time.perf_counter()
        trials: list[tuple[Any, Trial]] = []
        arguments = None
        for candidate in work.candidates[: TRIALS[self.options.tune]]:
            try:
                func = work.emit(candidate)
                module = build(func, self.tvm_target)
                arguments = arguments or random_arguments(func)
                trials.append((candidate, try_out(module, arguments)))
            except _BUILD_ERRORS as error:
                self.counts.dropped += 1
                first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                self.progress.note(f"{work.kind}: {candidate} does not build: {first[:200]}")
        good = agreeing([trial.output for _, trial in trials])
        for (candidate, _), fine in zip(trials, good, strict=True):
            if not fine:
                self.counts.dropped += 1
                self.progress.note(
                    f"{work.kind}: {candidate} computes something else than the others; dropped"
                )
        trials = [pair for pair, fine in zip(trials, good, strict=True) if fine]
        if not trials or arguments is None:
            raise RuntimeError(f"no candidate of {work.key} builds")
        chosen = self._race(trials, far_arguments(arguments))
        self.counts.timed += len(trials)
        self.counts.seconds += time.perf_counter() - started
        best = next(trial for candidate, trial in trials if candidate is chosen)
        winner = Winner(str(chosen), best.best * 1e6)
        self.cache.put(work.key, winner, self.options.tune)
        if self.cache.get(work.family, self.options.tune) is None:
            self.cache.put(work.family, winner, self.options.tune)
        return chosen

    def _race(self, trials: list[tuple[Any, Trial]], arguments: list[Arguments]) -> Any:  # noqa: ANN401
        budget = BUDGET_S[self.options.tune] / ROUNDS
        left = trials
        for _ in range(ROUNDS):
            # In turns: a machine that others use for a while then slows all candidates alike, not one of them.
            for _, trial in left:
                time_once(trial, arguments, budget)
            best = min(trial.best for _, trial in left)
            left = [pair for pair in left if pair[1].best <= best * HOPELESS]
        for _ in range(2):
            best = min(trial.best for _, trial in left)
            close = [pair for pair in left if pair[1].best <= best * CLOSE]
            for _, trial in close if len(close) > 1 else []:
                time_once(trial, arguments, budget)
        return min(trials, key=lambda pair: pair[1].best)[0]

    def summary(self) -> TuningSummary:
        """What was done so far."""
        c = self.counts
        return TuningSummary(c.workloads, c.hits, c.timed, c.dropped, c.seconds)


def cache_key(target: Target) -> str:
    """Names everything about a target that decides which schedule is fast."""
    present = "-".join(sorted(target.features & _DECIDING))
    cpu = target.tvm.get("mcpu", "generic")
    return f"{target.arch}-{cpu}-v{target.vector_bits}x{target.vector_registers}-{present}"


def shipped_key(target: Target) -> str:
    """Names the targets that share shipped winners: those of one microarchitecture whose registers are alike."""
    core = target.core.microarchitecture
    return f"{target.arch}-{core}-v{target.vector_bits}x{target.vector_registers}"


def runs_here(target: Target) -> bool:
    """Whether this machine can run (and so time) code for `target`."""
    here = detect()
    return target.device_kind == "cpu" and target.arch == here.arch and target.features <= here.features


def set_threads(threads: int) -> None:
    """Make TVM's thread pool as large as the compiled model's will be.

    TVM's default pins the calling thread to one core, which this process and its children would keep.
    """
    usable = sorted(os.sched_getaffinity(0))
    share_all_cores = -3  # TVM's kSpecifyThreadShareAllCore
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(share_all_cores, max(1, min(threads, len(usable))), [str(core) for core in usable])
    os.sched_setaffinity(0, usable)


__all__ = ["Tuner", "cache_key", "runs_here", "set_threads", "shipped_key"]
