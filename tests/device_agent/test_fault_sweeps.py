"""Faults in numbers: every state file damaged in every way, kills at random moments, artifacts made to do harm.

Each case appends a line to the file that `EDGEC_FAULT_LOG` names (`harness.note`); docs/faults.md is made of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.protocol.jobs import JobState
from edgec.protocol.topics import Kind
from edgec.runtime.artifact import oci
from tests.device_agent.harness import (
    AgentProcess,
    FleetEnd,
    Registry,
    lost_events,
    make_artifact,
    note,
    wait_for,
)
from tests.device_agent.updates.test_updates import CONFIG, running_version, start

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 64]) + data[len(data) // 2 + 1 :]
    ),
    "noise": lambda data: random.Random(1).randbytes(max(64, len(data))),
}
STATE_FILES = (
    "deployments.json",
    "session.json",
    "shadow.json",
    "outbox.db",
    "outbox.numbers.json",
    "homeassistant.json",
    "samples.quota.json",
    "agent.sock",
    "blob",
    "blobs",
)


def damage(agent: AgentProcess, which: str, how: Callable[[bytes], bytes], whole: dict[Path, bytes]) -> None:
    """Damage a file; blobs, which the agent does not write again, are `whole` before each damage."""
    paths = [agent.state / which]
    if which in ("blob", "blobs"):
        blobs = agent.state / "models" / "blobs" / "sha256"
        paths = sorted(blobs.iterdir(), key=lambda path: path.stat().st_size)[-1 if which == "blob" else 0 :]
        for path, data in whole.items():
            path.write_bytes(data)
        whole |= {path: path.read_bytes() for path in paths if path not in whole}
    for path in paths:
        data = path.read_bytes() if path.is_file() else b""
        path.unlink(missing_ok=True)
        path.write_bytes(how(data or b"something"))


@pytest.mark.long
@pytest.mark.parametrize("which", STATE_FILES)
def test_every_state_file_damaged_in_every_way(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of: Any, which: str
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2")
    agent = agent_of(CONFIG + "[homeassistant]\nenabled = true\n")
    start(agent, fleet)
    fleet.job("up", registry.update(registry.add(new), "2"))
    assert fleet.job_end("up")[0] is JobState.SUCCEEDED
    fleet.no_jobs()
    whole: dict[Path, bytes] = {}
    for name, how in DAMAGES.items():
        assert agent.stop() == 0
        fleet.wait(lambda: fleet.of(Kind.STATUS)[-1]["state"] == "stopped", "the goodbye")
        damage(agent, which, how, whole)
        fleet.messages.clear()
        began = time.monotonic()
        agent.start()
        version = running_version(fleet)
        # Until a model whose blobs are damaged is fetched again, the one before it runs, or the configured file.
        assert version == "2" or which in ("blob", "blobs"), (which, name)
        fleet.wait(lambda: running_version(fleet) == "2", "the model that belongs there")
        fleet.wait(lambda: fleet.of(Kind.EVENT), "an event")
        note(f"{which}: {name}", time.monotonic() - began, lost_events(fleet))
        assert lost_events(fleet) == 0, (which, name)


def test_a_damaged_blob_is_fetched_again(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of: Any
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2")
    agent = agent_of(CONFIG)
    start(agent, fleet)
    fleet.job("up", registry.update(registry.add(new), "2"))
    assert fleet.job_end("up")[0] is JobState.SUCCEEDED
    fleet.no_jobs()
    assert agent.stop() == 0
    damage(agent, "blob", DAMAGES["flipped"], {})
    (tmp_path / "detector-1.edge").unlink()  # It has the same weights.
    fleet.messages.clear()
    agent.start()
    fleet.wait(lambda: running_version(fleet) == "2", "the mended model")
    assert "is damaged on disk: fetching" in agent.log_text()
    assert agent.stop() == 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", ["inference", "trial", "capture", "supervisor"])
def test_kills_at_random_moments_of_updates(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of: Any, part: str
) -> None:
    """Each round: an update begins, and the process is killed somewhere within it."""
    chance = random.Random(part)
    _, digest = make_artifact(tmp_path, "1")
    digests = {"1": digest}
    for version in ("2", "3"):
        new, _ = make_artifact(tmp_path, version, load_s=0.1)
        digests[version] = registry.add(new)
    agent = agent_of(CONFIG)
    start(agent, fleet)
    running = "1"
    for number in range(15):
        wanted = "3" if running == "2" else "2"
        fleet.job(f"up-{number}", registry.update(digests[wanted], wanted, probation_s=0.3))
        if part == "trial":
            wait_for(lambda: agent.children("device_agent.updates.trial"), "the trial")
        time.sleep(chance.uniform(0, 1.0 if part == "trial" else 2.5))
        began = time.monotonic()
        if part == "supervisor":
            agent.kill()
            agent.start()
        else:
            module = {"inference": "inference.worker", "trial": "updates.trial", "capture": "capture.worker"}[
                part
            ]
            for pid in agent.children(f"device_agent.{module}"):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # the trial was over
        state, details = fleet.job_end(f"up-{number}")
        running = running_version(fleet)
        note(f"kill -9 of {part} during an update", time.monotonic() - began, lost_events(fleet))
        assert details["running_digest"] == digests[running], (number, state, details)
        assert (running == wanted) == (state is JobState.SUCCEEDED), (number, state, details)
    fleet.wait(lambda: lost_events(fleet) == 0, "all events, without a gap")
    assert agent.stop() == 0


def rewrite(registry: Registry, digest: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Store an altered manifest under its own, right digest; returns that."""
    manifest = json.loads((registry.layout / oci.blob_path(digest)).read_bytes())
    change(manifest)
    return put(registry, json.dumps(manifest).encode())


def put(registry: Registry, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = registry.layout / oci.blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return digest


def hostile(registry: Registry, digest: str) -> dict[str, str]:
    """Artifacts whose digests are right and whose content is not."""

    def titled(title: str) -> Callable[[dict[str, Any]], None]:
        def change(manifest: dict[str, Any]) -> None:
            for layer in manifest["layers"]:
                layer["annotations"]["org.opencontainers.image.title"] = title

        return change

    def blob(index: int | None, data: bytes) -> Callable[[dict[str, Any]], None]:
        def change(manifest: dict[str, Any]) -> None:
            part = manifest["config"] if index is None else manifest["layers"][index]
            part |= {"digest": put(registry, data), "size": len(data)}

        return change

    def sized(size: int) -> Callable[[dict[str, Any]], None]:
        return lambda manifest: manifest["layers"][0].__setitem__("size", size)

    def digested(value: str) -> Callable[[dict[str, Any]], None]:
        return lambda manifest: manifest["layers"][0].__setitem__("digest", value)

    deep = b"[" * 100_000 + b"]" * 100_000
    changes = {
        "config is no JSON": blob(None, b"\0" * 100),
        "config is nested 100,000 deep": blob(None, deep),
        "config of another form": blob(None, b'{"name": 7}'),
        "a layer of 2^60 bytes": sized(2**60),
        "a layer of -1 bytes": sized(-1),
        "a digest that climbs": digested("sha256:../../../../etc/passwd"),
        "no layers": lambda manifest: manifest.__setitem__("layers", []),
        "layers is a number": lambda manifest: manifest.__setitem__("layers", 7),
        "code is no program": blob(0, b"\x7fELF" + b"A" * 400),
    }
    found = {name: rewrite(registry, digest, change) for name, change in changes.items()}
    found["a manifest that is no JSON"] = put(registry, b"<html>")
    found["a manifest nested 100,000 deep"] = put(registry, deep)
    found["a manifest that is a list"] = put(registry, b"[1]")
    # What must not have an effect is allowed to run.
    found["titles that climb"] = rewrite(registry, digest, titled("../../../../../../tmp/edgec-climbed"))
    return found


SOME = {
    "config is nested 100,000 deep",
    "a digest that climbs",
    "layers is a number",
    "a manifest nested 100,000 deep",
    "titles that climb",
}


@pytest.mark.parametrize("only", [SOME, pytest.param(None, marks=pytest.mark.long)], ids=["some", "all"])
def test_hostile_artifacts_do_nothing(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of: Any, only: set[str] | None
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2")
    agent = agent_of(CONFIG)
    start(agent, fleet)
    artifacts = hostile(registry, registry.add(new))
    artifacts = {what: digest for what, digest in artifacts.items() if only is None or what in only}
    outside = sorted(path.name for path in tmp_path.iterdir())
    for number, (what, digest) in enumerate(artifacts.items()):
        began = time.monotonic()
        fleet.job(f"up-{number}", registry.update(digest, "2", probation_s=0.1))
        state, details = fleet.job_end(f"up-{number}")
        note(f"hostile artifact: {what}", time.monotonic() - began, lost_events(fleet))
        if what != "titles that climb":
            assert state in (JobState.FAILED, JobState.REJECTED), (what, details)
            assert details["message"], what
    assert not Path("/tmp/edgec-climbed").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == outside
    fleet.no_jobs()
    assert running_version(fleet) in ("1", "2")
    assert lost_events(fleet) == 0
    assert agent.stop() == 0


@pytest.mark.long
def test_an_agent_without_its_whole_state_begins_anew(tmp_path: Path, fleet: FleetEnd, agent_of: Any) -> None:
    make_artifact(tmp_path, "1")
    agent = agent_of(CONFIG)
    start(agent, fleet)
    assert agent.stop() == 0
    shutil.rmtree(agent.state)
    agent.start()
    assert running_version(fleet) == "1"
    assert agent.stop() == 0
