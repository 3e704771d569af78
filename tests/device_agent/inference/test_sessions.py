"""A model with states in the pipelines of streams: one session a stream, which begins anew after a gap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.inference.pipeline import Pipeline
from edgec.device_agent.inference.slots import Loaded, load_model
from edgec.device_agent.process.ring import Frame, Kind
from edgec.runtime.artifact.config import StateSpec
from edgec.runtime.gpu.fault import GpuFault
from tests.runtime.conftest import compiled, spec

SECOND = 1_000_000_000
RATE, WINDOW = 1000, 10
LABELS = ["first", "second", "third", "fourth"]
CARDS = {
    "picture": {"kind": "image", "width": 4, "height": 4, "colour": "gray"},
    "sound": {"kind": "audio", "sample_rate": RATE, "window_s": WINDOW / RATE},
}
SHAPES = {"picture": (1, 1, 4, 4), "sound": (1, WINDOW)}


def _counting(folder: Path, kind: str) -> Path:
    """A model whose run number n says the n-th label; what it sees only has to be numbers."""
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from tvm import relax

    turn = np.roll(np.eye(len(LABELS), dtype=np.float32), 1, axis=1)

    def emit(builder: Any, inputs: Any) -> Any:
        x, now = inputs
        nothing = builder.emit(relax.op.sum(relax.op.multiply(x, relax.const(np.float32(0)))))
        scores = builder.emit(relax.op.add(now, nothing))
        return relax.Tuple([scores, builder.emit(relax.op.matmul(scores, relax.const(turn)))])

    shape = (1, len(LABELS))
    built = compiled(
        emit, [spec("x", SHAPES[kind]), spec("now", shape)], [spec("y", shape), spec("then", shape)]
    )
    state = StateSpec(input="now", output="then", shape=shape, dtype="float32", initial="initial:now")
    decoder = {"decoder": "classification" if kind == "picture" else "keyword", "activation": "none"}
    card = msgspec.convert(
        {"input": CARDS[kind], "output": decoder | {"threshold": 0.5}, "labels": LABELS}, rt.ModelCard
    )
    path = folder / "counting.edge"
    rt.write_artifact(
        path,
        config=msgspec.structs.replace(built.config, states=(state,), pipeline=card),
        code=built.code,
        weights=built.weights | {"initial:now": np.eye(1, len(LABELS), dtype=np.float32)},
    )
    return path


@pytest.fixture(scope="module", params=["picture", "sound"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _counting(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def model(artifact: Path) -> Iterator[Loaded]:
    loaded = load_model(str(artifact), None, 1)
    yield loaded
    loaded.model.close()


class Feed:
    """A stream's pipeline, and the labels that it has found."""

    def __init__(self, loaded: Loaded, name: str = "door") -> None:
        source = {"kind": "test"} if _kind(loaded) is Kind.PICTURE else {"kind": "microphone"}
        settings = StreamSection.model_validate({"source": source, "model": "m", "state_gap_s": 2.0})
        self.pipeline = Pipeline(name, settings, "t-", lambda *_: None, lambda _: None)
        self.number = self.at = 0

    def __call__(self, loaded: Loaded, *, after_s: float = 0.1, skip: int = 0) -> str:
        """Give the next frame; returns the label that the model found, or why it failed."""
        self.number += 1 + skip
        self.at += round(after_s * SECOND)
        kind = _kind(loaded)
        data: Any = (
            np.zeros((4, 4, 3), np.uint8) if kind is Kind.PICTURE else np.zeros((WINDOW, 1), np.float32)
        )
        frame = Frame(0, self.number, data, kind, RATE, self.at, self.at)
        self.pipeline._seen = []
        self.pipeline.process(frame, loaded, lambda _: None)
        return self.pipeline._seen[0].label if self.pipeline._seen else self.pipeline.message


def _kind(loaded: Loaded) -> Kind:
    return Kind.SOUND if loaded.card.input.kind == "audio" else Kind.PICTURE


def test_each_stream_remembers_its_own_frames(model: Loaded) -> None:
    door, yard = Feed(model, "door"), Feed(model, "yard")
    assert [door(model), door(model), yard(model), door(model)] == ["first", "second", "first", "third"]
    assert yard(model) == "second"


def test_it_begins_anew_after_a_gap_in_time(model: Loaded) -> None:
    door = Feed(model)
    assert [door(model), door(model, after_s=1.9), door(model, after_s=2.1), door(model)] == [
        "first", "second", "first", "second",
    ]  # fmt: skip


def test_a_missing_chunk_of_sound_is_a_gap_and_a_dropped_picture_is_none(model: Loaded) -> None:
    door = Feed(model)
    after = "first" if _kind(model) is Kind.SOUND else "third"
    assert [door(model), door(model), door(model, skip=1)] == ["first", "second", after]


def test_a_failed_run_does_not_poison_the_state(model: Loaded) -> None:
    door = Feed(model)
    assert [door(model), door(model)] == ["first", "second"]
    session = door.pipeline._sessions._open[model.digest].session
    calls = session._variants[0].state_calls()
    session._states = [calls.put(np.full((1, len(LABELS)), np.nan, np.float32))]
    assert "contains NaN" in door(model)
    assert door.pipeline.errors == 1
    assert [door(model), door(model)] == ["first", "second"]


def test_a_gpu_that_accepts_nothing_more_of_the_process_ends_it(
    model: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other faults cost their frame only; after this one the supervisor has to start another process."""
    door = Feed(model)
    faults = [GpuFault("a kernel failed", lost=True), GpuFault("start anew", lost=True, ends_process=True)]

    def fail(*_: object) -> None:
        raise faults.pop(0)

    monkeypatch.setattr(door.pipeline, "_results", fail)
    assert door(model) == "GpuFault: a kernel failed"
    with pytest.raises(GpuFault, match="start anew"):
        door(model)


def test_a_model_that_takes_over_begins_anew(model: Loaded, artifact: Path) -> None:
    door = Feed(model)
    assert [door(model), door(model)] == ["first", "second"]
    other = load_model(str(artifact), None, 1)
    assert [door(other), door(other)] == ["first", "second"]
    other.model.close()
