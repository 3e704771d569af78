"""What happens to a slot and its streams: candidates that come and go, probations without frames, damaged copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil

from edgec.device_agent.config.settings import StreamSection, differs_live
from edgec.device_agent.updates.store import hash_file
from edgec.protocol.jobs import JobState
from edgec.protocol.topics import Kind
from tests.device_agent.harness import AgentProcess, FleetEnd, Registry, make_artifact

CONFIG = """
[updates]
trial_timeout_s = 40
max_latency_ratio = 50
[models.detector]
artifact = "detector-1.edge"
[streams.door]
source = "SOURCE"
model = "detector"
policy = "every"
stall_s = 60
"""
GOOD = "test:160x120@25"


def desire(fleet: FleetEnd, version: int, state: dict[str, Any]) -> None:
    body = {"state": state, "version": version, "timestamp": 0}
    fleet.client.publish(fleet.topics.of(Kind.SHADOW_DELTA, "config"), json.dumps(body), 1)


def capture_processes(agent: AgentProcess) -> list[int]:
    """The process ids of the agent's capture processes."""
    children = psutil.Process(agent.pid).children(recursive=True)
    found = [one.pid for one in children if any("capture.worker" in word for word in one.cmdline())]
    assert found
    return sorted(found)


def test_only_what_a_pipeline_takes_between_two_frames_changes_live() -> None:
    stream = StreamSection.model_validate({"source": GOOD, "model": "a"})
    candidate = stream.model_copy(
        update={"candidate": {"model": "b"}, "capture": {"disagreement": True}, "threshold": 0.5}
    )
    assert differs_live(stream, candidate)
    for change in ({"model": "b"}, {"max_fps": 5.0}, {"policy": "every"}, {"masks": ["m"]}):
        assert not differs_live(stream, stream.model_copy(update=change)), change


def test_a_candidate_joins_and_leaves_without_touching_the_capture(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2", score=0.7)
    digest = registry.add(new)
    agent: AgentProcess = agent_of(CONFIG.replace("SOURCE", GOOD))
    agent.start()
    before = fleet.health(lambda h: h["streams"][0]["processed"] > 25, "frames")["streams"][0]
    captures = capture_processes(agent)
    desire(fleet, 1, {"models": {"experiment-1": {}}})
    fleet.job("up-1", registry.update(digest, "2") | {"slot": "experiment-1"})
    state, details = fleet.job_end("up-1")
    assert (state, details["unseen"]) == (JobState.SUCCEEDED, "no stream uses this slot")
    desire(fleet, 2, {"streams": {"door": {"candidate": {"model": "experiment-1", "share": 1.0}}}})
    during = fleet.health(
        lambda h: (h["streams"][0].get("comparison") or {}).get("frames", 0) > 20, "the comparison"
    )["streams"][0]
    desire(fleet, 3, {"models": {"experiment-1": None}, "streams": {"door": {"candidate": None}}})
    after = fleet.health(
        lambda h: [m["slot"] for m in h["models"]] == ["detector"]
        and h["streams"][0]["processed"] > during["processed"] + 50,
        "frames after the end", since=len(fleet.messages),
    )["streams"][0]  # fmt: skip
    assert "comparison" not in after
    # One capture process from the first frame to the last: its counters go on, and nothing is lost.
    assert capture_processes(agent) == captures
    for one in (during, after):
        assert (one["restarts"], one["dropped"]) == (0, 0)
        assert one["captured"] >= before["captured"] + 40
    assert agent.stop() == 0


def test_a_probation_without_a_frame_is_undecided_and_waits(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2", score=0.7)
    digest = registry.add(new)
    agent: AgentProcess = agent_of(CONFIG.replace("SOURCE", "http://127.0.0.1:1/blind.mjpg"))
    agent.start()
    fleet.health(lambda h: h["models"][0]["state"] == "running", "the model")
    fleet.job("up-1", registry.update(digest, "2") | {"probation_s": 0.5})
    fleet.wait(
        lambda: [d for s, d in fleet.job_states("up-1") if d.get("undecided") == "no frame seen from door"],
        "the word that nothing is seen",
    )
    fleet.health(lambda h: h["models"][0]["state"] == "probation", "the probation", since=len(fleet.messages))
    assert not [s for s, _ in fleet.job_states("up-1") if s.terminal], "nothing is decided"
    desire(fleet, 1, {"streams": {"door": {"source": GOOD}}})
    state, details = fleet.job_end("up-1")
    assert (state, details["undecided"], details["running_version"]) == (JobState.SUCCEEDED, "", "2")
    assert details["frames"] > 0
    assert agent.stop() == 0


def test_deploying_again_mends_a_damaged_copy(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2", score=0.7, size=200_000)
    digest = registry.add(new)
    agent: AgentProcess = agent_of(CONFIG.replace("SOURCE", GOOD))
    agent.start()
    fleet.health(lambda h: h["streams"][0]["processed"] > 10, "frames")
    update = registry.update(digest, "2") | {"probation_s": 0.2}

    def deploy(job: str) -> dict[str, Any]:
        fleet.job(job, update)
        state, details = fleet.job_end(job)
        assert (state, details["running_digest"]) == (JobState.SUCCEEDED, digest), details
        return details

    assert deploy("up-1")["message"] == "the new model runs"
    assert deploy("up-2")["message"] == "it is already running"
    blobs = agent.state / "models" / "blobs" / "sha256"
    largest = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert deploy("up-3")["message"] == "its copy was mended and runs"
    assert hash_file(largest) == f"sha256:{largest.name}"
    assert deploy("up-4")["message"] == "it is already running"
    fleet.health(
        lambda h: h["models"][0]["state"] == "running" and h["streams"][0]["fps"] > 1, "frames again",
        since=len(fleet.messages),
    )  # fmt: skip
    assert agent.stop() == 0
