"""Which of two models is right, by the captures that people have confirmed or corrected.

In a shadow both models have seen the same picture: each picture on which one agrees better with the labels counts for
that one, and the test is exact and sequential (a mixture of all shares above one half, with a uniform prior, against
one half). In A/B each picture was seen by one of them, and their mean agreements are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.captures.agreement import agreement
from edgec.fleet.captures.service import truth
from edgec.fleet.experiments.verdict import CEILING, MOST, Labels
from edgec.fleet.rollouts.sequential import likelihood_ratio
from edgec.fleet.store.tables import Capture, Experiment, Participant

LATE_S = 86400.0
"""Captures of an experiment may arrive for so long after its end."""
MOST_CAPTURES = 5000
SPREAD = 0.25
"""Smallest credible standard deviation of a picture's agreement."""


def label_finding(session: Session, row: Experiment, alpha: float) -> dict[str, Any]:
    """What the reviewed captures of an experiment say: how many there are, how well each model agrees with them, and
    which one is right, with the confidence in that."""
    devices = select(Participant.device_id).filter_by(experiment_id=row.id)
    query = select(Capture).where(
        Capture.device_id.in_(devices),
        Capture.state.in_(("confirmed", "corrected")),
        Capture.at >= row.created_at,
    )
    if row.finished_at is not None:
        query = query.where(Capture.at <= row.finished_at + LATE_S)
    captures = session.scalars(query.order_by(Capture.id).limit(MOST_CAPTURES)).all()
    own: list[float] = []
    candidate: list[float] = []
    for one in captures:
        ours = (one.model, one.version) == (row.model, row.version)
        if row.mode == "ab":
            (candidate if ours else own).append(agreement(one.predictions, truth(one)))
            continue
        other = one.meta.get("other") or {}
        if not ours and (other.get("model"), other.get("version")) == (row.model, row.version):
            own.append(agreement(one.predictions, truth(one)))
            candidate.append(agreement(other.get("predictions", []), truth(one)))
    return weigh(own, candidate, alpha, paired=row.mode != "ab")


def weigh(own: Sequence[float], candidate: Sequence[float], alpha: float, *, paired: bool) -> dict[str, Any]:
    """The finding on the agreements of both models, picture by picture if `paired`."""
    better = sum(new > old for old, new in zip(own, candidate, strict=True)) if paired else 0
    worse = sum(new < old for old, new in zip(own, candidate, strict=True)) if paired else 0
    if paired:
        ratios = evidence(better, worse), evidence(worse, better)
    else:
        ratios = likelihood_ratio(candidate, own, 0.0, SPREAD), likelihood_ratio(own, candidate, 0.0, SPREAD)
        if not (own and candidate):
            ratios = 1.0, 1.0
    ahead, needed = max(ratios), 2 / alpha
    decided = ahead >= needed
    right = ("candidate" if ratios[0] >= ratios[1] else "own") if decided else ""
    return {
        "pictures": len(own) if paired else len(own) + len(candidate),
        "own": round(fmean(own), 4) if own else None,
        "candidate": round(fmean(candidate), 4) if candidate else None,
        "candidate_right": better,
        "own_right": worse,
        "evidence": round(min(ahead, CEILING), 3),
        "needed": needed,
        "right": right,
        "confidence": min(round(1 - 2 / ahead, 4), MOST) if decided else 0.0,
    }


def evidence(wins: int, losses: int) -> float:
    """The likelihood ratio of "wins more often than not" against "as often as not", which chance seldom drives up: it
    exceeds `x` at any time with probability `1/x` at most."""
    shares = np.linspace(0.5, 1.0, 4001)[:-1] + 0.5 / 8000
    logs = wins * np.log(2 * shares) + losses * np.log(2 * (1 - shares))
    highest = float(logs.max())
    return float(np.mean(np.exp(logs - highest)) * np.exp(min(highest, 700.0)))


def said(finding: dict[str, Any]) -> Labels:
    """A finding as the verdict takes it."""
    return Labels({"candidate": 1, "own": -1, "": 0}[finding["right"]], finding["confidence"])
