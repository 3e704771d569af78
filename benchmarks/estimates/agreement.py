"""How well the estimates that order candidates agree with measurements: rank correlation, and what it costs.

Measurements are stored by microarchitecture family (`<family>.json` beside this file): for each workload, the
candidates that were timed, with their place in the order of estimates and their microseconds. `measure.py` makes
them; those of Zen 4 were built beforehand and timed while nothing else ran, in two passes: the first three candidates,
five at growing distances, and a borrowed winner, of MobileNetV2, ResNet-18 and twelve layers of strangers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import TypeAlias

import numpy as np

FOLDER = Path(__file__).parent
NOISE = 0.05  # of a time: candidates that differ by less are as good as each other
FEWEST = 5  # candidates of a workload that make a correlation worth stating
Timed: TypeAlias = Sequence[tuple[str, int, float]]  # schedule, place in the order of estimates, microseconds


@dataclass(frozen=True)
class Agreement:
    """Means over workloads.

    Attributes:
        workloads: how many of them.
        correlation: Spearman's, of the order of estimates and the times; 1 is the same order.
        loss: how much slower than the fastest candidate the first one is, 0 for equally fast.
        loss_of_three: the same of the fastest among the first three.
        pairs: how many pairs of candidates there are.
        apart: how many of them take times that differ by more than `NOISE`.
        right: which share of those the estimates put in the right order.
    """

    workloads: int
    correlation: float
    loss: float
    loss_of_three: float
    pairs: int = 0
    apart: int = 0
    right: float = 0.0


def stored(family: str) -> dict[str, Timed]:
    """The measurements of a family by workload; none where it was not measured."""
    file = FOLDER / f"{family}.json"
    if not family or not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return {
        key: [(str(s), int(place), float(us)) for s, place, us in timed] for key, timed in content.items()
    }


def agreement(measured: Mapping[str, Timed]) -> Agreement | None:
    """The agreement over workloads with enough candidates; None if there is none."""
    judged = [sorted(timed, key=lambda one: one[1]) for timed in measured.values() if len(timed) >= FEWEST]
    if not judged:
        return None
    losses = [[us / min(t[2] for t in timed) - 1 for _, _, us in timed] for timed in judged]
    return Agreement(
        len(judged),
        mean(rank_correlation([t[1] for t in timed], [t[2] for t in timed]) for timed in judged),
        mean(loss[0] for loss in losses),
        mean(min(loss[:3]) for loss in losses),
        sum(len(timed) * (len(timed) - 1) // 2 for timed in judged),
        *_ordered(judged),
    )


def _ordered(judged: Sequence[Timed]) -> tuple[int, float]:
    """How many pairs of candidates differ in time by more than noise, and the share that is in the right order."""
    pairs = [pair for timed in judged for pair in combinations(timed, 2)]
    apart = [(a[2], b[2]) for a, b in pairs if max(a[2], b[2]) > (1 + NOISE) * min(a[2], b[2])]
    return len(apart), sum(first < second for first, second in apart) / len(apart) if apart else 0.0


def agreement_on(family: str) -> Agreement | None:
    """The agreement on a microarchitecture family, from what is stored of it."""
    return agreement(stored(family))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values share their mean rank."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (a, b)]
    spread = float(np.std(ranks[0]) * np.std(ranks[1]))
    return (
        float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean()))) / spread
        if spread
        else 0.0
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2, np.float64)
