"""The parsers of arguments, and paths that commands write to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgec.cli import captures, compile, debug, devices, profile, run
from edgec.cli.arguments import (
    parse_buckets,
    parse_duration,
    parse_labels,
    parse_model_version,
    parse_scope,
    parse_shapes,
)
from edgec.cli.captures import annotation
from edgec.cli.deploy import parse_stages
from edgec.cli.fleet import server
from edgec.targets import UsageError


def test_shapes() -> None:
    assert parse_shapes(["a:0:1x3x4", "b:7"]) == {"a:0": (1, 3, 4), "b": (7,)}
    for wrong in ("a", "a:", ":1x2", "a:1x", "a:-1x2", "a:1x9999999999999"):
        with pytest.raises(UsageError):
            parse_shapes([wrong])
    with pytest.raises(UsageError, match="twice"):
        parse_shapes(["a:1", "a:2"])


def test_several_shapes_of_an_input_make_sets() -> None:
    assert parse_buckets([]) == [{}]
    assert parse_buckets(["x:1x3", "y:2"]) == [{"x": (1, 3), "y": (2,)}]
    assert parse_buckets(["x:1", "x:2", "y:7"]) == [{"x": (1,), "y": (7,)}, {"x": (2,), "y": (7,)}]
    assert parse_buckets(["x:1", "x:2", "y:7", "y:8"]) == [{"x": (1,), "y": (7,)}, {"x": (2,), "y": (8,)}]
    with pytest.raises(UsageError, match="2 for 'x', 3 for 'y'"):
        parse_buckets(["x:1", "x:2", "y:1", "y:2", "y:3"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("0", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "1h30m", "-5m", "nan", "inf", "1e999"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{text!r} is not a duration: write 90s, 15m, 2h or 1d")):
        parse_duration(text)


def test_models_with_versions() -> None:
    assert parse_model_version("detector:2") == ("detector", "2")
    assert parse_model_version("detector:2:b") == ("detector", "2:b")
    for wrong in ("detector", "detector:", ":2", ""):
        with pytest.raises(UsageError, match="write MODEL:VERSION"):
            parse_model_version(wrong)


def test_labels() -> None:
    assert parse_labels(["line=4", "note=a=b", "empty="]) == {"line": "4", "note": "a=b", "empty": ""}
    for wrong in ("line", "=4"):
        with pytest.raises(UsageError, match="write NAME=VALUE"):
            parse_labels([wrong])


def test_scopes() -> None:
    assert parse_scope("cam", None, False) == {"kind": "device", "name": "cam"}
    assert parse_scope(None, "line", False) == {"kind": "group", "name": "line"}
    assert parse_scope(None, "", True) == {"kind": "all", "name": ""}
    for several in (("cam", "line", False), ("cam", None, True), (None, None, False), ("", "", False)):
        with pytest.raises(UsageError, match="exactly one of --to DEVICE, --group NAME and --all"):
            parse_scope(*several)


def test_stages() -> None:
    assert parse_stages("5:10m,25!,100") == [
        {"percent": 5.0, "soak_s": 600.0, "approval": False},
        {"percent": 25.0, "soak_s": 0.0, "approval": True},
        {"percent": 100.0, "soak_s": 0.0, "approval": False},
    ]
    with pytest.raises(UsageError, match="'x' is not a stage"):
        parse_stages("5,x,100")
    with pytest.raises(UsageError, match="the last stage must be 100"):
        parse_stages("5,25")


def test_annotations() -> None:
    assert annotation("cat") == {"label": "cat"}
    assert annotation("cat=1,2,30,40.5") == {"label": "cat", "box": [1.0, 2.0, 30.0, 40.5]}
    for wrong in ("cat=1,2,3", "cat=1,2,3,4,5", "cat=a,b,c,d"):
        with pytest.raises(UsageError, match="a box is four numbers"):
            annotation(wrong)


@pytest.mark.parametrize(
    "command",
    [
        lambda pipe: compile.command(Path(__file__), output=pipe),
        lambda pipe: run.command(pipe, pipe, output=pipe),
        lambda pipe: profile.command(pipe, plot=pipe),
        lambda pipe: debug.reduce_command(Path(__file__), output=pipe),
        lambda pipe: debug.reduce_command(Path(__file__), output=pipe.with_suffix(".onnx")),
        lambda pipe: devices.detections(pipe),
        lambda pipe: captures.export(pipe),
        lambda pipe: server.serve(ready_file=pipe),
    ],
)
def test_a_pipe_is_no_place_for_a_file(tmp_path: Path, command: Callable[[Path], None]) -> None:
    pipe = tmp_path / "out.npz"  # in place of a device, which root would lose
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match=r"out\.npz: is a device, pipe or socket"):
        command(pipe)
    assert [pipe] == list(tmp_path.iterdir())
    assert pipe.is_fifo()
