"""Updates by pull as the fleet sees them: what arrives, what is taken back, and that no frame is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edgec.protocol.jobs import JobState
from edgec.protocol.topics import Kind
from tests.device_agent.harness import (
    AgentProcess,
    Broker,
    FleetEnd,
    Registry,
    make_artifact,
    recovering,
    wait_for,
)

CONFIG = """
[updates]
trial_timeout_s = 40
max_latency_ratio = 40
[models.detector]
artifact = "detector-1.edge"
timeout_s = 4
[streams.door]
source = { kind = "test", width = 160, height = 120, fps = 40 }
model = "detector"
policy = "every"
"""


def start(agent: AgentProcess, fleet: FleetEnd) -> None:
    agent.start()
    fleet.health(
        lambda h: h["models"][0]["state"] == "running" and h["streams"][0]["processed"] > 10, "frames"
    )


def running_version(fleet: FleetEnd) -> str:
    """The version that health names from now on, once frames go through it."""
    # A capture process that is killed again and again is started after up to half a minute.
    health = fleet.health(
        lambda h: h["models"][0]["state"] == "running" and h["streams"][0]["fps"] > 1,
        "a running model", 60, since=len(fleet.messages),
    )  # fmt: skip
    return str(health["models"][0]["version"])


def test_a_swap_drops_nothing_and_fetches_only_what_is_missing(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    make_artifact(tmp_path, "1", size=200_000)
    new, _ = make_artifact(tmp_path, "2", size=200_000, score=0.8, load_s=0.5)
    digest = registry.add(new)
    agent = agent_of(CONFIG)
    start(agent, fleet)
    fleet.job("up-1", registry.update(digest, "2"))
    state, details = fleet.job_end("up-1")
    assert state is JobState.SUCCEEDED, details
    assert (details["running_version"], details["running_digest"]) == ("2", digest)
    steps = [d["step"] for s, d in fleet.job_states("up-1") if s is JobState.IN_PROGRESS and "step" in d]
    assert list(dict.fromkeys(steps)) == ["accepted", "downloaded", "tried", "probation"]
    health = fleet.health(lambda h: h["models"][0]["version"] == "2", "health with the new version")
    stream = health["streams"][0]
    assert stream["dropped"] == 0
    assert stream["captured"] == stream["processed"] + stream["in_flight"]
    # The weights are the same, so they did not travel again.
    assert max(size for _, _, size in registry.requests) < 100_000
    # A repeated job is answered from memory, without another update. As one of the same version it would get one answer
    # with the job that ended, as long as that one is not acknowledged.
    fleet.messages.clear()
    fleet.job("up-1", registry.update(digest, "2"), version=2)
    assert fleet.job_end("up-1")[0] is JobState.SUCCEEDED
    assert agent.stop() == 0
    fleet.messages.clear()
    agent.start()
    fleet.no_jobs()
    assert running_version(fleet) == "2"
    events = [e for e in fleet.of(Kind.EVENT) if e["data"]["phase"] == "new"]
    assert not events or events[-1]["data"]["model"]["manifest_digest"] == digest
    assert agent.stop() == 0


BAD_MODELS = {
    "crashes while loading": {"load_crash": 0},
    "hangs while loading": {"load_hang": 0},
    "gives NaN on the golden input": {"run_nan": True},
    "computes something else than at the compiler's": {"golden": 1.5},
    "crashes on the 5th frame": {"crash": 5},
    "hangs on the 5th frame": {"hang": 5},
    "gives NaN from the 3rd frame on": {"nan": 3},
    "raises from the 2nd frame on": {"error": 2},
    "is many times slower": {"delay_ms": 300},
}


def test_a_device_without_a_model_gets_its_first(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    new, _ = make_artifact(tmp_path, "1")
    agent = agent_of(CONFIG.replace('artifact = "detector-1.edge"', ""))
    agent.start()
    health = fleet.health(lambda h: h["streams"] and h["streams"][0]["captured"] > 10, "frames")
    assert health["models"][0]["state"] == "absent"
    fleet.job("up-1", registry.update(registry.add(new), "1"))
    assert fleet.job_end("up-1")[0] is JobState.SUCCEEDED
    assert running_version(fleet) == "1"
    assert agent.stop() == 0


def test_bad_models_are_taken_back(tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of) -> None:
    _, old = make_artifact(tmp_path, "1")
    agent = agent_of(CONFIG.replace("trial_timeout_s = 40", "trial_timeout_s = 6"))
    start(agent, fleet)
    for number, (what, behaviour) in enumerate(BAD_MODELS.items()):
        new, _ = make_artifact(tmp_path, "2", bad=what, **behaviour)
        with recovering(f"update to a bad model: it {what}", fleet):
            # Long enough for a slow machine; a complaint ends it early.
            fleet.job(f"up-{number}", registry.update(registry.add(new), "2", probation_s=30))
            state, details = fleet.job_end(f"up-{number}")
            assert state is JobState.FAILED, (what, details)
            assert details["running_digest"] == old, what
            assert details["message"], what
            assert running_version(fleet) == "1", what
    assert agent.stop() == 0


@pytest.mark.parametrize("how", ["crash", "nan", pytest.param("hang", marks=pytest.mark.long)])
def test_a_model_that_goes_wrong_after_its_commit_is_taken_back(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of, how: str
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2", **{how: str(tmp_path / "now")})
    agent = agent_of(CONFIG)
    start(agent, fleet)
    fleet.job("up", registry.update(registry.add(new), "2", probation_s=0.2))
    state, details = fleet.job_end("up")
    assert state is JobState.SUCCEEDED, details
    fleet.no_jobs()
    with recovering(f"model that goes wrong after its commit: {how}", fleet):
        (tmp_path / "now").touch()
        health = fleet.health(lambda h: any("runs again" in why for why in h["degraded"]), "the way back", 60)
        assert "detector 2" in " ".join(health["degraded"])
        assert running_version(fleet) == "1"
    assert agent.stop() == 0
    agent.start()
    assert running_version(fleet) == "1"


def test_a_load_that_was_overtaken_does_not_come_back(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    """The process dies on probation: its successor begins to load the new model, and has to run the old one."""
    _, old = make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2", load_s=2)
    agent = agent_of(CONFIG)
    start(agent, fleet)
    fleet.job("up", registry.update(registry.add(new), "2", probation_s=600))
    fleet.health(lambda h: h["models"][0]["state"] == "probation", "the probation")
    os.kill(agent.children("device_agent.inference.worker")[0], signal.SIGKILL)
    state, details = fleet.job_end("up")
    assert (state, details["running_digest"]) == (JobState.FAILED, old)
    wait_for(lambda: "now has to run another model" in agent.log_text(), "the end of the slow load")
    assert running_version(fleet) == "1"
    assert agent.stop() == 0


def test_what_is_not_for_this_device_is_rejected(
    tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2")
    digest = registry.add(new)
    agent = agent_of(CONFIG)
    start(agent, fleet)
    fleet.job("other-target", registry.update(digest, "2", target="rpi4"))
    assert fleet.job_end("other-target")[0] is JobState.REJECTED
    fleet.job("no-such-thing", {"operation": "dance"})
    assert fleet.job_end("no-such-thing")[0] is JobState.REJECTED
    fleet.job("no-slot", registry.update(digest, "2", slot="ears"))
    assert fleet.job_end("no-slot")[0] is JobState.REJECTED
    fleet.job("not-there", registry.update("sha256:" + "0" * 64, "9"))
    state, details = fleet.job_end("not-there")
    assert state is JobState.FAILED
    assert "404" in details["message"]
    assert running_version(fleet) == "1"
    assert agent.stop() == 0


def test_a_withdrawn_job_is_undone(tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of) -> None:
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2")
    digest = registry.add(new)
    agent = agent_of(CONFIG)
    start(agent, fleet)
    fleet.job("up-1", registry.update(digest, "2", probation_s=600))
    fleet.health(lambda h: h["models"][0]["state"] == "probation", "the probation")
    fleet.no_jobs()
    assert fleet.job_end("up-1")[0] is JobState.CANCELED
    assert running_version(fleet) == "1"
    assert agent.stop() == 0


@pytest.mark.parametrize("write", range(2, 8))
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.long
def test_kill_9_at_every_step(
    tmp_path: Path, broker: Broker, fleet: FleetEnd, registry: Registry, agent_of, write: int, moment: str
) -> None:
    kill_at(tmp_path, fleet, registry, agent_of, write, moment)


def test_kill_9_on_probation(
    tmp_path: Path, broker: Broker, fleet: FleetEnd, registry: Registry, agent_of
) -> None:
    kill_at(tmp_path, fleet, registry, agent_of, 5, "after")


def kill_at(tmp_path: Path, fleet: FleetEnd, registry: Registry, agent_of, write: int, moment: str) -> None:
    """Kill the supervisor at a write of the record of deployments; the next start must end the job truly."""
    make_artifact(tmp_path, "1")
    new, _ = make_artifact(tmp_path, "2")
    digest = registry.add(new)
    agent: AgentProcess = agent_of(CONFIG)
    fleet.job("up-1", registry.update(digest, "2"))
    agent.start(EDGEC_TEST_KILL_AT_WRITE=f"deployments.json:{write}:{moment}")
    assert agent.wait_ended() == -9
    wait_for(lambda: not agent.children(), "the children's end")
    with recovering("kill -9 of the supervisor at a write of the record", fleet):
        agent.start()
        state, details = fleet.job_end("up-1")
        fleet.no_jobs()
        version = running_version(fleet)
    assert (details["running_version"], details["running_digest"]) == ("2", digest)
    assert (state, version) == (JobState.SUCCEEDED, "2")
    assert agent.stop() == 0
