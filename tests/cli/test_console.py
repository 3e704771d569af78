"""What the command line writes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edgec.cli.console import ago, emit_json


@pytest.mark.parametrize(("passed", "text"), [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"),
                                              (3 * 86400, "3 d ago"), (-5, "0 s ago")])  # fmt: skip
def test_how_long_ago(monkeypatch: pytest.MonkeyPatch, passed: float, text: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert ago(1e9 - passed) == text


def test_what_never_was() -> None:
    assert ago(None) == "never"


def test_json_is_one_document_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "[bold]x[/]" * 40, "path": Path("a/b")}
    emit_json(value)
    written = capsys.readouterr()
    assert json.loads(written.out) == {"name": "[bold]x[/]" * 40, "path": "a/b"}
    assert written.err == ""
