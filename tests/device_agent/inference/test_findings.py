"""Results of models: refused when they are not finite, compared with another model's."""

from __future__ import annotations

import math

import pytest

from edgec.device_agent.inference.comparison import agreement
from edgec.device_agent.inference.findings import Findings, findings_of
from edgec.runtime import Box, Detection
from edgec.runtime.errors import BrokenOutput


def test_nan_is_refused_and_models_are_compared() -> None:
    good = Detection(Box(0, 0, 10, 10), "a", 0, 0.9)
    with pytest.raises(BrokenOutput):
        findings_of([Detection(Box(0, 0, 10, 10), "a", 0, float("nan"))], "detection")
    with pytest.raises(BrokenOutput):
        findings_of([Detection(Box(0, math.inf, 10, 10), "a", 0, 0.5)], "detection")
    left = findings_of([good], "detection")
    assert agreement(left, findings_of([good], "detection")) == 1.0
    assert agreement(left, findings_of([Detection(Box(50, 50, 60, 60), "a", 0, 0.9)], "detection")) == 0.0
    assert agreement(Findings(), Findings()) == 1.0
