"""The examples for several machines name settings that exist, and say what they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import yaml

from edgec.fleet.settings import PREFIX, Settings
from tests.conftest import REPOSITORY
from tests.fleet.servers import FleetServer

FOLDER = REPOSITORY / "deploy"


def test_every_setting_of_the_examples_exists() -> None:
    for path in FOLDER.glob("*.yaml"):
        names = set(re.findall(rf"\b{PREFIX}([A-Z_]+)", path.read_text()))
        assert names, path
        assert names <= {name.upper() for name in Settings.model_fields}, path


def test_every_command_of_the_examples_exists() -> None:
    found = re.findall(
        r'command: \["edgec", ([^\]]*)\]', "".join(p.read_text() for p in FOLDER.glob("*.yaml"))
    )
    commands = {tuple(re.findall(r'"([^"]+)"', text)) for text in found}
    assert {command[:2] for command in commands} == {("fleet", "serve"), ("fleet", "mosquitto")}
    for command in commands:
        shown = subprocess.run(
            [sys.executable, "-m", "edgec.cli.main", *command[:2], "--help"],
            check=True, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        ).stdout  # fmt: skip
        for flag in command:
            assert not flag.startswith("--") or re.search(rf"{flag}\b", shown), (flag, command)


def test_the_compose_file_waits_for_what_is_healthy() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert set(services) == {"database", "broker-files", "broker", "fleet"}
    for name, condition in services["fleet"]["depends_on"].items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in services[name]
    assert "/readyz" in str(services["fleet"]["healthcheck"])


def test_the_kubernetes_example_probes_and_scales_on_what_waits(tmp_path: Path) -> None:
    documents = {item["kind"]: item for item in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]
    assert pod["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert pod["livenessProbe"]["httpGet"]["path"] == "/healthz"
    [metric] = documents["HorizontalPodAutoscaler"]["spec"]["metrics"]
    server = FleetServer(tmp_path / "data").start()
    assert f"\n{metric['pods']['metric']['name']} 0.0\n" in httpx.get(f"{server.url}/metrics").text
    assert server.stop() == 0
    labels = documents["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = documents[kind]["spec"]["selector"]
        assert (selector.get("matchLabels") or selector).items() <= labels.items()
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in
              documents["StatefulSet"]["spec"]["template"]["spec"]["volumes"]]  # fmt: skip
    assert claims == [documents["PersistentVolumeClaim"]["metadata"]["name"]]


def test_the_command_writes_a_configuration_for_mosquitto(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgec.cli.main", "fleet", "mosquitto", str(tmp_path)]
    subprocess.run(
        [*command, "--mqtt", "mqtt://edgec-fleet:secret@broker:1884"], check=True, capture_output=True
    )
    assert (tmp_path / "passwords").read_text().startswith("edgec-fleet:$7$101$")
    assert "pattern write edgec/v1/default/%u/status" in (tmp_path / "access").read_text()
    assert "use_username_as_clientid true" in (tmp_path / "mosquitto.conf").read_text()
    bad = subprocess.run([*command, "--mqtt", "mqtt://broker:1884"], capture_output=True, text=True)
    assert (bad.returncode, "needs a user and a password" in bad.stderr) == (1, True)


def test_the_image_and_the_units_are_there(tmp_path: Path) -> None:
    """The examples start an image that a recipe here builds, and the recipe's commands and paths exist."""
    recipe = (FOLDER / "Dockerfile").read_text()
    images = set(re.findall(r"image: (?:\$\{EDGEC_IMAGE:-)?(edgec-[a-z-]+)", "".join(
        path.read_text() for path in FOLDER.glob("*.yaml"))))  # fmt: skip
    assert images == {"edgec-fleet"}
    assert "-t edgec-fleet ." in recipe
    assert 'CMD ["edgec", "fleet", "serve"]' in recipe
    extras = re.search(r"\.\[([a-z0-9,]+)\]", recipe)
    assert extras is not None
    assert extras[1] == "fleet,s3"
    names = set(re.findall(rf"{PREFIX}([A-Z_]+)=", recipe + (FOLDER / "edgec-fleet.service").read_text()))
    assert names <= {name.upper() for name in Settings.model_fields}
    if shutil.which("systemd-analyze") is None:
        return
    unit = tmp_path / "edgec-fleet.service"
    unit.write_text((FOLDER / "edgec-fleet.service").read_text().replace("User=edgec", "User=root"))
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert "edgec-fleet.service" not in checked.stderr, checked.stderr
