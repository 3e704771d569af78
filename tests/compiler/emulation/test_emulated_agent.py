"""A device that is a Raspberry Pi to the last instruction: the agent in the emulator, a file as its camera, a fleet
server on the host, and an update.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import pytest

from edgec.compiler.emulation.emulator import lacking
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.fleet.client.connection import FleetClient
from edgec.fleet.client.push import push_artifact
from edgec.models import build
from edgec.models.demo_video import DemoScene
from edgec.runtime import load_card
from edgec.targets import load_target

TARGET = load_target("rpi5")
EDGEC = [sys.executable, "-m", "edgec.cli.main"]
EMULATED = [*EDGEC, "targets", "emulator", "run", TARGET.name]
DEVICE = "emulated-pi"


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(found: Callable[[], Any], what: str, log: Path, timeout_s: float = 1200.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what} did not come:\n{log.read_text()[-3000:]}"
        time.sleep(0.5)
    return result


def slow_clip(path: Path) -> None:
    """A scene at a tenth of its speed, so that what the emulator sees of it is still tracked from frame to frame."""
    scene, fourcc = DemoScene(), cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), fourcc, 2.5, (scene.width, scene.height))
    for index in range(250):
        writer.write(scene.frame(index)[0])
    writer.release()


@pytest.mark.long
@pytest.mark.emulator
@pytest.mark.timeout(3600)  # seven minutes on two cores of which others have most
def test_the_agent_runs_and_updates_itself_in_the_emulator(tmp_path: Path) -> None:
    if told := lacking(TARGET):
        pytest.skip(told)
    log = tmp_path / "agent.log"
    with ExitStack() as stack:
        serve = ["fleet", "serve", "--host", "127.0.0.1", "--port", "0", "--mqtt-port", "0", "--json"]
        server = stack.enter_context(
            running([*EDGEC, *serve, "--data", str(tmp_path / "fleet")], tmp_path / "server.log")
        )
        assert server.stdout is not None
        info = json.loads(server.stdout.readline())
        client = stack.enter_context(
            FleetClient(info["url"], Path(info["admin_token_file"]).read_text().strip())
        )
        for version, name in (("1", "shapes-v1"), ("2", "shapes-v2")):
            model = build(name, tmp_path / version)
            artifact = tmp_path / f"detector-{version}.edge"
            card = load_card(model.with_name("model.toml"))
            options = CompileOptions(tune="none", threads=1)
            compiled = compile_model(
                model, TARGET, options, card=card, output=artifact, name="detector", version=version
            )
            assert "qemu" in compiled.evidence["where"]
            push_artifact(client, artifact, None, None, lambda *_: None)
        slow_clip(tmp_path / "street.avi")
        state, config = tmp_path / "state", tmp_path / "agent.toml"
        token = client.post("/enroll-tokens", {"uses": 1, "valid_s": 600.0})["token"]
        enroll = ["agent", "enroll", "--server", info["url"], "--token", token, "--device", DEVICE]
        done = subprocess.run(
            [*EMULATED, *enroll, "--state", str(state)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        config.write_text(
            f'[agent]\nstate = "{state}"\ndevice = "{DEVICE}"\nhealth_interval_s = 2.0\nlog = "json"\n'
            "[models.detector]\ntimeout_s = 60\n"
            f'[streams.gate]\nsource = "{tmp_path / "street.avi"}"\nmodel = "detector"\n'
            "stall_s = 300.0\n"  # on a busy machine the first picture alone takes half a minute
            "[updates]\nprobation_s = 3.0\ntrial_timeout_s = 1200\n"
        )
        agent = stack.enter_context(running([*EMULATED, "agent", "run", "--config", str(config)], log))

        def device() -> dict[str, Any]:
            assert agent.poll() is None, log.read_text()[-3000:]
            found: dict[str, Any] = client.get(f"/devices/{DEVICE}")
            return found

        until(lambda: device()["state"] == "online", "the device", log)
        assert device()["target"] == TARGET.name
        for version in ("1", "2"):
            scope = {"kind": "device", "name": DEVICE}
            plan = {"job_timeout_s": 3000.0}
            order = {"model": "detector", "version": version, "scope": scope, "plan": plan}
            rollout = client.post("/rollouts", order)["id"]

            def ended(rollout: str = rollout) -> dict[str, Any] | None:
                device()
                found: dict[str, Any] = client.get(f"/rollouts/{rollout}")
                return found if found["state"] not in ("PENDING", "RUNNING") else None

            end = until(ended, f"the end of the rollout of version {version}", log)
            assert end["state"] == "SUCCEEDED", f"{end['reason']}\n{log.read_text()[-3000:]}"
            assert device()["version"] == version

            def seen(version: str = version) -> list[dict[str, Any]]:
                items = client.get(f"/devices/{DEVICE}/detections", limit=200)["items"]
                return [item for item in items if item["version"] == version]

            assert until(seen, f"detections by version {version}", log)
        # Its process may take minutes to start here, and its patience begins with the open source.
        assert "restarting its capture process" not in log.read_text()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(90) == 0, log.read_text()[-3000:]
