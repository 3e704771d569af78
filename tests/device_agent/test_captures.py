"""Captures for retraining, end to end: selected by rule or by a job, masked, bounded and uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgec.device_agent.cloud.identity import identity_file
from edgec.protocol.captures import CaptureReason
from edgec.protocol.jobs import JobState
from edgec.protocol.topics import Kind
from tests.device_agent.capture_server import CaptureServer
from tests.device_agent.harness import AgentProcess, FleetEnd, make_artifact, wait_for


def enrol(agent: AgentProcess, captures_server: CaptureServer, port: int) -> None:
    agent.state.mkdir(parents=True, exist_ok=True)
    identity_file(agent.state).save(
        {
            "device": "dev-1", "fleet": "test", "mqtt": {"host": "127.0.0.1", "port": port},
            "registry": {"url": captures_server.url, "token": "secret"}, "api_url": captures_server.url,
        }
    )  # fmt: skip


CONFIG = """
[models.detector]
artifact = "detector-1.edge"
[models.other]
artifact = "detector-2.edge"
[models.faces]
artifact = "detector-3.edge"
[capture]
per_day = 3
faces = "faces"
[streams.door]
source = "test:320x240@25"
model = "detector"
candidate = { model = "other", share = 1.0 }
[streams.door.capture]
RULE
min_interval_s = 0
[[streams.door.masks]]
name = "neighbour"
polygon = [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]
"""


def test_frames_are_chosen_masked_and_sent_within_the_quota(
    tmp_path: Path, fleet: FleetEnd, broker: Any, agent_of: Any, captures_server: CaptureServer
) -> None:
    make_artifact(tmp_path, "1", score=0.4)
    make_artifact(tmp_path, "2", nan=5)  # fails from the fifth frame on, so that only few frames are compared
    make_artifact(tmp_path, "3")
    captures_server.faults = [404, 503, 0]
    agent = agent_of(CONFIG.replace("RULE", "low_confidence = [0.3, 0.5]\ndisagreement = true"))
    enrol(agent, captures_server, broker.port)
    agent.start()
    wait_for(lambda: len(captures_server.samples) >= 3, "three samples")
    fleet.job("look", {"operation": "capture", "stream": "door", "parameters": {"count": 2, "interval_s": 0}})
    state, details = fleet.job_end("look")
    assert state is JobState.SUCCEEDED, details
    wait_for(lambda: set(details["captures"]) <= set(captures_server.samples), "what the job asked for")
    reasons = [meta.reason for meta, _ in captures_server.samples.values()]
    assert reasons.count(CaptureReason.REQUEST) == 2
    assert len(reasons) == 5, (
        "the quota holds for what rules choose, and a lost answer makes no second sample"
    )
    assert set(captures_server.requests) == {("/api/v1/captures", "Bearer secret")}
    for meta, picture in captures_server.samples.values():
        assert (meta.device, meta.stream, meta.model, meta.version) == ("dev-1", "door", "detector", "1")
        assert picture.shape == (meta.height, meta.width, 3) == (240, 320, 3)
        assert "neighbour" in meta.masked
        assert meta.masked.count("face") == 2
        red = next(one for one in meta.predictions if one.label == "red")
        assert red.score == 0.4
        left, top, right, bottom = (int(value) for value in red.box)
        part = picture[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4].astype(int)
        # The square was blurred as a "face": its edge is no longer where the box is.
        assert len(np.unique(part[..., 2] // 24)) > 2 or part[..., 2].max() < 200
    health = fleet.health(lambda body: body["captures"]["sent"] >= 5, "what was sent")
    assert health["captures"]["waiting"] == 0
    assert health["captures"]["refused"] > 0
    fleet.job("far", {"operation": "snapshot", "stream": "nowhere"})
    state, details = fleet.job_end("far")
    assert state is JobState.FAILED
    assert "nowhere" in details["message"]


def test_without_its_face_model_no_frame_leaves(
    tmp_path: Path, fleet: FleetEnd, broker: Any, agent_of: Any, captures_server: CaptureServer
) -> None:
    make_artifact(tmp_path, "1")
    make_artifact(tmp_path, "2")
    make_artifact(tmp_path, "3", load_error=0)
    agent = agent_of(CONFIG.replace("RULE", "random_share = 1.0"))
    enrol(agent, captures_server, broker.port)
    agent.start()
    fleet.wait(lambda: fleet.of(Kind.EVENT), "an event")
    fleet.job("look", {"operation": "snapshot"})
    state, details = fleet.job_end("look")
    assert state is JobState.FAILED
    assert "faces" in details["message"]
    assert not captures_server.samples
