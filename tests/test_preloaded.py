"""Processes that tests fork are what an interpreter of their own would be."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests import preloaded
from tests.fleet.servers import FleetServer


def test_a_forked_command_is_as_one_that_is_started(tmp_path: Path) -> None:
    """Folder, environment, streams and status."""
    (tmp_path / "here.edge").write_bytes(b"none")
    for words in (
        ["inspect", "here.edge"],
        ["inspect", "absent.edge"],
        ["targets", "list", "--json"],
        ["--version"],
    ):
        forked = preloaded.run(*words, cwd=tmp_path)
        command = [sys.executable, "-m", "edgec.cli.main", *words]
        started = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (forked.returncode, forked.stdout, forked.stderr) == (
            started.returncode, started.stdout, started.stderr
        )  # fmt: skip


def test_a_signal_that_ends_a_forked_server_is_its_status(tmp_path: Path) -> None:
    server = FleetServer(tmp_path / "data").start()
    assert isinstance(server.process, preloaded.Process)
    assert server.process.poll() is None
    server.process.kill()
    assert server.process.wait(60) == -signal.SIGKILL
    server.process.kill()  # nobody, and no other
