"""Frames for retraining: chosen by rule or by a job, masked, bounded, and sent until the fleet server has them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgec.device_agent.cloud.capture_uplink import CaptureUplink
from edgec.device_agent.cloud.identity import identity_file
from edgec.device_agent.errors import StateError
from edgec.device_agent.inference.captures import Spool
from edgec.device_agent.process.retry import RetryPolicy
from edgec.protocol.captures import CaptureMeta, CaptureReason
from edgec.protocol.codec import decode
from edgec.protocol.jobs import JobState
from edgec.protocol.topics import Kind
from tests.device_agent.harness import AgentProcess, FleetEnd, make_artifact, recovering, wait_for


class Server:
    """Takes samples as the fleet server does; `faults` are answers to give first, 0 cuts the connection."""

    def __init__(self) -> None:
        self.faults: list[int] = []
        self.samples: dict[str, tuple[CaptureMeta, np.ndarray]] = {}
        self.requests: list[tuple[str, str]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, self.headers["Authorization"]))
                status = server.faults.pop(0) if server.faults else server._keep(self.headers, body)
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    server._keep(self.headers, body)  # kept, and the answer is lost
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _keep(self, headers: Any, body: bytes) -> int:
        message = message_from_bytes(
            b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
        )
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.get_payload()
        }
        meta = decode(CaptureMeta, parts["meta"])
        picture = cv2.imdecode(np.frombuffer(parts["image"], np.uint8), cv2.IMREAD_COLOR)
        known = meta.id in self.samples
        self.samples[meta.id] = meta, picture
        return 200 if known else 201

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def enrol(agent: AgentProcess, server: Server, port: int) -> None:
    agent.state.mkdir(parents=True, exist_ok=True)
    identity_file(agent.state).save(
        {
            "device": "dev-1", "fleet": "test", "mqtt": {"host": "127.0.0.1", "port": port},
            "registry": {"url": server.url, "token": "secret"}, "api_url": server.url,
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
    tmp_path: Path, fleet: FleetEnd, broker: Any, agent_of: Any, server: Server
) -> None:
    make_artifact(tmp_path, "1", score=0.4)
    make_artifact(tmp_path, "2", nan=5)  # fails from the fifth frame on, so that only few frames are compared
    make_artifact(tmp_path, "3")
    server.faults = [503, 0]
    agent = agent_of(CONFIG.replace("RULE", "low_confidence = [0.3, 0.5]\ndisagreement = true"))
    enrol(agent, server, broker.port)
    agent.start()
    wait_for(lambda: len(server.samples) >= 3, "three samples")
    fleet.job("look", {"operation": "capture", "stream": "door", "parameters": {"count": 2, "interval_s": 0}})
    state, details = fleet.job_end("look")
    assert state is JobState.SUCCEEDED, details
    wait_for(lambda: set(details["captures"]) <= set(server.samples), "what the job asked for")
    reasons = [meta.reason for meta, _ in server.samples.values()]
    assert reasons.count(CaptureReason.REQUEST) == 2
    assert len(reasons) == 5, (
        "the quota holds for what rules choose, and a lost answer makes no second sample"
    )
    assert set(server.requests) == {("/api/v1/samples", "Bearer secret")}
    for meta, picture in server.samples.values():
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
    tmp_path: Path, fleet: FleetEnd, broker: Any, agent_of: Any, server: Server
) -> None:
    make_artifact(tmp_path, "1")
    make_artifact(tmp_path, "2")
    make_artifact(tmp_path, "3", load_error=0)
    agent = agent_of(CONFIG.replace("RULE", "random_share = 1.0"))
    enrol(agent, server, broker.port)
    agent.start()
    fleet.wait(lambda: fleet.of(Kind.EVENT), "an event")
    fleet.job("look", {"operation": "snapshot"})
    state, details = fleet.job_end("look")
    assert state is JobState.FAILED
    assert "faces" in details["message"]
    assert not server.samples


def sample(number: int, reason: CaptureReason = CaptureReason.RANDOM) -> CaptureMeta:
    return CaptureMeta.model_validate(
        {
            "id": f"s-{number}", "device": "d", "stream": "s", "time": "2026-01-01T00:00:00Z",
            "reason": reason, "width": 8, "height": 8,
        }
    )  # fmt: skip


JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def test_damaged_samples_are_thrown_away_and_the_others_sent(tmp_path: Path, server: Server) -> None:
    spool = Spool(tmp_path / "samples", 1 << 20, 10)
    for number in range(8):
        spool.store(sample(number), JPEG)
    folder = tmp_path / "samples"
    (folder / "s-0.json").write_bytes(b"")
    (folder / "s-1.json").write_bytes((folder / "s-1.json").read_bytes()[:20])
    (folder / "s-2.jpg").unlink()
    (folder / "s-3.jpg").write_bytes(b"")
    (folder / "s-4.json").unlink()
    server.faults = [429, 500, 422, 0]  # the first that is whole is refused for good after two attempts
    uplink = CaptureUplink(folder, server.url, "secret", retry=RetryPolicy(first_s=0.02, max_s=300.0))
    with recovering("five damaged samples, four bad answers"):
        uplink.start()
        wait_for(lambda: not list(folder.glob("*")), "an empty spool")
    uplink.stop()
    assert sorted(server.samples) == ["s-6", "s-7"]
    assert uplink.sent == 2
    assert uplink.refused == 5


def test_quota_and_bound_outlive_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    spool = Spool(folder, 4000, 3)
    for number in range(3):
        assert spool.allow()
        spool.store(sample(number), JPEG)
    assert not spool.allow()
    again = Spool(folder, 4000, 3)
    assert not again.allow()
    while sum(path.stat().st_size for path in folder.iterdir()) + 2 * len(JPEG) < 4000:
        again.store(sample(again.kept + 3), JPEG)
    with pytest.raises(StateError, match="wait already"):
        again.store(sample(99), np.random.default_rng(0).bytes(4000))
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4000
    assert {json.loads(path.read_bytes())["id"] for path in folder.glob("*.json")} >= {"s-0", "s-1", "s-2"}
