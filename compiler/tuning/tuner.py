"""Choose a schedule for each workload: from the cache, by timing here, or by the static order of the candidates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edgec.compiler.backends.interface import Backend, CandidateFailed, Trial, Workload
from edgec.compiler.lowered import TuningSummary
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress
from edgec.compiler.tuning.agreement import agreeing
from edgec.compiler.tuning.cache import TuningCache, Winner

TRIALS = {"none": 0, "fast": 5, "full": 40}
BUDGET_S = {"none": 0.0, "fast": 0.008, "full": 0.03}
ROUNDS = 4
HOPELESS = 2.5  # slower than that by more than a neighbour on the machine explains
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

    def __init__(self, backend: Backend, options: CompileOptions, progress: Progress) -> None:
        self.backend, self.options, self.progress = backend, options, progress
        self.cache = TuningCache(options.cache_dir, backend.winners_key, backend.shipped_keys)
        self.measures = options.tune != "none" and backend.can_time
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
        trials = self._agreeing(work, self._tried(work))
        if not trials:
            raise RuntimeError(f"no candidate of {work.key} builds")
        chosen, best_s = self._race(trials)
        self.counts.timed += len(trials)
        self.counts.seconds += time.perf_counter() - started
        winner = Winner(str(chosen), best_s * 1e6)
        self.cache.put(work.key, winner, self.options.tune)
        if self.cache.get(work.family, self.options.tune) is None:
            self.cache.put(work.family, winner, self.options.tune)
        return chosen

    def _tried(self, work: Workload) -> list[tuple[Any, Trial]]:
        """The first candidates, each built and run once; those that fail are reported and left out."""
        trials = self.backend.trials()
        built = []
        for candidate in work.candidates[: TRIALS[self.options.tune]]:
            try:
                built.append((candidate, trials.add(work.emit(candidate))))
            except CandidateFailed as error:
                self.counts.dropped += 1
                self.progress.note(f"{work.kind}: {candidate} does not build: {error}")
        return built

    def _agreeing(self, work: Workload, trials: list[tuple[Any, Trial]]) -> list[tuple[Any, Trial]]:
        """The trials that computed what most of them computed."""
        agree = agreeing([trial.output for _, trial in trials])
        for (candidate, _), fine in zip(trials, agree, strict=True):
            if not fine:
                self.counts.dropped += 1
                self.progress.note(
                    f"{work.kind}: {candidate} computes something else than the others; dropped"
                )
        return [pair for pair, fine in zip(trials, agree, strict=True) if fine]

    def _race(self, trials: list[tuple[Any, Trial]]) -> tuple[Any, float]:
        """The fastest candidate, and its time in seconds."""
        budget = BUDGET_S[self.options.tune] / ROUNDS
        left = trials
        for _ in range(ROUNDS):
            # In turns: a machine that others use for a while then slows all candidates alike, not one of them.
            for _, trial in left:
                trial.time(budget)
            best = min(trial.best_s for _, trial in left)
            left = [pair for pair in left if pair[1].best_s <= best * HOPELESS]
        for _ in range(2):
            best = min(trial.best_s for _, trial in left)
            close = [pair for pair in left if pair[1].best_s <= best * CLOSE]
            for _, trial in close if len(close) > 1 else []:
                trial.time(budget)
        chosen, fastest = min(trials, key=lambda pair: pair[1].best_s)
        return chosen, fastest.best_s

    def summary(self) -> TuningSummary:
        """The work done so far."""
        c = self.counts
        return TuningSummary(c.workloads, c.hits, c.timed, c.dropped, c.seconds)
