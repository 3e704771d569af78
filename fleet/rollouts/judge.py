"""Judges the model, not only its installation, by what updated devices report compared with the others.

Each telemetry report of a device since the rollout began is compared with the same device's hour before it, so that
a camera that was always slow does not count against the new version; and updated devices with those still waiting,
so that a busy day does not either. The test is sequential: it may be evaluated after every report, and still stops a
good version with probability at most `alpha` over the whole rollout (a mixture sequential probability ratio test,
Robbins
1970, Johari et al. 2017, with normal mixing and the variance estimated, shared between the metrics by Bonferroni). It
assumes independent samples; a device's reports are summed over its reporting interval to approximate that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.rollouts.plan import MemberState, ModelCriteria
from edgec.fleet.rollouts.sequential import Metric, likelihood_ratio
from edgec.fleet.store.tables import Member, Rollout, Telemetry
from edgec.fleet.telemetry.rows import slot_stream

BASELINE_S = 3600.0
UPDATED = frozenset({MemberState.SUCCEEDED.value})
WAITING = frozenset({MemberState.WAITING.value, MemberState.SKIPPED.value, MemberState.UNREACHED.value})


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding for a metric.

    Attributes:
        metric: how it was judged.
        updated: mean shift of the updated devices.
        control: mean shift of the others; 0 without any.
        samples: number of values of both groups.
        evidence: against the version, as a likelihood ratio.
        needed: evidence that stops the rollout.
    """

    metric: Metric
    updated: float
    control: float
    samples: tuple[int, int]
    evidence: float
    needed: float

    @property
    def against(self) -> bool:
        """Whether the evidence suffices against the new version."""
        return self.evidence >= self.needed


def metrics_of(criteria: ModelCriteria) -> list[Metric]:
    """The metrics that a plan configures. Ratios are judged as differences of logarithms."""
    found: list[Metric] = []
    if criteria.latency_ratio is not None:
        found.append(Metric("latency", math.log(criteria.latency_ratio), 0.05, ratio=True))
    if criteria.error_rate is not None:
        found.append(Metric("error rate", criteria.error_rate, 0.01))
    if criteria.event_rate_ratio is not None:
        found.append(
            Metric("event rate", math.log(criteria.event_rate_ratio), 0.2, both_sides=True, ratio=True)
        )
    if criteria.score_shift is not None:
        found.append(Metric("mean score", criteria.score_shift, 0.02, both_sides=True))
    return found


def find(
    metric: Metric, updated: Sequence[float], control: Sequence[float], alpha: float, tests: int
) -> Finding:
    """Judge one metric on differences from each device's own past."""
    evidence = likelihood_ratio(updated, control, metric.shift, metric.floor)
    if metric.both_sides:
        down = likelihood_ratio([-x for x in updated], [-x for x in control], metric.shift, metric.floor)
        evidence = max(evidence, down)
    return Finding(
        metric,
        fmean(updated) if updated else 0.0,
        fmean(control) if control else 0.0,
        (len(updated), len(control)),
        evidence,
        tests / alpha,
    )


def judge(
    session: Session, rollout: Rollout, criteria: ModelCriteria, members: Sequence[Member], now: float
) -> str:
    """A sentence against the new version, or an empty text. The finding for each metric is stored in
    `rollout.verdicts`."""
    wanted = metrics_of(criteria)
    tests = sum(2 if metric.both_sides else 1 for metric in wanted)
    updated = {m.device_id: m.changed_at for m in members if m.state in UPDATED}
    control = {m.device_id: rollout.created_at for m in members if m.state in WAITING and m.has_place}
    if not updated or not wanted:
        return ""
    slots = {m.device_id: slot_stream(m.slot) for m in members if m.slot}
    shifts = _shifts(session, rollout.created_at, {**updated, **control}, slots, now)
    verdicts: dict[str, object] = {}
    sentence = ""
    for metric in wanted:
        groups = [
            [value for device in group for value in shifts.get((metric.name, device), [])]
            for group in (updated, control)
        ]
        finding = find(metric, groups[0], groups[1], criteria.alpha, tests)
        verdicts[metric.name] = {
            "updated": _shown(metric, finding.updated),
            "control": _shown(metric, finding.control),
            "samples": list(finding.samples),
            "evidence": round(min(finding.evidence, 1e9), 3),
            "needed": finding.needed,
            "against": finding.against,
        }
        if finding.against and not sentence:
            sentence = _sentence(finding, criteria.alpha)
    rollout.verdicts = verdicts
    return sentence


def _shown(metric: Metric, value: float) -> float:
    return round(math.exp(value) if metric.ratio else value, 4)


def _sentence(finding: Finding, alpha: float) -> str:
    metric = finding.metric
    updated, control = _shown(metric, finding.updated), _shown(metric, finding.control)
    limit = _shown(metric, metric.shift)
    how = ("{:g} times" if metric.ratio else "{:+g} against").format(updated) + " what it was"
    beside = f", {control:g} on the others" if finding.samples[1] else ""
    return f"{metric.name} on updated devices is {how}{beside} (tolerated {limit:g}; false alarm below {alpha:.2%})"


def _shifts(
    session: Session, created_at: float, since: dict[int, float], slots: dict[int, str], now: float
) -> dict[tuple[str, int], list[float]]:
    """Per metric and device, each later value less the mean of the hour before the rollout.

    Of a device with several models only the figures of the updated slot count, where it reports them.
    """
    names = {"latency", "error rate", "event rate", "mean score"}
    found: dict[int, dict[str, list[_Health]]] = defaultdict(lambda: defaultdict(list))
    devices = list(since)
    for start in range(0, len(devices), 500):
        # Columns instead of ORM objects: a large fleet has a hundred thousand reports an hour.
        chosen = devices[start : start + 500]
        streams = {"", *(slots[device] for device in chosen if device in slots)}
        query = select(
            Telemetry.device_id, Telemetry.stream, *(getattr(Telemetry, name) for name in _Health._fields)
        ).where(
            Telemetry.device_id.in_(chosen),
            Telemetry.stream.in_(streams),
            Telemetry.at > created_at - BASELINE_S,
            Telemetry.at <= now,
        )
        for device, stream, *fields in session.execute(query.order_by(Telemetry.at)):
            if stream in ("", slots.get(device)):
                found[device][stream].append(_Health(*fields))
    rows = {device: by.get(slots.get(device, ""), by[""]) for device, by in found.items()}
    result: dict[tuple[str, int], list[float]] = {}
    for device, reports in rows.items():
        values = _values(reports)
        for name in names:
            before = [value for at, value in values[name] if at <= created_at]
            after = [value for at, value in values[name] if at > since[device]]
            if before and after:
                mean = fmean(before)
                result[name, device] = [value - mean for value in after]
    return result


class _Health(NamedTuple):
    """The figures of a telemetry report that are judged."""

    at: float
    latency_ms: float | None
    score_mean: float | None
    processed: int | None
    errors: int | None
    events: int | None


def _values(reports: Sequence[_Health]) -> dict[str, list[tuple[float, float]]]:
    """Time and value of each metric; counters become rates between successive reports, and a reset of a counter
    is skipped."""
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for report in reports:
        if report.latency_ms is not None and report.latency_ms > 0:
            values["latency"].append((report.at, math.log(report.latency_ms)))
        if report.score_mean is not None:
            values["mean score"].append((report.at, report.score_mean))
    for before, after in pairwise(reports):
        done = _grown(before.processed, after.processed)
        failed, events = _grown(before.errors, after.errors), _grown(before.events, after.events)
        if done and failed is not None:
            values["error rate"].append((after.at, failed / (done + failed)))
        if done and events is not None:
            # Half an event more, on both sides, keeps the logarithm finite.
            values["event rate"].append((after.at, math.log((events + 0.5) / done)))
    return values


def _grown(before: int | None, after: int | None) -> int | None:
    return after - before if before is not None and after is not None and after >= before else None
