"""The verdict of an experiment so far, and the confidence in it.

Two claims are tested for each criterion, with the sequential test of `edgec.fleet.rollouts.sequential`: that the
candidate is worse than tolerated, and that it is not. Both may be evaluated after every report; the probability of
ever accepting a wrong one is at most `alpha`, divided between criteria and claims by Bonferroni. The test assumes
independent reports, so their interval should be long against the time scale of what they measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgec.fleet.rollouts.sequential import Metric, likelihood_ratio

Verdict = Literal["undecided", "as-good", "worse"]
CEILING = 1e9
"""Evidence is capped here for display; more adds nothing."""
MIN_READINGS = 20
"""With fewer, the estimate of the variance is too poor for the test's guarantee."""
MOST = 0.9999
"""Upper bound of the confidence claimed: the test's assumptions hold only approximately."""


class Criteria(BaseModel):
    """How much worse the candidate may be; None disables a criterion."""

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
        against: evidence that the candidate is worse, as a likelihood ratio.
        in_favour: evidence that it is not.
        needed: evidence that decides.
        verdict: the decision so far.
    """

    value: float | None
    tolerated: float
    readings: int
    against: float
    in_favour: float
    needed: float
    verdict: Verdict


def measures_of(mode: str, criteria: Criteria) -> list[Metric]:
    """The criteria that apply to `mode`, shadow or ab."""
    found: list[Metric] = []
    if criteria.disagreement is not None and mode == "shadow":
        found.append(Metric("disagreement", criteria.disagreement, 0.02))
    if criteria.latency_ratio is not None:
        found.append(Metric("latency", math.log(criteria.latency_ratio), 0.05, ratio=True))
    if criteria.error_rate is not None:
        found.append(Metric("errors", criteria.error_rate, 0.002))
    if criteria.score_shift is not None:
        found.append(Metric("score", criteria.score_shift, 0.02, both_sides=True))
    if criteria.results_ratio is not None and mode == "ab":
        found.append(Metric("results", math.log(criteria.results_ratio), 0.1, both_sides=True, ratio=True))
    return found


def judge(
    mode: str, criteria: Criteria, readings: Mapping[str, Sequence[float]]
) -> tuple[Verdict, float, dict[str, dict[str, Any]]]:
    """The verdict, the confidence in it (0 while undecided), and a finding for each criterion."""
    measures = measures_of(mode, criteria)
    needed = 2 * len(measures) / criteria.alpha if measures else math.inf
    found = {one.name: _find(one, readings.get(one.name, ()), needed) for one in measures}
    verdicts = [one.verdict for one in found.values()]
    verdict: Verdict = "undecided"
    evidence = 0.0
    if "worse" in verdicts:
        verdict, evidence = "worse", max(one.against for one in found.values())
    elif verdicts and all(one == "as-good" for one in verdicts):
        verdict, evidence = "as-good", min(one.in_favour for one in found.values())
    confidence = 1 - needed * criteria.alpha / evidence if verdict != "undecided" else 0.0
    return verdict, min(round(confidence, 4), MOST), {name: asdict(one) for name, one in found.items()}


def _find(measure: Metric, values: Sequence[float], needed: float) -> Finding:
    known = values if len(values) >= MIN_READINGS else ()
    turned = [-value for value in known]
    against = likelihood_ratio(known, (), measure.shift, measure.floor)
    # "The mean lies below the shift" is tested as "its negative lies above the negative shift".
    favour = likelihood_ratio(turned, (), -measure.shift, measure.floor)
    if measure.both_sides:
        against = max(against, likelihood_ratio(turned, (), measure.shift, measure.floor))
        favour = min(favour, likelihood_ratio(known, (), -measure.shift, measure.floor))
    mean = fmean(values) if values else None
    shown = None if mean is None else round(math.exp(mean) if measure.ratio else mean, 5)
    tolerated = round(math.exp(measure.shift) if measure.ratio else measure.shift, 5)
    verdict: Verdict = "worse" if against >= needed else "as-good" if favour >= needed else "undecided"
    against, favour = (round(min(one, CEILING), 3) for one in (against, favour))
    return Finding(shown, tolerated, len(values), against, favour, needed, verdict)
