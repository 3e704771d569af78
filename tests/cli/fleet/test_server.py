"""`edgec fleet login` and `gc`; `serve` is in `tests/fleet/test_server.py`, `mosquitto` in `tests/deploy`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Edgec, Operator
from tests.fleet.servers import FleetServer


def test_a_login_serves_later_commands(edgec: Edgec, fleet: FleetServer, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    wrong = edgec("fleet", "login", fleet.url, "--token", "wrong", environment=home)
    assert wrong.returncode == 4
    assert not list(tmp_path.rglob("fleet.toml"))
    done = edgec("fleet", "login", fleet.url, "--token", fleet.token, environment=home)
    assert f"signed in at {fleet.url} as admin" in done.stdout
    [stored] = tmp_path.rglob("fleet.toml")
    assert stored.stat().st_mode & 0o077 == 0
    assert edgec("devices", "--json", environment=home).returncode == 0


def test_blobs_that_nothing_needs_are_deleted(operator: Operator) -> None:
    assert operator("fleet", "gc").startswith("removed 0 blobs")
    assert "is not a duration" in operator("fleet", "gc", "--grace", "long", status=2)


def test_a_server_that_is_away_is_named(edgec: Edgec) -> None:
    done = edgec("devices", "--server", "http://127.0.0.1:1", "--token", "x")
    assert done.returncode == 3
    assert "no fleet server answers at http://127.0.0.1:1" in done.stderr
