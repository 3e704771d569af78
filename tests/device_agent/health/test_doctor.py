"""The doctor names what is wrong and what to do, and finishes whatever a device does to it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgec.device_agent.health import doctor
from edgec.device_agent.health.doctor import Finding, examine


def findings(tmp_path: Path, text: str) -> dict[str, Finding]:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return {one.what: one for one in examine(path)}


def test_a_camera_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(doctor, "_SOURCE_S", 0.2)
    monkeypatch.setattr(doctor, "open_source", lambda *_: never.wait())
    found = findings(tmp_path, '[streams.a]\nsource = "test"\n')["source a"]
    assert found.verdict == "bad"
    assert "no frame within" in found.text
    never.set()


def test_each_finding_says_what_to_do(tmp_path: Path) -> None:
    found = findings(
        tmp_path, '[broker]\nport = 9\n[models.m]\nartifact = "no.edge"\n[streams.a]\nsource = "no.mp4"\n'
    )
    assert all(one.remedy for one in found.values() if one.verdict == "bad")
    assert "models.m.artifact" in found["model m"].remedy
    assert "streams.a.source" in found["source a"].remedy
    assert "edgec agent run" in found["agent"].remedy
    # What the doctor makes is for nobody else to read.
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert found["state folder"].verdict == "good"
