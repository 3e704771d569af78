"""A fleet from an empty machine, by the commands of docs/fleet-setup.md, with the real programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgec.benchmarks.fleet.backends import BackendMissing, Postgres, free_port, program
from edgec.fleet.settings import Settings, read_settings_file
from tests import preloaded
from tests.conftest import REPOSITORY
from tests.device_agent.harness import CARD
from tests.device_agent.harness import make_artifact as make_model
from tests.fleet.servers import FleetServer, ObjectStore, wait_for

PAGE = REPOSITORY / "docs" / "fleet-setup.md"
CONFIG = """
[agent]
state = "state"
health_interval_s = 0.5
[models.detector]
artifact = "detector-1.edge"
[streams.door]
source = "test:160x120@10"
model = "detector"
"""


def documented() -> list[str]:
    """The commands from an empty machine to a device, in their order."""
    section = PAGE.read_text().partition("## From an empty machine")[2].partition("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```$", section, re.M | re.S)[0].splitlines()


class Machine:
    """What the documented commands run on: `edgec` of this environment, other ports, other folders."""

    def __init__(self, folder: Path, postgres: Postgres, objects: ObjectStore) -> None:
        self.folder = folder
        self.ports = [free_port() for _ in range(5)]
        keys = objects.settings("stack")
        self.environment = os.environ | {
            "HOME": str(folder / "home"), "NO_COLOR": "1", "COLUMNS": "400",
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            **{name: value for name, value in keys.items() if name.startswith("AWS_")},
        }  # fmt: skip
        self.more = [
            f"--database={postgres.url('setup')}", f"--s3-endpoint={objects.url}", f"--units={folder / 'units'}",
            f"--port={self.ports[0]}", f"--port={self.ports[1]}", f"--mqtt-port={self.ports[2]}",
            f"--user-port={self.ports[3]}", f"--server-port={self.ports[4]}",
            *(["--user=root"] if os.getuid() == 0 else []),
        ]  # fmt: skip
        (folder / "bin").mkdir()
        edgec = folder / "bin" / "edgec"
        edgec.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgec.cli.main "$@"\n')
        edgec.chmod(0o755)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, command: str) -> str:
        """A documented command with this machine's names."""
        for there, mine in (
            ("/var/lib/edgec-agent", str(self.folder / "device" / "state")),
            ("/var/lib/edgec", str(self.folder / "fleet")),
            ("fleet.example.org", "localhost"),
            ("s3://edgec/fleet", f"s3://{ObjectStore.BUCKET}/stack"),
            ("8600", str(self.ports[0])),
            ("8601", str(self.ports[1])),
            ("--ca ca.pem", f"--ca {self.folder / 'device' / 'ca.pem'}"),
        ):
            command = command.replace(there, mine)
        return command

    def run(self, command: str, *, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["sh", "-ec", command], env=self.environment, capture_output=True, text=True, cwd=self.folder,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not ok or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def start(self, unit: str) -> None:
        """What `systemctl start` does: run the unit's command, without systemd's confinement."""
        name, at, instance = unit.partition("@")
        text = (self.folder / "units" / f"{name}{at}.service").read_text()
        [command] = re.findall(r"^ExecStart=(.*)$", text, re.M)
        with (self.folder / f"{unit}.log").open("ab") as log:
            self.running[unit] = subprocess.Popen(
                shlex.split(command.replace("%i", instance)), stdout=log, stderr=log,
                env={"PATH": self.environment["PATH"], "HOME": "/"}, cwd="/", umask=0o077,
            )  # fmt: skip

    def stop(self, unit: str, number: int = signal.SIGTERM) -> int:
        self.running[unit].send_signal(number)
        return self.running.pop(unit).wait(90)

    def ready(self, port: int) -> bool:
        try:
            context = ssl.create_default_context(cafile=self.folder / "fleet/data/ca/ca.pem")
            answer = httpx.get(f"https://localhost:{port}/readyz", verify=context)
        except (httpx.HTTPError, OSError):
            return False
        return answer.status_code == 200


@pytest.fixture
def machine(tmp_path: Path, postgres: Postgres, objects: ObjectStore) -> Iterator[Machine]:
    try:
        program("mosquitto", "mosquitto")
    except BackendMissing as error:
        pytest.skip(str(error))
    made = Machine(tmp_path, postgres, objects)
    yield made
    for unit in list(made.running):
        made.stop(unit)


def test_the_documented_commands_set_up_the_whole_stack(machine: Machine, objects: ObjectStore) -> None:
    commands = documented()
    assert len(commands) <= 6
    packages, environment, setup, start, login, enroll = commands
    assert all(name in packages for name in ("apt-get install", "mosquitto", "postgresql"))
    assert "pip install 'edgec[fleet,s3]'" in environment
    machine.run(" ".join([machine.here(setup), *machine.more]))
    units = machine.here(start).removeprefix("systemctl enable --now ").split()
    assert len(units) == 3
    for unit in reversed(units):  # The servers before the broker: neither waits for the other's files.
        machine.start(unit)
    for port in machine.ports[:2]:
        wait_for(lambda port=port: machine.ready(port), 120, f"a server on {port}")
    machine.run(machine.here(login))
    folder = machine.folder / "device"
    folder.mkdir()
    (folder / "ca.pem").write_bytes((machine.folder / "fleet" / "data" / "ca" / "ca.pem").read_bytes())
    machine.run(machine.here(enroll))

    private_to_its_user(machine.folder / "fleet")
    assert "enrolled as" in machine.run(f"cat {machine.folder}/fleet/fleet.env && echo enrolled as").stdout
    make_model(folder, "1")
    (folder / "agent.toml").write_text(CONFIG)
    findings = json.loads(machine.run(f"edgec agent doctor -c {folder}/agent.toml --json", ok=False).stdout)
    told = [one for one in findings if one["verdict"] != "good" and one["what"] != "agent"]
    assert not told, "a folder that enrol made is as the doctor wants it"
    runs_as_documented(machine, folder, objects, units)


def private_to_its_user(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o007 == 0 or path.name == "ca.pem", (path, oct(mode))
    assert stat.S_IMODE((folder / "fleet.env").stat().st_mode) == 0o600


def runs_as_documented(machine: Machine, folder: Path, objects: ObjectStore, units: list[str]) -> None:
    environment = machine.environment | {"PYTHONPATH": str(REPOSITORY / "tests" / "device_agent" / "fakes")}
    with (folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            ["edgec", "agent", "run", "-c", "agent.toml"], env=environment, cwd=folder, stdout=log, stderr=log
        )
    try:

        def devices() -> list[dict[str, Any]]:
            return list(json.loads(machine.run("edgec devices --json").stdout))

        wait_for(
            lambda: devices()[0]["state"] == "online", 120, "the device online over TLS with its certificate"
        )
        machine.run(f"edgec push {folder}/detector-1.edge")
        assert objects.keys("stack"), "artifacts are in the bucket"
        # One server goes; commands that name the other work with the authority that login kept.
        first = next(unit for unit in units if str(machine.ports[0]) in unit)
        assert machine.stop(first) == 0
        other = f"https://localhost:{machine.ports[1]}"
        ca = machine.folder / "fleet" / "data" / "ca" / "ca.pem"
        token = (machine.folder / "fleet" / "data" / "admin-token").read_text().strip()
        unknown = machine.run(f"edgec devices --server {other} --token {token}", ok=False)
        assert (unknown.returncode, "--ca" in unknown.stderr) == (3, True)
        listed = machine.run(f"edgec devices --json --server {other} --token {token} --ca {ca}").stdout
        assert json.loads(listed)[0]["state"] == "online"
        home_assistant_connects(machine, other, token, ca)
        machine.start(first)
        wait_for(lambda: machine.ready(machine.ports[0]), 120, "the first server again")
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0


def home_assistant_connects(machine: Machine, server: str, token: str, ca: Path) -> None:
    """Over TLS with a password, at the broker's port for users."""
    made = json.loads(
        machine.run(
            f"edgec fleet mqtt-user create home --home-assistant --json --server {server} --token {token} --ca {ca}"
        ).stdout
    )
    answers: list[bool] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="home", protocol=mqtt.MQTTv311)
    client.tls_set(str(ca))
    client.username_pw_set("home", made["password"])
    client.on_connect = lambda _c, _u, _f, reason, _p: answers.append(not reason.is_failure)
    client.connect("localhost", machine.ports[3])
    client.loop_start()
    wait_for(lambda: answers, 60, "the broker's answer")
    assert answers[0] is True
    client.disconnect()
    client.loop_stop()


def test_login_keeps_an_authority_whose_fingerprint_is_confirmed(tmp_path: Path) -> None:
    server = FleetServer(tmp_path / "data", "--tls").start()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "NO_COLOR": "1", "COLUMNS": "400"}

    def edgec(*arguments: str) -> subprocess.CompletedProcess[str]:
        return preloaded.run(*arguments, env=environment)

    login = ("fleet", "login", server.url, "--token", server.token)
    unknown = edgec(*login)
    assert (unknown.returncode, "its certificate is not to be trusted" in unknown.stderr) == (3, True)
    wrong = edgec(*login, "--fingerprint", "SHA256:" + ":".join(["00"] * 32))
    assert (wrong.returncode, "has another authority" in wrong.stderr) == (1, True)
    done = edgec(*login, "--fingerprint", server.info["authority"])
    assert done.returncode == 0, done.stderr
    assert edgec("devices", "--json").stdout.strip() == "[]"
    assert server.stop() == 0


@pytest.mark.parametrize("kind", ["embedded", "external"])
def test_a_backup_restores_the_fleet(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from edgec.fleet.client.push import push_artifact

    environment = {}
    if kind == "external":
        postgres: Postgres = request.getfixturevalue("postgres")
        environment["EDGEC_FLEET_DATABASE"] = postgres.create("saved")
    server = FleetServer(tmp_path / "data", "--tls", **environment).start()
    os.environ["SSL_CERT_FILE"] = str(tmp_path / "data" / "ca" / "ca.pem")
    try:
        with server.client() as client:
            token = client.post("/enroll-tokens", {})["token"]
            client.post("/enroll", {"token": token, "device": "kept", "target": "x86-64-v3"})
            make_model(tmp_path, "1", card=CARD)
            pushed = push_artifact(client, tmp_path / "detector-1.edge", None, None, lambda *_: None)
            head = client.get("/audit/verify")["head"]
        saved = tmp_path / "fleet.tar"
        variables = os.environ | environment
        backup = preloaded.run("fleet", "backup", saved, "--data", server.data, env=variables)
        assert backup.returncode == 0, backup.stderr
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        secret = server.token
        ports = {"port": server.info["port"], "mqtt_port": server.info["mqtt_port"]}
        assert server.stop() == 0
        again = ["fleet", "restore", saved, "--data", server.data]
        refused = preloaded.run(*again, env=variables)
        assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
        server.data.rename(tmp_path / "burnt")
        if kind == "external":
            environment["EDGEC_FLEET_DATABASE"] = postgres.create("restored")
            server.environment |= environment
        done = preloaded.run(*again, env=os.environ | environment)
        assert done.returncode == 0, done.stderr
        server.start(**ports)
        with server.client(secret) as client:
            assert [one["name"] for one in client.pages("/devices")] == ["kept"]
            assert client.get("/audit/verify", since=head)["intact"]
            blob = client.http.get(f"/v2/models/detector/manifests/{pushed.digest}")
            assert blob.status_code == 200
        assert server.stop() == 0
    finally:
        os.environ.pop("SSL_CERT_FILE")


@pytest.mark.skipif(os.getuid() != 0, reason="hardware: only root may choose the system user")
def test_a_user_who_could_not_run_the_server_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgec.fleet import installation
    from edgec.fleet.errors import FleetError

    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    python = home / "python"
    python.write_text("")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(FleetError, match="cannot run"):
        installation._check_program("edgec")


def test_a_misspelt_setting_is_refused_with_the_nearest(tmp_path: Path) -> None:
    command = ["fleet", "serve", "--data", tmp_path]
    said = preloaded.run(*command, env=os.environ | {"EDGEC_FLEET_MQTT_PUBLIC_TSL": "1"})
    assert (said.returncode, "did you mean EDGEC_FLEET_MQTT_PUBLIC_TLS?" in said.stderr) == (1, True), (
        said.stderr
    )
    path = tmp_path / "fleet.env"
    path.write_text("# a comment\nEDGEC_FLEET_TICK_S = '2'\n")
    path.chmod(0o644)
    said = preloaded.run(*command, "--settings", path)
    assert "chmod 600" in said.stderr
    path.chmod(0o600)
    assert read_settings_file(path) == {"EDGEC_FLEET_TICK_S": "2"}


def test_every_setting_is_documented() -> None:
    from scripts.settings_table import BLOCK, table

    assert BLOCK.search(PAGE.read_text())[0] == table(), "run: python scripts/settings_table.py"
    assert all(field.description for field in Settings.model_fields.values())
