"""What was handed over reaches the broker: through crashes, damage, a full disk and a bad network."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgec.device_agent.cloud.mqtt_client import Broker as BrokerAddress
from edgec.device_agent.cloud.mqtt_client import Identity, MqttClient
from edgec.device_agent.cloud.outbox import CONTROL, Outbox
from edgec.device_agent.process.statefile import StateFile
from edgec.protocol.events import DetectionData, FrameRef, Phase
from edgec.protocol.topics import Kind, Topics
from tests.device_agent.fault_proxy import FaultProxy
from tests.device_agent.harness import Broker, FleetEnd, note, recovering, wait_for

TOPICS = Topics("test", "dev-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def detection(track: str, phase: str = "update") -> DetectionData:
    frame = FrameRef(number=1, captured_at=NOW)
    return DetectionData(
        phase=Phase(phase), track_id=track, label="x", score=0.5, started_at=NOW, frame=frame
    )


def put(
    outbox: Outbox, number: int, stream: str = "door", phase: str = "update", critical: bool = False
) -> None:
    outbox.put_event(
        TOPICS.events(stream),
        f"/s/{stream}",
        stream,
        f"{stream}-{number}",
        detection("t", phase),
        critical=critical,
    )


def test_entries_survive_a_kill_and_keep_order_and_sequence(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.device_agent.cloud.test_outbox import Outbox, put\n"
        "box = Outbox(Path(sys.argv[1]), 2**20, 1e6)\n"
        "for n in range(50): put(box, n)\n"
        "assert box.flush()\n"
        "for n in range(50, 60): put(box, n)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "outbox.db"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=pytestconfig.rootpath, check=False)
    assert done.returncode == -signal.SIGKILL
    began = time.monotonic()
    box = Outbox(path, 2**20, 1e6)
    entries = box.peek(1000, set())
    assert len(entries) >= 50
    note("kill -9 while the outbox writes", time.monotonic() - began, max(0, 50 - len(entries)))
    assert [b'"sequence":"%d"' % n in e.payload for n, e in enumerate(entries, 1)] == [True] * len(entries)
    put(box, 3)  # a repeat
    assert box.flush()
    assert len(box.peek(1000, set())) == len(entries)
    box.acknowledge(entries[0].key)
    put(box, 0)  # a repeat of what was sent
    assert box.flush()
    assert box.peek(1, set()) == entries[1:2]
    box.close()


def test_bounds_throw_out_the_oldest_updates_first(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db", 65536, 1e6)
    box.put("t/answer", b"x" * 1000, "answer", lane=CONTROL)
    for n in range(400):
        put(box, n, phase="new" if n < 20 else "update", critical=n < 20)
    assert box.flush()
    state = box.state()
    assert state.bytes <= 65536
    assert state.dropped == 400 + 1 - state.depth
    assert state.pressure > 0.9
    left = b"".join(entry.payload for entry in box.peek(1000, set()))
    assert b"x" * 1000 in left
    assert left.count(b'"phase":"new"') == 20  # the critical ones are still there, old as they are
    assert b"door-399" in left
    box.close()


@pytest.mark.parametrize("years", [30, -30])
def test_a_jumping_clock_expires_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    box = Outbox(tmp_path / "outbox.db", 2**20, max_age_s=3600)
    put(box, 1)
    assert box.flush()
    jumped = time.time() + years * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: jumped)
    put(box, 2)
    assert box.flush()
    box.close()
    again = Outbox(tmp_path / "outbox.db", 2**20, max_age_s=3600)
    put(again, 3)
    assert again.flush()
    assert again.state().depth == 3
    assert again.state().oldest_age_s < 3600
    again.close()


def test_age_is_a_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Outbox(tmp_path / "outbox.db", 2**20, max_age_s=100)
    put(box, 1)
    box.put("t/answer", b"x", "answer")
    assert box.flush()
    later = time.monotonic() + 200
    monkeypatch.setattr(time, "monotonic", lambda: later)
    put(box, 2)
    assert box.flush()
    assert [e.topic for e in box.peek(9, set())] == ["t/answer", TOPICS.events("door")]
    box.close()


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "text"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "outbox.db"
    box = Outbox(path, 2**20, 1e6)
    for n in range(300):
        put(box, n)
    assert box.flush()
    box.close()
    raw = path.read_bytes()
    changed = {
        "empty": b"", "cut": raw[: len(raw) // 2], "zeros": raw[:4096] + bytes(len(raw) - 4096),
        "text": b"hello" * 99,
    }  # fmt: skip
    path.write_bytes(changed[damage])
    again = Outbox(path, 2**20, 1e6)
    put(again, 1000)
    assert again.flush()
    assert any(b"door-1000" in entry.payload for entry in again.peek(1000, set()))
    again.close()


def test_a_full_disk_keeps_new_entries_in_memory_until_it_has_room(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    code = (
        "import resource, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from tests.device_agent.cloud.test_outbox import Outbox, put\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "box = Outbox(Path(sys.argv[1]), 2**22, 1e6)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (120000, hard))\n"
        "for n in range(800):\n"
        "    put(box, n)\n"
        "    if n % 40 == 0: box.flush(60)\n"
        "assert not box.flush(60)\n"
        "assert 'cannot be written' in box.state().problem, box.state()\n"
        "assert box.state().depth == 800, box.state()\n"
        "seen = box.peek(2000, set())\n"
        "assert len(seen) == 800\n"
        "for entry in seen: box.acknowledge(entry.key)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "put(box, 800)\n"
        "assert box.flush(), box.state()\n"
        "box.close()\n"
    )
    path = tmp_path / "outbox.db"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with recovering("disk full, outbox alone"):
        box = Outbox(path, 2**22, 1e6)
    # What was sent while the disk was full is gone; the numbers of the stream went on.
    (last,) = box.peek(9, set())
    assert b'"sequence":"801"' in last.payload
    box.close()


def test_a_folder_that_cannot_be_written_leaves_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with recovering("folder that cannot be written"):
        box = Outbox(tmp_path / "file" / "outbox.db", 2**20, 1e6)
        put(box, 1)
        assert not box.flush()
        assert len(box.peek(10, set())) == 1
    assert "memory" in box.state().problem
    box.close()


def test_tracks_left_open_by_a_crash_are_ended(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db", 2**20, 1e6)
    for number, (track, phase) in enumerate((("a", "new"), ("b", "new"), ("a", "update"), ("b", "end"))):
        box.put_event("t", "/s", "door", f"e{number}", detection(track, phase), critical=True)
    assert box.flush()
    box.end_open_tracks(lambda _: "t")
    box.end_open_tracks(lambda _: "t")
    assert box.flush()
    ends = [e.payload for e in box.peek(99, set()) if b'"phase":"end"' in e.payload]
    assert len(ends) == 2
    assert b'"interrupted":true' in ends[1]
    box.close()


def uplink_to(port: int, outbox: Outbox, folder: Path) -> MqttClient:
    return MqttClient(
        BrokerAddress("127.0.0.1", port, keepalive_s=2, reconnect_max_s=0.2),
        TOPICS, Identity("boot", "0", "", {}),
        outbox, StateFile(folder / "session.json"), lambda topic, payload: None, lambda up: None,
    )  # fmt: skip


def test_an_hour_without_a_broker_loses_nothing(tmp_path: Path, broker: Broker) -> None:
    """3,600 events in two streams wait on disk, the device restarts, and all arrive in order."""
    broker.stop()
    box = Outbox(tmp_path / "outbox.db", 2**26, 1e6)
    uplink = uplink_to(broker.port, box, tmp_path)
    uplink.start()
    for n in range(1800):
        put(box, n, "door")
        put(box, n, "yard")
    assert box.flush(60)
    uplink.stop()
    box.close()
    box = Outbox(tmp_path / "outbox.db", 2**26, 1e6)
    assert box.state().depth == 3600
    broker.start()
    fleet = FleetEnd(broker.port)
    uplink = uplink_to(broker.port, box, tmp_path)
    box._on_change = uplink.notify
    with recovering("broker away for 3,600 events and a restart", fleet):
        uplink.start()
        fleet.wait(lambda: len(fleet.of(Kind.EVENT)) >= 3600, "all events", 60)
    for stream in ("door", "yard"):
        events = [b for t, b, _ in fleet.messages if t.kind is Kind.EVENT and t.name == stream]
        mine = [int(event["sequence"]) for event in events]
        assert list(dict.fromkeys(mine)) == list(range(1, 1801))
    wait_for(lambda: box.state().depth == 0, "the outbox to be empty")
    uplink.stop()
    box.close()
    fleet.close()


LONG = [
    pytest.param(name, marks=pytest.mark.long) for name in ("delay", "cut", "reset", "truncate", "repeat")
]
FAULTS = [*LONG, "mix"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_misbehaves_loses_nothing(
    tmp_path: Path, broker: Broker, fleet: FleetEnd, fault: str
) -> None:
    proxy = FaultProxy(broker.port, fault, seed=7)
    box = Outbox(tmp_path / "outbox.db", 2**26, 1e6)
    uplink = uplink_to(proxy.port, box, tmp_path)
    box._on_change = uplink.notify
    uplink.start()
    for n in range(400):
        put(box, n)
    assert box.flush(30)
    proxy.calm_after(bytes_=150_000)
    with recovering(f"network: {fault}", fleet):
        fleet.wait(lambda: len({e["id"] for e in fleet.of(Kind.EVENT)}) == 400, "all events", 60)
    assert proxy.faults
    first_seen = list(dict.fromkeys(int(e["sequence"]) for e in fleet.of(Kind.EVENT)))
    assert first_seen == sorted(first_seen)
    uplink.stop()
    box.close()
    proxy.close()
