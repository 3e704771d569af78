"""`edgec push`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Operator
from tests.fleet.artifacts import make_artifact


def test_a_version_is_pushed_once(operator: Operator, tmp_path: Path) -> None:
    make_artifact(tmp_path / "a.edge", "pushed")
    first = json.loads(operator("push", tmp_path / "a.edge", "--json"))
    assert (first["model"], first["version"], first["target"]) == ("pushed", "1", "x86-64-v3")
    assert first["sent_bytes"] > 0
    again = json.loads(operator("push", tmp_path / "a.edge", "--json"))
    assert (again["digest"], again["sent_bytes"]) == (first["digest"], 0)


def test_name_and_version_can_be_given(operator: Operator, tmp_path: Path) -> None:
    make_artifact(tmp_path / "a.edge", "pushed")
    text = operator("push", tmp_path / "a.edge", "--name", "other", "--version", "7")
    assert "pushed other:7 for x86-64-v3: sha256:" in text


def test_a_file_that_is_no_artifact_is_refused(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "a.edge").write_bytes(b"no tar")
    assert operator("push", tmp_path / "a.edge", status=3).startswith(f"error: {tmp_path / 'a.edge'}")
