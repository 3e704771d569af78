"""The agent as a user meets it: a process, a broker, a source; events out, a clean goodbye."""

from __future__ import annotations

import os
from pathlib import Path

from edgec.protocol.topics import Kind
from tests.device_agent.harness import (
    AgentProcess,
    Broker,
    FleetEnd,
    alive,
    make_artifact,
    recovering,
    wait_for,
)

CONFIG = """
[models.detector]
artifact = "detector-1.edge"
[streams.door]
source = "test:320x240@50"
model = "detector"
[streams.yard]
source = { kind = "test", width = 160, height = 120, fps = 30 }
model = "detector"
policy = "every"
"""


def test_events_health_and_goodbye(tmp_path: Path, fleet: FleetEnd, agent_of) -> None:
    make_artifact(tmp_path, "1")
    agent: AgentProcess = agent_of(CONFIG)
    agent.start()
    fleet.wait(lambda: fleet.of(Kind.EVENT), "the first event")
    events = fleet.wait(
        lambda: (e := fleet.of(Kind.EVENT)) and len({x["subject"] for x in e}) >= 4 and e,
        "two tracks a stream",
    )
    first = events[0]
    assert first["type"] == "edgec.detection.new"
    assert first["data"]["label"] in ("red", "blue")
    assert first["data"]["model"]["version"] == "1"
    health = fleet.health(
        lambda h: (
            len(h["streams"]) == 2
            and all(s["state"] == "running" and s["processed"] > 20 for s in h["streams"])
        ),
        "both streams running",
    )
    for stream in health["streams"]:
        assert stream["captured"] == stream["processed"] + stream["dropped"] + stream["in_flight"]
    assert next(s for s in health["streams"] if s["name"] == "yard")["dropped"] == 0
    children = agent.children()
    assert len(children) == 3
    assert agent.stop() == 0
    assert not any(alive(pid) for pid in children)
    fleet.wait(lambda: fleet.of(Kind.STATUS)[-1]["state"] == "stopped", "the goodbye")
    states = [s["state"] for s in fleet.of(Kind.STATUS)]
    assert states == ["online", "stopped"]
    # Every track that began has ended, and no event of a stream is missing.
    for name in ("door", "yard"):
        mine = [e for t, e, _ in fleet.messages if t.kind is Kind.EVENT and t.name == name]
        assert [int(e["sequence"]) for e in mine] == list(range(1, len(mine) + 1))
        begun = {e["subject"] for e in mine if e["data"]["phase"] == "new"}
        ended = {e["subject"] for e in mine if e["data"]["phase"] == "end"}
        assert begun == ended
    assert not [line for line in agent.log_lines() if line["level"] == "error"]


def test_kill_9_of_the_supervisor_leaves_nothing(tmp_path: Path, fleet: FleetEnd, agent_of) -> None:
    make_artifact(tmp_path, "1")
    agent: AgentProcess = agent_of(CONFIG)
    agent.start()
    fleet.wait(lambda: fleet.of(Kind.EVENT), "the first event")
    agent.kill()
    fleet.wait(lambda: fleet.of(Kind.STATUS)[-1]["state"] == "offline", "the last will")
    with recovering("kill -9 of the supervisor", fleet):
        agent.start()
        fleet.wait(lambda: fleet.of(Kind.STATUS)[-1]["state"] == "online", "the second session")
        seen = len(fleet.of(Kind.EVENT))
        fleet.wait(lambda: len(fleet.of(Kind.EVENT)) > seen, "an event")
    first, *_, second = [s for s in fleet.of(Kind.STATUS) if s["state"] == "online"]
    assert second["session_seq"] > first["session_seq"]
    assert second["boot_id"] != first["boot_id"]

    def ended() -> bool:
        events = fleet.of(Kind.EVENT)
        before = {
            e["subject"] for e in events if e["data"]["phase"] == "new" and first["boot_id"] in e["subject"]
        }
        return before <= {e["subject"] for e in events if e["data"]["phase"] == "end"}

    fleet.wait(ended, "the end of the tracks that the crash left open")
    assert agent.stop() == 0


def test_every_process_may_die(tmp_path: Path, broker: Broker, fleet: FleetEnd, agent_of) -> None:
    make_artifact(tmp_path, "1")
    agent: AgentProcess = agent_of(CONFIG)
    agent.start()
    for part, field in (("capture", "streams"), ("inference", "models")):
        fleet.health(lambda h: all(s["state"] == "running" and s["fps"] > 1 for s in h["streams"]), "frames")
        fleet.messages.clear()
        victim = agent.children(f"device_agent.{part}.worker")[0]
        with recovering(f"kill -9 of the {part} process", fleet):
            os.kill(victim, 9)
            wait_for(lambda v=victim: not alive(v), "the victim's end")
            health = fleet.health(
                lambda h, f=field: (
                    any(one["restarts"] for one in h[f])
                    and all(s["state"] == "running" and s["fps"] > 1 for s in h["streams"])
                    and all(m["state"] == "running" for m in h["models"])
                ),
                "frames again",
            )
        for stream in health["streams"]:
            assert stream["captured"] == stream["processed"] + stream["dropped"] + stream["in_flight"]
    assert agent.stop() == 0
