"""The facts of a results page."""

from __future__ import annotations

import json

import pytest

from edgec.benchmarks.machine import describe_machine
from edgec.compiler.backends.cpu import peak
from edgec.targets import Target, detect


def test_a_peak_is_measured_for_each_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(_: Target, threads: int) -> float:
        return 100.04 * threads

    monkeypatch.setattr(peak, "fp32_peak_gflops", rate)
    facts = describe_machine(detect(), (1, 2))
    assert facts["fp32_peak_gflops"] == {"1": 100.0, "2": 200.1}
    assert facts["target"] == detect().name
    assert {"edgec", "numpy"} <= set(facts["versions"])
    assert json.loads(json.dumps(facts)) == facts
