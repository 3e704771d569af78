"""The demo as a user runs it: in a process of its own, to its end and interrupted on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

DEMO = [sys.executable, "-m", "edgec.cli.main", "demo"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home, which both demos share, so that the second finds the first one's tuning cache."""
    return tmp_path_factory.mktemp("home")


def environment(home: Path, temporary: Path) -> dict[str, str]:
    temporary.mkdir(exist_ok=True)
    return os.environ | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "TMPDIR": str(temporary),
        "COLUMNS": "200",
    }


def left_behind(temporary: Path) -> list[str]:
    """Processes that still work in the demo's folder, and what is left of the folder."""
    names = [str(path) for path in temporary.glob("edgec-*")]
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if str(temporary) in command:
            names.append(command)
    return names


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tmp"
    yield folder
    assert left_behind(folder) == []


@pytest.mark.timeout(600)
def test_the_demo_ends_well_and_leaves_nothing(home: Path, temporary: Path) -> None:
    result = subprocess.run(
        [*DEMO, "--json", "--seconds", "4"],
        env=environment(home, temporary),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["version"] == "2"
    assert summary["frames"] > 50
    assert summary["captured"] >= summary["frames"] + summary["dropped"]
    assert set(summary["detections_by_version"]) == {"1", "2"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "moment",
    [
        "Compile a detector",
        pytest.param("Start a fleet server", marks=pytest.mark.long),
        pytest.param("Enroll a device", marks=pytest.mark.long),
        "detector:1",
    ],
    ids=str.lower,
)
def test_ctrl_c_leaves_no_process_and_no_file(home: Path, temporary: Path, moment: str) -> None:
    process = subprocess.Popen(
        [*DEMO, "--json", "--seconds", "60"],
        env=environment(home, temporary),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if moment in line:
            break
    else:
        pytest.fail(f"the demo ended before it said {moment!r}: {said}")
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130, said + rest
    assert "Traceback" not in rest


def test_a_missing_camera_is_named(home: Path, temporary: Path) -> None:
    result = subprocess.run(
        [*DEMO, "--camera", "no-such-file.mp4"],
        env=environment(home, temporary),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "no-such-file.mp4" in result.stderr
    assert "Traceback" not in result.stderr
