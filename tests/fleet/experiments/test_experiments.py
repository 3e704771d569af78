"""Experiments: what readings say, when a verdict is believed, and one from start to end on a device."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from operator import add
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.fleet.experiments.labels import evidence, said, weigh
from edgec.fleet.experiments.readings import comparable, counters_of, reading
from edgec.fleet.experiments.verdict import Criteria, judge
from edgec.protocol.codec import encode
from edgec.protocol.jobs import JobState
from edgec.protocol.shadow import merge, removals, with_removals
from edgec.protocol.status import Health, ModelHealth, StageLatency, StreamHealth
from edgec.protocol.topics import parse
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

CRITERIA = Criteria.model_validate({})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A server that looks at experiments five times a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEC_FLEET_TICK_S", "0.1")
        running = FleetServer(tmp_path_factory.mktemp("experiments") / "data").start()
        yield running
        assert running.stop() == 0, running.log.read_text()


def readings(rng: random.Random, number: int, **means: float) -> dict[str, list[float]]:
    names = {"disagreement": 0.02, "latency": 0.0, "errors": 0.0, "score": 0.0} | means
    spread = {"disagreement": 0.02, "latency": 0.05, "errors": 0.002, "score": 0.03}
    return {name: [rng.gauss(mean, spread[name]) for _ in range(number)] for name, mean in names.items()}


def test_a_candidate_like_the_own_model_is_as_good_and_others_are_worse() -> None:
    rng = random.Random(1)
    verdict, confidence, found = judge("shadow", CRITERIA, readings(rng, 200))
    assert verdict == "as-good", found
    assert 0.95 <= confidence < 1
    for name, mean in {"disagreement": 0.4, "latency": 0.6, "errors": 0.1, "score": -0.3}.items():
        expected = "worse" if name in ("latency", "errors") else "differs"
        verdict, confidence, found = judge("shadow", CRITERIA, readings(rng, 200, **{name: mean}))
        assert verdict == expected, (name, found)
        assert found[name]["verdict"] == expected
        assert confidence >= 0.95


@pytest.mark.parametrize(
    ("better", "shift", "verdict"),
    [
        ("higher", 0.3, "as-good"),
        ("higher", -0.3, "worse"),
        ("lower", -0.3, "as-good"),
        ("lower", 0.3, "worse"),
    ],
)
def test_a_metric_with_a_direction_can_be_worse(better: str, shift: float, verdict: str) -> None:
    """Without a direction either shift of the score only says that the models differ."""
    rng = random.Random(3)
    values = readings(rng, 200, score=shift)
    assert judge("shadow", CRITERIA, values)[0] == "differs"
    named = Criteria.model_validate({"metrics": [{"name": "score", "better": better, "tolerance": 0.1}]})
    found, _confidence, findings = judge("shadow", named, values)
    assert found == verdict
    assert (findings["score"]["judges"], findings["score"]["better"]) == (True, better)


def test_labels_say_which_of_two_models_is_right() -> None:
    values = readings(random.Random(4), 200, disagreement=0.4)
    assert judge("shadow", CRITERIA, values)[0] == "differs"
    right = weigh([0.5] * 12 + [1.0], [1.0] * 12 + [0.5], 0.05, paired=True)
    assert (right["right"], right["candidate_right"], right["own_right"]) == ("candidate", 12, 1)
    verdict, confidence, _found = judge("shadow", CRITERIA, values, said(right))
    assert verdict == "better"
    assert 0.95 <= confidence < 1
    wrong = weigh([1.0] * 9, [0.0] * 9, 0.05, paired=True)
    assert judge("shadow", CRITERIA, values, said(wrong))[0] == "worse"
    slow = readings(random.Random(4), 200, latency=0.6)
    assert judge("shadow", CRITERIA, slow, said(right))[0] == "worse", "right, but slower than tolerated"
    assert weigh([1.0] * 4, [0.0] * 4, 0.05, paired=True)["right"] == "", "four pictures are too few"
    assert weigh([], [], 0.05, paired=False)["right"] == ""
    assert weigh([0.2, 0.4] * 20, [0.9, 1.0] * 20, 0.05, paired=False)["right"] == "candidate"


def test_chance_seldom_looks_like_a_better_model() -> None:
    """Looking after every picture of two equally good models is wrong in at most 5 % of all experiments."""
    wrong = 0
    for trial in range(200):
        rng, wins, losses = random.Random(trial), 0, 0
        for _picture in range(150):
            win = rng.random() < 0.5
            wins, losses = wins + win, losses + (not win)
            if max(evidence(wins, losses), evidence(losses, wins)) >= 40:
                wrong += 1
                break
    assert wrong <= 16, wrong


def test_too_few_readings_decide_nothing() -> None:
    rng = random.Random(2)
    for number in (0, 1, 19):
        verdict, confidence, _found = judge("shadow", CRITERIA, readings(rng, number, disagreement=0.9))
        assert (verdict, confidence) == ("undecided", 0.0)


def test_looking_after_every_reading_is_seldom_wrong() -> None:
    """At the edge of what is tolerated either verdict is wrong; 5 % may be, and 60 trials show it roughly."""
    wrong = 0
    for trial in range(60):
        rng = random.Random(trial)
        values = [rng.gauss(0.1, 0.05) for _ in range(300)]
        only = Criteria.model_validate(
            {"latency_ratio": None, "error_rate": None, "score_shift": None, "results_ratio": None}
        )
        wrong += any(
            judge("shadow", only, {"disagreement": values[:n]})[0] != "undecided" for n in range(20, 301, 5)
        )
    assert wrong <= 7, wrong


def health(
    boot: str, frames: int, differing: int, inferences: int, errors: int, digest: str = "a"
) -> dict[str, Any]:
    slots = [
        {
            "slot": slot,
            "inferences": inferences,
            "errors": errors,
            "manifest_digest": digest,
            "latency": {"p50_ms": ms},
        }
        for slot, ms in (("own", 10.0), ("new", 12.0))
    ]
    stream = {"name": "gate", "comparison": {"frames": frames, "disagreements": differing}}
    return {"boot_id": boot, "models": slots, "streams": [stream, {"name": "other"}]}


COUNT = st.integers(0, 1000)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), COUNT, COUNT, COUNT, COUNT, st.sampled_from("xy")), max_size=8)
)
def test_no_sequence_of_reports_gives_an_impossible_reading(reports: list[tuple[Any, ...]]) -> None:
    seen = [counters_of(health(*report), "own", "new", ["gate"]) for report in reports]
    for before, after in pairwise(seen):
        if comparable(before, after):
            check_reading(*reading(before, after))


@given(st.lists(st.tuples(COUNT, COUNT, COUNT, COUNT), min_size=2, max_size=8))
def test_counters_that_only_grow_give_a_reading_each(steps: list[tuple[int, ...]]) -> None:
    totals = list(accumulate(steps, lambda total, step: tuple(map(add, total, step))))
    seen = [counters_of(health("a", *total), "own", "new", ["gate"]) for total in totals]
    for before, after in pairwise(seen):
        assert comparable(before, after)
        frames, values = reading(before, after)
        check_reading(frames, values)
        assert frames >= after["frames"] - before["frames"]
    for changed in (health("b", *totals[-1]), health("a", *totals[-1], digest="other")):
        assert not comparable(seen[-1], counters_of(changed, "own", "new", ["gate"]))


def check_reading(frames: int, values: dict[str, float]) -> None:
    assert frames >= 0
    assert 0 <= values.get("disagreement", 0) <= 1
    assert -1 <= values.get("errors", 0) <= 1


class Comparing(SimDevice):
    """A device that applies its shadow as the agent does and reports both models."""

    desired: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    differs = 0.0
    frames = 0

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        super()._on_message(client, data, message)
        topic = parse(message.topic)
        if topic.kind == "shadow/name/+/update/delta":
            before, self.desired = self.desired, merge(self.desired, json.loads(message.payload)["state"])
            update = {"state": {"reported": with_removals(self.desired, removals(before, self.desired))}}
            client.publish(self.topics.base + "/shadow/name/config/update", json.dumps(update), 1)

    def report(self) -> None:
        candidate = self.desired.get("streams", {}).get("cam", {}).get("candidate")
        self.frames += 50 if candidate else 0
        compared = {
            "frames": self.frames,
            "disagreements": round(self.frames * self.differs),
            "agreement": None,
        }
        stream = StreamHealth(
            name="cam", state="running", model="m", fps=10, comparison=compared if candidate else None
        )
        slots = ["m", *self.desired.get("models", {})]
        models = [
            ModelHealth(slot=slot, name="cand", version="1", state="running", inferences=100 + self.frames,
                        latency=StageLatency(p50_ms=8, p99_ms=9), score_mean=0.7)
            for slot in slots
        ]  # fmt: skip
        now = datetime.now(UTC)
        message = Health(
            boot_id=self.boot,
            session_seq=self.seq,
            time=now,
            target=self.target,
            streams=[stream],
            models=models,
        )
        self.mqtt.publish(self.topics.health, encode(message), 1)


def test_a_shadow_experiment_reaches_its_verdict_and_leaves_the_device_as_it_was(
    server: FleetServer, push: Callable[..., str]
) -> None:
    push("cand", "2")
    camera = Comparing(server.enroll("comparer"))
    camera.start()
    camera.differs = 0.5
    try:
        body = {
            "model": "cand", "version": "2", "slot": "m", "scope": {"kind": "device", "name": "comparer"},
            "plan": {"share": 0.5, "duration_s": 600, "criteria": {"score_shift": None}},
        }  # fmt: skip
        with server.client() as client:
            camera.report()
            number = client.post("/experiments", body)["id"]
            again = httpx.post(
                f"{server.url}/api/v1/experiments",
                json=body,
                headers={"Authorization": f"Bearer {server.token}"},
            )
            assert again.status_code == 409, "a device is in one experiment at a time"

            def verdict() -> Any:
                camera.report()
                found = client.get(f"/experiments/{number}")
                return found if found["state"] == "ENDED" else None

            found = wait_for(verdict, 120, "a verdict")
            assert found["verdict"] == "differs", found
            assert found["criteria"]["disagreement"]["verdict"] == "differs"
            assert found["criteria"]["errors"]["verdict"] != "worse"
            assert found["devices"] == {"DONE": 1}
            assert camera.jobs_done, "the candidate was fetched by a job"
        wait_for(
            lambda: camera.desired == {"models": {}, "streams": {"cam": {}}},
            what="the shadow to be taken back",
        )
    finally:
        camera.stop()


def test_a_device_that_cannot_take_the_candidate_ends_the_experiment(
    server: FleetServer, push: Callable[..., str]
) -> None:

    push("refused", "2")
    camera = Comparing(server.enroll("refuser"))
    camera.outcome = lambda _document: JobState.FAILED
    camera.start()
    try:
        camera.report()
        body = {
            "model": "refused",
            "version": "2",
            "slot": "m",
            "scope": {"kind": "device", "name": "refuser"},
        }
        with server.client() as client:
            number = client.post("/experiments", body)["id"]
            found = wait_for(
                lambda: (row := client.get(f"/experiments/{number}"))["state"] == "ENDED" and row,
                60,
                "the end",
            )
            assert "no device could take" in found["reason"]
            device = client.get(f"/experiments/{number}/devices")["items"][0]
            assert (device["state"], device["detail"]) == ("FAILED", "simulated FAILED")
    finally:
        camera.stop()
