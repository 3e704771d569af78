"""What the command line writes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import typer
from onnx import helper
from rich.table import Table
from typer.testing import CliRunner

from edgec.cli import devices, experiments
from edgec.cli.agent_view import print_finding, print_status
from edgec.cli.console import ago, emit_json, out, printable, styled
from edgec.cli.fleet import rollouts
from edgec.device_agent.health.doctor import Finding
from edgec.fleet.client import connection
from tests.cli.conftest import Edgec
from tests.compiler.small_models import model_of, save

HOSTILE = "[/head] [bold]b [torch] :smile:"
"""A name with a closing tag of nothing, a style, what looks like a style, and an emoji's code."""


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


def test_no_text_is_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE, title=f"title {HOSTILE}")
    table.add_row(f"cell {HOSTILE}")
    out.print(f"line {HOSTILE}")
    out.print(styled(("style", "bold green"), f" {HOSTILE} ", (HOSTILE, "red")))
    out.print(table)
    shown = capsys.readouterr().out
    assert shown.count(HOSTILE) == 6
    assert f"style {HOSTILE} {HOSTILE}" in shown


def test_control_codes_and_bytes_that_are_no_text_are_shown_as_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printable("a\x1b[31mb\r\x9bc\td\n") == "a\\x1b[31mb\\r\\x9bc\td\n"
    out.print(styled(("a\x1b[2J", "bold"), " \udcff"))
    assert capsys.readouterr().out == "a\\x1b[2J \\udcff\n"


def test_commands_print_the_names_of_a_model_as_they_are(edgec: Edgec, tmp_path: Path) -> None:
    """Of nodes, tensors and files, in results and in messages."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x[/in]", "w"], ["[bold]c"], name="conv[/head]"),
        helper.make_node("Unique", ["[bold]c"], ["y[torch]"], name="[bold]unique[/]", sorted=1),
    ]
    weights = {"w": rng.standard_normal((2, 3, 3, 3)).astype("float32")}
    place = save(model_of(nodes, {"x[/in]": [1, 3, 5, 5]}, ["y[torch]"], weights), tmp_path, "m[bold].onnx")
    np.savez(tmp_path / "in.npz", **{"x[/in]": rng.standard_normal((1, 3, 5, 5)).astype("float32")})
    made = "a[b].edge"

    def told(*arguments: object, status: int = 0) -> str:
        done = edgec(*arguments, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    compiled = told("compile", place.name, "--tune", "none", "-o", made)
    assert "a[b].edge for" in compiled
    assert "[bold]unique[/]" in compiled
    assert "conv[/head]" in compiled
    for command in (("inspect", place.name), ("inspect", made)):
        shown = told(*command)
        assert "x[/in]" in shown
        assert "y[torch]" in shown
    assert "m[bold].onnx" in told("inspect", place.name)
    assert "y[torch]" in told("run", made, "in.npz")
    assert "saved to o[b].npz" in told("run", made, "in.npz", "-o", "o[b].npz")
    assert made in told("bench", made, "--runs", "2", "--limit", "0.1")
    assert "conv[/head]" in told("profile", made, "--repeats", "1", "--seconds", "0.1")
    assert "y[torch]" in told("verify", made, place.name)
    assert "no[/file]" in told("inspect", "no[/file]", status=2)
    assert "--no[/option]" in told("inspect", "--no[/option]", status=2)


def test_a_target_is_described_as_its_file_says(edgec: Edgec, tmp_path: Path) -> None:
    own = tmp_path / ".config" / "edgec" / "targets"
    own.mkdir(parents=True)
    text = (Path(__file__).parents[2] / "targets" / "rpi5.toml").read_text(encoding="utf-8")
    lines = [
        f'description = "{HOSTILE}"' if line.startswith("description") else line for line in text.splitlines()
    ]
    (own / "mine.toml").write_text("\n".join(lines), encoding="utf-8")
    for command in (("show", own / "mine.toml"), ("list",)):
        done = edgec("targets", *command, environment={"HOME": str(tmp_path), "COLUMNS": "400"})
        assert done.returncode == 0, done.stderr
        assert HOSTILE in done.stdout


def test_the_agents_answers_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_finding(Finding(what=HOSTILE, verdict="bad", text=HOSTILE, remedy=HOSTILE))
    stream = {"name": "[/s]", "state": "[bold]", "fps": 1.0, "captured": 1, "processed": 1, "dropped": 0}
    model = {"slot": "[/]", "state": "[red]", "name": "[m]", "version": "[/v]", "inferences": 1, "errors": 0}
    print_status(
        {
            "connected": True, "device": "[/d]", "fleet": "[bold]f", "uptime_s": 1.0, "degraded": [HOSTILE],
            "streams": [stream | {"in_flight": 0, "restarts": 0, "events": 0}],
            "models": [model | {"message": "[/x]"}],
            "outbox": {"depth": 0, "bytes": 0, "dropped": 0},
        }
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert shown.count(HOSTILE) == 4
    for name in ("[/d] in [bold]f", "[/s]", "[red]", "[m]", "[/v]", "[/x]"):
        assert name in shown


class _Answers:
    """Stands in for the client: whatever is asked, the same row, in which every text is hostile."""

    server = "http://here"
    row: ClassVar[dict[str, Any]] = {
        "id": 1, "name": "[/n]", "device": "[/d]", "state": "[/s]", "target": "[torch]", "model": "[/m]",
        "version": "[bold]1", "reason": "[/why]", "admission": "accepted", "drift": False, "fps": None,
        "latency_ms": None, "last_seen": None, "agent_version": None, "jobs": [], "progress": 0.5, "mode": "shadow",
        "frames": 0, "created_at": None, "criteria": {}, "stage": 0, "previous_version": "[/p]", "detail": "[/t]",
        "health": {"streams": [{"name": "[/st]", "state": "[/x]", "fps": 1.0, "dropped": 0}]}, "verdict": "undecided",
        "scope": {"kind": "group", "name": "[/g]"}, "predictions": [], "stream": "[/st]", "at": None,
    }  # fmt: skip

    def __init__(self, *_arguments: object, **_options: object) -> None: ...

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def get(self, path: str, **_params: object) -> dict[str, Any]:
        if path.endswith("/jobs"):
            job = {"job_id": "[/j]", "purpose": "[p]", "state": "[/s]", "details": {"message": "[/why]"}}
            return {"items": [job]}
        row = self.row | {"devices": {}}
        return row | {"items": [row], "total": 1}

    def pages(self, _path: str, **_params: object) -> list[dict[str, Any]]:
        return [self.row]


@pytest.mark.parametrize(
    ("app", "arguments", "names"),
    [
        (devices.app, ["list"], ["[/n]", "[/s]", "[torch]", "[/m]:[bold]1"]),
        (
            devices.app,
            ["show", "x"],
            ["[/n]: [/s]", "target [torch]", "stream [/st]: [/x]", "[/j]", "[/why]"],
        ),
        (experiments.app, ["list"], ["[/n]", "[/g]"]),
        (experiments.app, ["show", "1"], ["of [/n] is [/s]: [/why]"]),
        (rollouts.app, ["list"], ["[/m]:[bold]1", "group [/g]", "[/why]"]),
        (rollouts.app, ["show", "1"], ["of [/m]:[bold]1 is [/s]", "[/why]", "[/d]", "[/p]", "[/t]"]),
    ],
)
def test_the_fleets_names_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, app: typer.Typer, arguments: list[str], names: list[str]
) -> None:
    monkeypatch.setattr(connection, "FleetClient", _Answers)
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    for name in names:
        assert name in done.output
