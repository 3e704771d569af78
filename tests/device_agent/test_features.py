"""What an operator uses: live changes, live view, snapshots, second models, enrolment, doctor, status."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgec.protocol.topics import Kind
from tests.device_agent.harness import (
    AgentProcess,
    FleetEnd,
    Registry,
    free_port,
    make_artifact,
    recovering,
    wait_for,
)

DOOR = """
[models.detector]
artifact = "detector-1.edge"
[streams.door]
source = "test:160x120@30"
model = "detector"
policy = "every"
"""


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgec.cli.main", "agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_streams_change_through_the_shadow_without_touching_the_others(
    tmp_path: Path, fleet: FleetEnd, agent_of
) -> None:
    make_artifact(tmp_path, "1")
    agent: AgentProcess = agent_of(DOOR)
    agent.start()
    fleet.health(lambda h: h["streams"][0]["processed"] > 10, "frames")

    def desire(version: int, state: dict) -> None:
        body = {"state": state, "version": version, "timestamp": 0}
        fleet.client.publish(fleet.topics.of(Kind.SHADOW_DELTA, "config"), json.dumps(body), 1)

    yard = {"source": "test:320x240@20", "model": "detector"}
    desire(1, {"streams": {"yard": yard}})
    health = fleet.health(
        lambda h: len(h["streams"]) == 2 and all(s["processed"] > 10 for s in h["streams"]), "the new stream"
    )
    door = next(s for s in health["streams"] if s["name"] == "door")
    assert (door["restarts"], door["dropped"]) == (0, 0)
    reported = fleet.wait(
        lambda: [b for b in fleet.of(Kind.SHADOW_UPDATE) if b["state"]["reported"].get("streams")],
        "the report",
    )
    assert reported[-1]["state"]["reported"]["streams"] == {"yard": yard}
    desire(2, {"streams": {"yard": {"thresold": 0.5}}})
    refused = fleet.wait(
        lambda: [b for b in fleet.of(Kind.SHADOW_UPDATE) if b["state"]["reported"].get("errors")],
        "the refusal",
    )
    assert "did you mean threshold" in str(refused[-1])
    desire(3, {"streams": {"door": {"enabled": False}}})
    fleet.health(lambda h: [s["name"] for s in h["streams"]] == ["yard"], "one stream less")
    assert agent.stop() == 0
    agent.start()  # what the fleet wanted is remembered
    fleet.messages.clear()
    fleet.health(lambda h: [s["name"] for s in h["streams"]] == ["yard"], "the same streams after a start")
    assert agent.stop() == 0


def test_view_snapshots_masks_rules_and_a_second_model(tmp_path: Path, fleet: FleetEnd, agent_of) -> None:
    make_artifact(tmp_path, "1")
    make_artifact(tmp_path, "2", score=0.7)
    port, metrics = free_port(), free_port()
    agent: AgentProcess = agent_of(f"""
[models.detector]
artifact = "detector-1.edge"
[models.other]
artifact = "detector-2.edge"
[view]
enabled = true
port = {port}
token = "a-secret-token"
[metrics]
port = {metrics}
[media]
clip_before_s = 0.5
clip_after_s = 0.5
[streams.door]
source = "test:320x240@25"
model = "detector"
snapshots = true
clips = true
candidate = {{ model = "other", share = 0.5 }}
[[streams.door.masks]]
name = "neighbour"
polygon = [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]
[[streams.door.zones]]
name = "left"
polygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
[[streams.door.rules]]
name = "red-left"
kind = "presence"
labels = ["red"]
zone = "left"
""")
    agent.start()
    events = fleet.wait(lambda: [e for e in fleet.of(Kind.EVENT) if e["data"].get("snapshot")], "a snapshot")
    kept = agent.state / "media" / events[0]["data"]["snapshot"]
    picture = cv2.imread(str(wait_for(lambda: kept.exists() and kept, "the snapshot's file")))
    assert picture.shape == (240, 320, 3)
    # The upper half shows the red square, the masked lower half is coarse: no sharp blue square.
    assert np.abs(np.diff(picture[60].astype(int), axis=0)).max() > 80
    fleet.wait(lambda: [e for e in fleet.of(Kind.EVENT) if e["data"].get("rule") == "red-left"], "the rule")
    wait_for(lambda: list((agent.state / "media").glob("*.avi")), "a clip")
    wait_for(lambda: "live view on" in agent.log_text(), "the view")
    look_at_view(f"http://127.0.0.1:{port}")
    fleet.messages.clear()
    health = fleet.health(
        lambda h: (h["streams"][0].get("comparison") or {}).get("frames", 0) > 5, "the comparison"
    )
    assert health["streams"][0]["comparison"]["agreement"] == 1.0
    text = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10).read().decode()
    assert 'edgec_stream_up{stream="door"} 1' in text
    status = json.loads(cli("status", "--state", str(agent.state), "--json").stdout)
    assert status["connected"]
    assert "a-secret-token" not in agent.log_text()
    assert agent.stop() == 0


def look_at_view(base: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{base}/stream/door.jpg", timeout=10)
    page = urllib.request.urlopen(f"{base}/?token=a-secret-token", timeout=10).read().decode()
    assert "door" in page
    jpeg = urllib.request.urlopen(f"{base}/stream/door.jpg?token=a-secret-token", timeout=20).read()
    live = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert live.shape == (240, 320, 3)
    stream = urllib.request.urlopen(f"{base}/stream/door.mjpg?token=a-secret-token", timeout=20)
    assert stream.read(20000).count(b"--frame") >= 1
    stream.close()


def test_a_camera_that_hangs_is_killed_and_comes_back(tmp_path: Path, fleet: FleetEnd, agent_of) -> None:
    """A network camera that sends three pictures and then nothing, for ever, on every connection."""
    connections: list[socket.socket] = []
    good, jpeg = cv2.imencode(".jpg", np.full((120, 160, 3), 90, np.uint8))
    assert good

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connections.append(self.connection)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=f")
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                self.wfile.write(jpeg.tobytes() + b"\r\n")
            self.wfile.flush()
            self.rfile.read()  # until the client has gone

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    make_artifact(tmp_path, "1")
    agent: AgentProcess = agent_of(f"""
[models.detector]
artifact = "detector-1.edge"
[streams.hangs]
source = "http://127.0.0.1:{server.server_port}/cam.mjpg"
model = "detector"
stall_s = 1.5
[streams.works]
source = "test:160x120@30"
model = "detector"
policy = "every"
""")
    agent.start()
    for times in (1, 2):
        with recovering("camera that hangs in read", fleet):
            fleet.health(
                lambda h, n=times: any(s["name"] == "hangs" and s["restarts"] >= n for s in h["streams"]),
                "a restart of the camera that hangs", 60,
            )  # fmt: skip
            before = len(connections)
            wait_for(lambda n=before: len(connections) > n, "the next connection", 60)
    health = fleet.of(Kind.HEALTH)[-1]
    works = next(s for s in health["streams"] if s["name"] == "works")
    assert (works["restarts"], works["dropped"]) == (0, 0)
    assert len(connections) >= 2
    assert agent.stop() == 0
    server.shutdown()


@pytest.mark.parametrize("years", ["-40", pytest.param("90", marks=pytest.mark.long)])
def test_a_clock_that_jumps_by_years(tmp_path: Path, fleet: FleetEnd, agent_of, years: str) -> None:
    make_artifact(tmp_path, "1")
    agent: AgentProcess = agent_of(DOOR)
    agent.start(EDGEC_TEST_CLOCK_YEARS=years, EDGEC_TEST_CLOCK_AFTER_S="2")
    fleet.health(lambda h: h["clock_trusted"] is False, "the clock to be doubted", 40)
    mark = len(fleet.messages)
    with recovering(f"clock jumps: {years} years", fleet):
        fleet.wait(lambda: any(t.kind is Kind.EVENT for t, _, _ in fleet.messages[mark:]), "an event")
        health = fleet.health(lambda h: h["streams"][0]["fps"] > 1, "frames after the jump", since=mark)
    assert health["streams"][0]["dropped"] == 0
    assert health["streams"][0]["restarts"] == 0
    assert health["outbox"]["dropped"] == 0
    assert agent.stop() == 0


def test_enrolment(tmp_path: Path) -> None:
    answers = {"good": 200, "bad": 403}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = {
                "device": "dev-9", "fleet": "lab", "registry": {"url": "http://127.0.0.1:1", "token": "r"},
                "mqtt": {"host": "127.0.0.1", "port": 1883, "username": "dev-9", "password": "p"},
            }  # fmt: skip
            status = answers[body["token"]]
            data = json.dumps(answer if status == 200 else {"detail": "the token is used up"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    state = tmp_path / "state"
    refused = cli("enroll", "--server", url, "--token", "bad", "--state", str(state))
    assert refused.returncode == 1
    assert "the token is used up" in refused.stderr
    assert not (state / "identity.json").exists()
    done = cli("enroll", "--server", url, "--token", "good", "--state", str(state), "--json")
    assert json.loads(done.stdout)["device"] == "dev-9"
    assert (state / "identity.json").stat().st_mode & 0o777 == 0o600
    server.shutdown()
    server.server_close()
    gone = cli("enroll", "--server", url, "--token", "good", "--state", str(state))
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stderr


def test_mistakes_are_named_in_two_lines(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    missing = cli("run", "--config", str(config))
    assert missing.returncode == 2
    assert "edgec agent init" in missing.stderr
    assert cli("init", str(config)).returncode == 0
    assert cli("check", "--config", str(config)).returncode == 0
    config.write_text(config.read_text().replace("threads = 1", "thread = 1"))
    wrong = cli("check", "--config", str(config))
    assert wrong.returncode == 2
    line = config.read_text().splitlines().index("thread = 1") + 1
    assert (
        f"agent.toml:{line}: models.detector.thread: unknown key; did you mean threads?"
        in wrong.stderr.replace("\n", "")
    )
    assert "Traceback" not in wrong.stderr
    config.write_text('[streams.a]\nsource = "no-such.mp4"\n[agent]\nstate = "s"\n')
    doctor = cli("doctor", "--config", str(config), "--json")
    found = {one["what"]: one for one in json.loads(doctor.stdout)}
    assert doctor.returncode == 1
    assert found["source a"]["verdict"] == "bad"
    assert "no-such.mp4" in found["source a"]["text"]
    assert found["broker"]["remedy"]


AUDIO_CARD = {
    "input": {"kind": "audio", "sample_rate": 8000, "window_s": 0.4, "hop_s": 0.1},
    "output": {"decoder": "keyword"},
}


def test_sounds_become_events(tmp_path: Path, fleet: FleetEnd, agent_of) -> None:
    """A file of silence, a tone and silence again: one sound, from its begin to its end."""
    rate = 8000
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    samples = np.concatenate([np.zeros(2 * rate), tone, np.zeros(3 * rate)])
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32000).astype("<i2").tobytes())
    make_artifact(tmp_path, "1", card=AUDIO_CARD)
    agent: AgentProcess = agent_of("""
[models.ears]
artifact = "detector-1.edge"
[streams.hall]
source = { kind = "sound", path = "sound.wav", rate = 8000, loop = false }
model = "ears"
policy = "every"
slots = 8
[streams.hall.gate]
kind = "level"
level_dbfs = -40
hold_s = 2.5
[streams.hall.tracker]
confirm = 2
lost_s = 1.5
""")
    agent.start()
    fleet.wait(
        lambda: [e for e in fleet.of(Kind.EVENT) if e["data"]["phase"] == "end"], "the end of the sound", 40
    )
    events = [e for e in fleet.of(Kind.EVENT) if e["data"]["phase"] != "update"]
    assert [e["type"] for e in events] == ["edgec.sound.new", "edgec.sound.end"]
    assert events[1]["data"]["label"] == "loud"
    assert events[1]["data"]["duration_s"] > 1  # by the wall: a busy machine may stretch it
    health = fleet.health(lambda h: h["streams"][0]["state"] == "ended", "the end of the file")
    stream = health["streams"][0]
    assert stream["captured"] == stream["processed"] == 88
    assert stream["gated"] > 10
    assert agent.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes the rights of root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_and_is_freed(
    tmp_path: Path, small_disk: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    make_artifact(small_disk, "1")
    new, _ = make_artifact(tmp_path, "2", size=100_000)
    agent: AgentProcess = agent_of(DOOR + "update_interval_s = 0.05\n", folder=small_disk)
    agent._log = tmp_path / "agent.log"
    agent.start()
    fleet.health(lambda h: h["streams"][0]["processed"] > 10, "frames")
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    fleet.health(lambda h: any("outbox" in one for one in h["degraded"]), "the full disk in health", 60)
    seen = len(fleet.of(Kind.EVENT))
    fleet.wait(lambda: len(fleet.of(Kind.EVENT)) > seen + 50, "events although the disk is full", 60)
    fleet.job("up-1", registry.update(registry.add(new), "2"))
    state, details = fleet.job_end("up-1")
    assert state.value == "FAILED"
    assert "disk is full" in details["message"]
    mark = len(fleet.messages)
    with recovering("disk full, and freed", fleet):
        filler.unlink()
        health = fleet.health(
            lambda h: not h["degraded"] and h["outbox"]["depth"] < 50, "the recovery", 60, since=mark
        )
    assert health["streams"][0]["dropped"] == 0
    assert health["outbox"]["dropped"] == 0
    assert agent.stop() == 0
    # Delivery is at least once: an event may come again after a break, but none for the first time out of order.
    numbers = list(dict.fromkeys(int(e["sequence"]) for e in fleet.of(Kind.EVENT)))
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_disk_that_can_only_be_read(tmp_path: Path, small_disk: Path, fleet: FleetEnd, agent_of) -> None:
    """After a restart as well: the kernel makes a worn card read-only, and the watchdog starts the device again."""
    make_artifact(small_disk, "1")
    agent: AgentProcess = agent_of(DOOR + "update_interval_s = 0.05\n", folder=small_disk)
    agent._log = tmp_path / "agent.log"
    agent.start()
    fleet.wait(lambda: len(fleet.of(Kind.EVENT)) > 20, "events")
    assert agent.stop() == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with recovering("disk that can only be read", fleet):
        agent.start()
        seen = len(fleet.of(Kind.EVENT))
        fleet.wait(lambda: len(fleet.of(Kind.EVENT)) > seen + 20, "events although nothing can be written")
    fleet.health(lambda h: any("outbox" in one for one in h["degraded"]), "the outbox in health")
    mark = len(fleet.messages)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    fleet.health(lambda h: not any("outbox" in one for one in h["degraded"]), "the recovery", since=mark)
    assert agent.stop() == 0
    numbers = list(dict.fromkeys(int(e["sequence"]) for e in fleet.of(Kind.EVENT)))
    assert numbers == list(range(1, len(numbers) + 1))
