"""Captures for retraining: the spool and its quota."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgec.device_agent.errors import StateError
from edgec.device_agent.inference.captures import Spool
from tests.device_agent.capture_server import JPEG, capture_meta


def test_quota_and_bound_outlive_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    spool = Spool(folder, 4000, 3)
    for number in range(3):
        assert spool.allow()
        spool.store(capture_meta(number), JPEG)
    assert not spool.allow()
    again = Spool(folder, 4000, 3)
    assert not again.allow()
    while sum(path.stat().st_size for path in folder.iterdir()) + 2 * len(JPEG) < 4000:
        again.store(capture_meta(again.kept + 3), JPEG)
    with pytest.raises(StateError, match="wait already"):
        again.store(capture_meta(99), np.random.default_rng(0).bytes(4000))
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4000
    assert {json.loads(path.read_bytes())["id"] for path in folder.glob("*.json")} >= {"s-0", "s-1", "s-2"}
