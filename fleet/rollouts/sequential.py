"""The sequential test behind the verdicts of rollouts and experiments.

A mixture sequential probability ratio test (Robbins 1970, Johari et al. 2017) with normal mixing and the variance
estimated: it may be evaluated after every value, without raising the probability of a wrong verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SAMPLES = 8
"""With fewer values there is no evidence: their variance is unknown."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a quantity is judged.

    Attributes:
        name: its name in findings.
        shift: the tolerated shift of the mean, on the scale of the values; of ratios, a difference of logarithms.
        floor: the smallest credible standard deviation of one value.
        both_sides: whether a downward shift counts, too.
        ratio: whether the values are logarithms, to be shown as factors.
    """

    name: str
    shift: float
    floor: float
    both_sides: bool = False
    ratio: bool = False


def likelihood_ratio(updated: Sequence[float], control: Sequence[float], shift: float, floor: float) -> float:
    """Evidence that `updated` lies more than `shift` above `control`: 1 is none, and a martingale bounds chance.

    `floor` is the smallest credible standard deviation of one value. Without control values their mean is zero:
    values are differences from the device's own past.
    """
    if len(updated) < MIN_SAMPLES or (control and len(control) < MIN_SAMPLES):
        return 1.0
    spread = max(float(np.var(updated, ddof=1)), floor**2) / len(updated)
    if control:
        spread += max(float(np.var(control, ddof=1)), floor**2) / len(control)
    excess = float(np.mean(updated)) - (float(np.mean(control)) if control else 0.0) - shift
    if excess <= 0:
        return 0.0
    mixing = max(shift, floor) ** 2
    exponent = mixing * excess**2 / (2 * spread * (spread + mixing))
    return math.sqrt(spread / (spread + mixing)) * math.exp(min(exponent, 700.0))
