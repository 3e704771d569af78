"""Gates for motion and loudness."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec.device_agent.config.rules import Gate
from edgec.device_agent.inference.gate import GateKeeper, level_dbfs
from edgec.device_agent.process.ring import Frame, Kind


def frame(data: np.ndarray, kind: Kind = Kind.PICTURE) -> Frame:
    return Frame(0, 0, data, kind, 16000, 0, 0)


def test_a_gate_opens_for_motion_and_holds() -> None:
    gate = GateKeeper(Gate(hold_s=1.0, refresh_s=100.0))
    still = np.full((120, 160, 3), 80, np.uint8)
    moved = still.copy()
    moved[40:80, 40:80] = 250
    assert gate.passes(frame(still), 0.0)  # the first one is news
    assert not gate.passes(frame(still), 2.0)
    assert gate.passes(frame(moved), 3.0)
    assert gate.passes(frame(still), 3.5)
    for number in range(60):
        gate.passes(frame(still), 5.0 + number)
    assert not gate.passes(frame(still), 66.0)
    assert gate.passes(frame(still), 200.0)  # the refresh


def test_loudness() -> None:
    seconds = np.arange(16000) / 16000
    sine = np.sin(2 * math.pi * 440 * seconds).astype(np.float32)
    assert level_dbfs(sine) == pytest.approx(-3.01, abs=0.01)
    gate = GateKeeper(Gate(kind="level", level_dbfs=-40, hold_s=0.1, refresh_s=1000))
    quiet = (sine * 1e-4)[:, None]
    gate.passes(frame(quiet, Kind.SOUND), 0.0)
    assert not gate.passes(frame(quiet, Kind.SOUND), 5.0)
    assert gate.passes(frame((sine * 0.1)[:, None], Kind.SOUND), 6.0)
