"""Choose a schedule for each workload: from the cache, by timing here, or by the static order of the candidates.

Timing has a budget of seconds, and goes where most can be gained: workloads are tried in the order of their gap (what
one takes beyond the machine's limit, at first an estimate, then as measured) times the number of layers that share it,
halved with each batch of candidates that was tried. A batch is built on all cores, and timed while nothing else runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from tvm.tirx import PrimFunc

from edgec.compiler.backends.interface import Backend, CandidateFailed, Trial, Trials, Workload
from edgec.compiler.lowered import TuningSummary
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress
from edgec.compiler.tuning.agreement import agreeing
from edgec.compiler.tuning.cache import Timed, TuningCache, Winner

TRIALS = {"none": 0, "fast": 5, "full": 40}
BATCHES = (3, 5, 10, 22)  # candidates tried at once, one batch after another
BUDGET_S = {"none": 0.0, "fast": 0.008, "full": 0.03}
FAST_S = 26.0  # no batch begins later with `fast`; one takes a second or two, and 30 s may be spent
ROUNDS = 4
HOPELESS = 2.5  # slower than that by more than a neighbour on the machine explains
CLOSE = 1.08  # candidates within 8 % of the best are timed again

Clock = Callable[[], float]
Floor = Callable[[Workload], float]


@dataclass
class _Counts:
    workloads: int = 0
    hits: int = 0
    timed: int = 0
    dropped: int = 0
    seconds: float = 0.0
    first_s: float = 0.0
    best_s: float = 0.0
    left: int = 0


@dataclass
class _State:
    """A workload that is being tuned; seconds a call."""

    work: Workload
    count: int
    floor_s: float
    batch: int = 0
    tried: int = 0
    first_s: float = 0.0
    best: tuple[Any, Trial] | None = None
    best_s: float = 0.0
    outputs: list[npt.NDArray[Any]] = field(default_factory=list)  # of those that agree
    times: dict[str, float] = field(default_factory=dict)

    @property
    def timed(self) -> list[Timed]:
        """What was timed so far."""
        places = {str(candidate): place for place, candidate in enumerate(self.work.candidates)}
        return [(text, places[text], seconds * 1e6) for text, seconds in self.times.items()]

    def next(self, most: int) -> Sequence[Any]:
        """The candidates of its next batch."""
        size = BATCHES[min(self.batch, len(BATCHES) - 1)]
        return self.work.candidates[self.tried : min(self.tried + size, most)]

    @property
    def promise(self) -> float:
        """Seconds of a run that another batch might gain."""
        gap = max(self.best_s - self.floor_s, 0.0) if self.best is not None else self.floor_s
        return float(gap * self.count * 0.5**self.batch)


def by_size(work: Workload) -> float:
    """Relative size of a workload, where the machine's limits are unknown."""
    return float(work.flops + 8 * work.bytes) * 1e-12


class NothingBuilds(RuntimeError):
    """No candidate of a workload builds, or their results contradict each other.

    Attributes:
        work: the workload.
        nodes: the source nodes whose kernel it is, where known.
    """

    def __init__(self, work: Workload, nodes: Sequence[int] = ()) -> None:
        self.work, self.nodes = work, tuple(nodes)
        super().__init__(f"no candidate of {work.key} builds")


class Tuner:
    """Tunes the workloads of one compile.

    Args:
        floor: least seconds that a call of a workload can take on this machine.
        clock: seconds; a test brings its own.
    """

    def __init__(
        self,
        backend: Backend,
        options: CompileOptions,
        progress: Progress,
        *,
        floor: Floor = by_size,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.backend, self.options, self.progress = backend, options, progress
        self.cache = TuningCache(options.cache_dir, backend.winners_key, backend.shipped_keys)
        self.measures = options.tune != "none" and backend.can_time
        self.counts = _Counts()
        self._floor, self._clock = floor, clock
        self._chosen: dict[str, Any] = {}
        self.times: dict[str, dict[str, float]] = {}  # seconds of each candidate that was timed, by workload

    @property
    def limit_s(self) -> float:
        """Seconds in which batches may begin."""
        if self.options.tune == "fast":
            return FAST_S
        return float("inf") if self.options.minutes is None else self.options.minutes * 60

    def choose(self, work: Workload) -> Any:  # noqa: ANN401  (each template has its own schedule type)
        """The schedule for `work`: of `tune`, else known, else the best guess."""
        if len(work.candidates) == 1:
            return work.candidates[0]
        self.counts.workloads += 1
        if work.key in self._chosen:
            return self._chosen[work.key]
        chosen = self._known(work)
        if chosen is None:
            return work.candidates[0]
        self.counts.hits += 1
        return chosen

    def tune(self, works: Sequence[tuple[Workload, int]]) -> None:
        """Time candidates of those workloads that no winner is known for, each with the number of its layers.

        Raises:
            NothingBuilds: no candidate of a workload builds.
        """
        unknown: dict[str, tuple[Workload, int]] = {}
        for work, count in works:
            if len(work.candidates) > 1:
                unknown[work.key] = (work, count + unknown.get(work.key, (work, 0))[1])
        states = [
            _State(work, count, self._floor(work))
            for work, count in unknown.values()
            if self.measures and self._known(work) is None
        ]
        if not states:
            return
        self.progress.stage("tuning", len(states))
        begin, before = self._clock(), self.counts.seconds
        most = TRIALS[self.options.tune]
        while any(left := [state for state in states if state.next(most)]):
            self.counts.seconds = before + self._clock() - begin
            if self.counts.seconds > self.limit_s:
                break
            state = max(left, key=lambda one: one.promise)
            if state.best is None and self._known(state.work) is not None:
                states.remove(state)  # a workload of the same family was tuned meanwhile
                self.progress.advance()
                continue
            self._batch(state, most)
            self._tell(states)
        self._finish(states)
        self.counts.seconds = before + self._clock() - begin

    def _known(self, work: Workload) -> Any:  # noqa: ANN401
        """The winner of the workload, else of its family; None when there is none, or none that fits."""
        for key in (work.key, work.family):
            known = self.cache.get(key, self.options.tune)
            chosen = next((c for c in work.candidates if known and str(c) == known.schedule), None)
            if chosen is not None:
                return chosen
        return None

    def _batch(self, state: _State, most: int) -> None:
        """Try the next candidates of a workload beside its best one so far, and store the winner."""
        work, trials, built = state.work, self.backend.trials(), list[tuple[Any, Trial]]()
        while fresh := state.next(most):
            state.tried += len(fresh)
            built += self._built(work, fresh, trials)
            agree = agreeing([*state.outputs, *(trial.output for _, trial in built)])
            if 2 * sum(agree) > len(agree):
                break  # most agree; otherwise further candidates decide who is right
        known = len(state.outputs)
        if state.best is not None and built and not all(agree[:known]):
            self._drop(work, state.best[0])
            state.best = None
        elif state.best is not None and built:
            built.insert(0, (state.best[0], trials.again(state.best[1])))
            agree.insert(known, True)
        fitting = []
        for (candidate, trial), fine in zip(built, agree[known:], strict=True):
            if fine:
                fitting.append((candidate, trial))
            else:
                self._drop(work, candidate)
        if fitting:
            state.outputs = [trial.output for _, trial in fitting]
            self._judge(state, fitting, first=state.batch == 0)
        elif state.best is None and not state.next(most):
            raise NothingBuilds(work)
        state.batch += 1

    def _built(self, work: Workload, fresh: Sequence[Any], trials: Trials) -> list[tuple[Any, Trial]]:
        """The candidates that build, each run once; the others are reported."""
        emitted = [(candidate, _emitted(work, candidate)) for candidate in fresh]
        kernels = [kernel for _, kernel in emitted if not isinstance(kernel, CandidateFailed)]
        made, built = iter(trials.add_all(kernels)), list[tuple[Any, Trial]]()
        for candidate, kernel in emitted:
            trial = kernel if isinstance(kernel, CandidateFailed) else next(made)
            if isinstance(trial, CandidateFailed):
                self.counts.dropped += 1
                self.progress.note(f"{work.kind}: {candidate} does not build: {trial}")
            else:
                built.append((candidate, trial))
        return built

    def _drop(self, work: Workload, candidate: Any) -> None:  # noqa: ANN401
        self.counts.dropped += 1
        self.progress.note(f"{work.kind}: {candidate} computes something else than the others; dropped")

    def _judge(self, state: _State, trials: list[tuple[Any, Trial]], *, first: bool) -> None:
        chosen, trial = self._race(trials)
        self.counts.timed += len(trials) - (not first)
        if first:
            state.first_s = trials[0][1].best_s
            self.progress.advance()
        state.best, state.best_s = (chosen, trial), trial.best_s
        for candidate, each in trials:
            state.times[str(candidate)] = each.best_s
            each.rest()
        winner = Winner(str(chosen), state.best_s * 1e6)
        self.cache.put(state.work.key, winner, self.options.tune, state.timed)
        known = self.cache.get(state.work.family, self.options.tune)
        if known is None or not first:
            self.cache.put(state.work.family, winner, self.options.tune)

    def _race(self, trials: list[tuple[Any, Trial]]) -> tuple[Any, Trial]:
        """The fastest candidate."""
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
        return min(trials, key=lambda pair: pair[1].best_s)

    def _tell(self, states: Sequence[_State]) -> None:
        """Report what was gained so far and how much time is left."""
        first, best = self._sums(states)
        limit, left = self.limit_s, ""
        if limit != float("inf"):
            left = f", {max(0.0, limit - self.counts.seconds):.0f} s left"
        gained = 1 - best / first if first else 0.0
        self.progress.detail(f"{gained:.0%} of {first * 1e3:.3g} ms gained{left}")

    @staticmethod
    def _sums(states: Sequence[_State]) -> tuple[float, float]:
        """Seconds of a run in the kernels that were timed: by the first guesses, and by the best found."""
        timed = [state for state in states if state.best is not None]
        return sum(s.first_s * s.count for s in timed), sum(s.best_s * s.count for s in timed)

    def _finish(self, states: Sequence[_State]) -> None:
        for state in states:
            if state.best is not None:
                self._chosen[state.work.key] = state.best[0]
                self.times[state.work.key] = state.times
        first, best = self._sums(states)
        self.counts.first_s += first
        self.counts.best_s += best
        untimed = [state for state in states if state.best is None]
        self.counts.left += len(untimed)
        if untimed:
            self.progress.note(
                f"the time for tuning was over before {len(untimed)} of {len(states)} kinds of layers were timed, "
                "those with least to gain; another compile goes on with them"
            )

    def summary(self) -> TuningSummary:
        """The work done so far."""
        c = self.counts
        return TuningSummary(
            c.workloads, c.hits, c.timed, c.dropped, c.seconds, (c.first_s - c.best_s) * 1e3, c.left
        )


def _emitted(work: Workload, candidate: Any) -> PrimFunc | CandidateFailed:  # noqa: ANN401
    try:
        return work.emit(candidate)
    except CandidateFailed as error:
        return error
