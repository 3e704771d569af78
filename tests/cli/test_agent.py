"""`edgec agent`, without an agent: running ones are in `tests/device_agent`."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Edgec


def test_the_example_configuration_is_valid_and_not_overwritten(edgec: Edgec, tmp_path: Path) -> None:
    assert edgec("agent", "init", "mine.toml", cwd=tmp_path).returncode == 0
    content = (tmp_path / "mine.toml").read_text()
    assert tomllib.loads(content)
    again = edgec("agent", "init", "mine.toml", cwd=tmp_path)
    assert again.returncode == 2
    assert "mine.toml already exists" in again.stderr
    assert (tmp_path / "mine.toml").read_text() == content


def test_a_checked_configuration_has_its_defaults(edgec: Edgec, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        '[agent]\nstate = "state"\n[models.m]\n[streams.door]\nsource = "video.avi"\nmodel = "m"\n'
    )
    done = edgec("agent", "check", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["streams"]["door"]["model"] == "m"
    assert shown["updates"]["probation_s"] > 0
    (tmp_path / "agent.toml").write_text('[agent]\nstate = "state"\nspeed = 3\n')
    wrong = edgec("agent", "check", cwd=tmp_path)
    assert wrong.returncode != 0
    assert "speed" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --token or --claim"),
        (("--token", "t", "--claim", "folder"), "give either --token or --claim"),
        (("--token", "t", "--label", "line"), "NAME=VALUE"),
        (("--token", "t"), "127.0.0.1:1"),
    ],
)
def test_enrolment_explains_what_is_wrong(
    edgec: Edgec, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = edgec(
        "agent", "enroll", "--server", "http://127.0.0.1:1", "--state", "state", *arguments, cwd=tmp_path
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_status_of_an_agent_that_does_not_run(edgec: Edgec, tmp_path: Path) -> None:
    done = edgec("agent", "status", "--state", "state", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_doctor_fails_when_something_is_missing(edgec: Edgec, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        '[agent]\nstate = "state"\n[models.m]\nartifact = "none.edge"\n'
        '[streams.door]\nsource = "none.avi"\nmodel = "m"\n'
    )
    done = edgec("agent", "doctor", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    bad = [finding for finding in json.loads(done.stdout) if finding["verdict"] == "bad"]
    assert any("none.avi" in json.dumps(finding) for finding in bad)


def test_a_health_check_imports_neither_numpy_nor_the_doctor(tmp_path: Path) -> None:
    """Devices make one every half minute."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        with contextlib.chdir(tmp_path):  # a socket's address is short
            server.bind("agent.sock")
        server.listen(1)
        command = [sys.executable, "-X", "importtime", "-m", "edgec.cli.main", "agent", "status", "--json"]
        asked = subprocess.Popen(
            [*command, "--state", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        peer, _ = server.accept()
        with peer:
            peer.sendall(b'{"device": "door"}')
        printed, imported = asked.communicate()
    assert json.loads(printed) == {"device": "door"}
    names = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "edgec.device_agent.health.status_socket" in names
    assert not names & {"numpy", "edgec.device_agent.health.doctor"}
