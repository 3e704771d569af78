"""The verdict of an experiment so far, and the confidence in it.

*Differs* is not *worse*: scores, results and disagreements say that two models differ, never which one is right.
Worse is a candidate that is slower or fails more often than tolerated, that is behind in a metric for which the user
named a direction, or that people's labels contradict (`edgec.fleet.experiments.labels`).

Two claims are tested for each criterion, with the sequential test of `edgec.fleet.rollouts.sequential`: that the
candidate lies beyond what is tolerated, and that it does not. Both may be evaluated after every report; the probability
of ever accepting a wrong one is at most `alpha`, divided between criteria and claims by Bonferroni. The test assumes
independent reports, so their interval should be long against the time scale of what they measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgec.fleet.rollouts.sequential import Metric, likelihood_ratio

Verdict = Literal["undecided", "as-good", "better", "differs", "worse"]
Outcome = Literal["undecided", "as-good", "worse", "alike", "differs"]
CEILING = 1e9
"""Evidence is capped here for display; more adds nothing."""
MIN_READINGS = 20
"""With fewer, the estimate of the variance is too poor for the test's guarantee."""
MOST = 0.9999
"""Upper bound of the confidence claimed: the test's assumptions hold only approximately."""


class Directed(BaseModel):
    """A metric of which the user says which way is better."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Literal["score", "results"] = Field(description="The mean score, or the results a frame.")
    better: Literal["higher", "lower"]
    tolerance: float = Field(
        gt=0,
        le=1000,
        description="Tolerated change for the worse: a difference of scores, a factor of results.",
    )

    @model_validator(mode="after")
    def _plausible(self) -> Directed:
        if (self.name == "results") != (self.tolerance > 1):
            raise ValueError(
                "the tolerance is a factor above 1 for results, and a difference up to 1 for the score"
            )
        return self


class Criteria(BaseModel):
    """What is tolerated; None disables a criterion. `latency_ratio`, `error_rate` and `metrics` can make a candidate
    worse; the others only say that it differs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    disagreement: float | None = Field(
        0.1,
        gt=0,
        lt=1,
        description="Tolerated share of frames on which the models' results differ (shadow only).",
    )
    latency_ratio: float | None = Field(1.25, gt=1, le=100, description="Tolerated latency ratio.")
    error_rate: float | None = Field(
        0.01, gt=0, lt=1, description="Tolerated increase of the share of failed inferences."
    )
    score_shift: float | None = Field(
        0.1, gt=0, le=1, description="Tolerated change of the mean score, up or down."
    )
    results_ratio: float | None = Field(
        1.5, gt=1, le=1000, description="Tolerated factor, up or down, in results a frame (A/B only)."
    )
    metrics: tuple[Directed, ...] = Field((), max_length=2)
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Probability of a wrong verdict, over the whole experiment."
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding for one criterion.

    Attributes:
        value: the mean, ratios as factors; None without readings.
        tolerated: the tolerated value, on the same scale.
        readings: how many there are.
        against: evidence that the candidate lies beyond what is tolerated, as a likelihood ratio.
        in_favour: evidence that it does not.
        needed: evidence that decides.
        verdict: the decision so far.
        judges: whether it can make the candidate worse, rather than different.
        better: which way is better, where the user has named it.
    """

    value: float | None
    tolerated: float
    readings: int
    against: float
    in_favour: float
    needed: float
    verdict: Outcome
    judges: bool
    better: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """A criterion in effect.

    Attributes:
        metric: how its values are tested.
        judges: whether it can make the candidate worse.
        sign: -1 where lower values are worse.
    """

    metric: Metric
    judges: bool = False
    sign: int = 1

    @property
    def better(self) -> str:
        """Which way is better, where the user has named it."""
        named = self.judges and self.metric.name in ("score", "results")
        return ("higher" if self.sign < 0 else "lower") if named else ""


def measures_of(mode: str, criteria: Criteria) -> list[Measure]:
    """The criteria that apply to `mode`, shadow or ab."""
    found: list[Measure] = []
    named = {one.name: one for one in criteria.metrics}
    if criteria.disagreement is not None and mode == "shadow":
        found.append(Measure(Metric("disagreement", criteria.disagreement, 0.02)))
    if criteria.latency_ratio is not None:
        found.append(
            Measure(Metric("latency", math.log(criteria.latency_ratio), 0.05, ratio=True), judges=True)
        )
    if criteria.error_rate is not None:
        found.append(Measure(Metric("errors", criteria.error_rate, 0.002), judges=True))
    if criteria.score_shift is not None and "score" not in named:
        found.append(Measure(Metric("score", criteria.score_shift, 0.02, both_sides=True)))
    if criteria.results_ratio is not None and mode == "ab" and "results" not in named:
        ratio = math.log(criteria.results_ratio)
        found.append(Measure(Metric("results", ratio, 0.1, both_sides=True, ratio=True)))
    for one in named.values():
        ratio = one.name == "results"
        shift, floor = (math.log(one.tolerance), 0.1) if ratio else (one.tolerance, 0.02)
        sign = -1 if one.better == "higher" else 1
        found.append(Measure(Metric(one.name, shift, floor, ratio=ratio), judges=True, sign=sign))
    return found


@dataclass(frozen=True, slots=True)
class Labels:
    """What people's labels say: 1 for the candidate, -1 against it, 0 for nothing yet; and the confidence in it."""

    says: int = 0
    confidence: float = 0.0


def judge(
    mode: str, criteria: Criteria, readings: Mapping[str, Sequence[float]], labels: Labels | None = None
) -> tuple[Verdict, float, dict[str, dict[str, Any]]]:
    """The verdict, the confidence in it (0 while undecided), and a finding for each criterion."""
    measures = measures_of(mode, criteria)
    needed = 2 * len(measures) / criteria.alpha if measures else math.inf
    found = {one.metric.name: _find(one, readings.get(one.metric.name, ()), needed) for one in measures}
    shown = {name: asdict(one) for name, one in found.items()}

    def sure(evidence: float) -> float:
        return max(min(round(1 - needed * criteria.alpha / evidence, 4), MOST), 0.0)

    said = labels or Labels()
    judging = [one for one in found.values() if one.judges]
    telling = [one for one in found.values() if not one.judges]
    worse = [one for one in judging if one.verdict == "worse"]
    if worse or said.says < 0:
        confidence = max([sure(one.against) for one in worse] + [said.confidence] * (said.says < 0))
        return "worse", confidence, shown
    if not found or any(one.verdict == "undecided" for one in judging):
        return "undecided", 0.0, shown
    fine = [one.in_favour for one in judging]
    if said.says > 0:
        return "better", min([said.confidence, *map(sure, fine)]), shown
    if differing := [one.against for one in telling if one.verdict == "differs"]:
        return "differs", sure(min([max(differing), *fine])), shown
    if any(one.verdict == "undecided" for one in telling):
        return "undecided", 0.0, shown
    return "as-good", sure(min(one.in_favour for one in found.values())), shown


def _find(measure: Measure, values: Sequence[float], needed: float) -> Finding:
    metric = measure.metric
    known = [measure.sign * value for value in values] if len(values) >= MIN_READINGS else []
    turned = [-value for value in known]
    against = likelihood_ratio(known, (), metric.shift, metric.floor)
    # "The mean lies below the shift" is tested as "its negative lies above the negative shift".
    favour = likelihood_ratio(turned, (), -metric.shift, metric.floor)
    if metric.both_sides:
        against = max(against, likelihood_ratio(turned, (), metric.shift, metric.floor))
        favour = min(favour, likelihood_ratio(known, (), -metric.shift, metric.floor))
    mean = fmean(values) if values else None
    shown = None if mean is None else round(math.exp(mean) if metric.ratio else mean, 5)
    tolerated = round(math.exp(metric.shift) if metric.ratio else metric.shift, 5)
    beyond, within = ("worse", "as-good") if measure.judges else ("differs", "alike")
    verdict: Any = beyond if against >= needed else within if favour >= needed else "undecided"
    against, favour = (round(min(one, CEILING), 3) for one in (against, favour))
    return Finding(
        shown, tolerated, len(values), against, favour, needed, verdict, measure.judges, measure.better
    )
