"""`edgec fleet keys`; keys on tokens and attacks are in `tests/fleet/trust`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Edgec
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import FleetServer


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A server of its own: with trust set up, nothing unsigned is rolled out."""
    running = FleetServer(tmp_path_factory.mktemp("signing") / "data").start()
    yield running
    assert running.stop() == 0, running.log.read_text()


def test_versions_are_signed_and_withdrawn(edgec: Edgec, signing: FleetServer, tmp_path: Path) -> None:
    access = {"EDGEC_SERVER": signing.url, "EDGEC_TOKEN": signing.token}

    def run(*arguments: object, status: int = 0) -> str:
        done = edgec(*arguments, cwd=tmp_path, environment=access)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    assert "trust is not set up: edgec fleet keys init" in run("fleet", "keys", "show")
    make_artifact(tmp_path / "a.edge", "signed")
    run("push", "a.edge")
    assert "keep copies of the root keys offline" in run("fleet", "keys", "init", "--keys", "keys")
    signing.enroll("signed-1")
    assert "edgec fleet keys sign signed:1" in run("deploy", "signed:1", "--to", "signed-1", status=4)
    assert "signed models/signed/1/x86-64-v3 sha256:" in run(
        "fleet", "keys", "sign", "signed:1", "--keys", "keys"
    )
    shown = json.loads(run("fleet", "keys", "show", "--json"))
    assert set(shown["roles"]) == {"root", "targets", "snapshot", "timestamp"}
    assert len(shown["signed"]) == 1
    before = shown["roles"]["targets"]["keys"]
    run("fleet", "keys", "rotate", "targets", "--keys", "keys")
    assert json.loads(run("fleet", "keys", "show", "--json"))["roles"]["targets"]["keys"] != before
    assert "root is valid for 400 days" in run(
        "fleet", "keys", "extend", "root", "--days", "400", "--keys", "keys"
    )
    assert "is no longer signed" in run("fleet", "keys", "revoke", "signed:1", "--keys", "keys")
    assert not json.loads(run("fleet", "keys", "show", "--json"))["signed"]
    assert "neither root nor targets" in run(
        "fleet", "keys", "rotate", "snapshot", "--keys", "keys", status=2
    )
