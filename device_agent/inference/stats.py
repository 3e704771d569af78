"""Counters and windows of one pipeline or model, cheap enough for every frame."""

from __future__ import annotations

from collections import deque

from edgec.device_agent.inference.messages import Latency, ModelCounters

_WINDOW = 512
SCORE_BINS = 20


class Window:
    """The last 512 durations of a stage, in milliseconds."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_WINDOW)

    def add(self, milliseconds: float) -> None:
        """Add one."""
        self._values.append(milliseconds)

    def summary(self) -> Latency | None:
        """Return the percentiles; None while there is nothing."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        last = len(ordered) - 1
        return Latency(round(ordered[last // 2], 4), round(ordered[round(last * 0.99)], 4))


class ModelStats:
    """One loaded model's counters, by which an update is judged."""

    def __init__(self) -> None:
        self.inferences = 0
        self.errors = 0
        self.results = 0
        self.score_sum = 0.0
        self.scores = [0] * SCORE_BINS
        self.latency = Window()
        self.last_error = ""

    def add(self, milliseconds: float, scores: list[float]) -> None:
        """Count one successful call."""
        self.inferences += 1
        self.results += len(scores)
        self.latency.add(milliseconds)
        for score in scores:
            self.score_sum += score
            self.scores[min(SCORE_BINS - 1, int(score * SCORE_BINS))] += 1

    def fail(self, message: str) -> None:
        """Count one failed call."""
        self.inferences += 1
        self.errors += 1
        self.last_error = message[:300]

    def report(self, name: str, version: str, digest: str) -> ModelCounters:
        """Return everything as the message of the model so named."""
        return ModelCounters(
            name=name,
            version=version,
            manifest_digest=digest,
            inferences=self.inferences,
            errors=self.errors,
            results=self.results,
            score_mean=round(self.score_sum / self.results, 4) if self.results else None,
            results_per_frame=round(self.results / self.inferences, 4) if self.inferences else None,
            scores=list(self.scores),
            latency=self.latency.summary(),
            last_error=self.last_error,
        )


def distance(left: list[int], right: list[int]) -> float:
    """Return the largest gap between two cumulative score distributions (Kolmogorov-Smirnov, 0 to 1)."""
    total_left, total_right = sum(left), sum(right)
    if not total_left or not total_right:
        return 0.0
    gap = high = low = 0.0
    for one, other in zip(left, right, strict=True):
        high, low = high + one / total_left, low + other / total_right
        gap = max(gap, abs(high - low))
    return gap
