"""Ring, tracker, zones, rules, gate, sources and budgets, each on its own."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.capture.sources import open_source, resample
from edgec.device_agent.config.rules import Gate, Rule, Tracker
from edgec.device_agent.config.settings import BudgetSection, StreamSection
from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.errors import SourceError
from edgec.device_agent.health.budgets import BudgetKeeper
from edgec.device_agent.health.report import descriptors
from edgec.device_agent.inference.comparison import agreement
from edgec.device_agent.inference.findings import BrokenOutput, Findings, findings_of
from edgec.device_agent.inference.gate import GateKeeper, level_dbfs
from edgec.device_agent.inference.rules import RuleBook, crossing, inside
from edgec.device_agent.inference.tracker import Seen, Track
from edgec.device_agent.inference.tracker import Tracker as Joined
from edgec.device_agent.process.log import redact
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.ring import Frame, Kind, Ring
from edgec.runtime import Box, Detection
from tests.device_agent.harness import note


@settings(max_examples=150, deadline=None)
@given(st.integers(3, 6), st.booleans(), st.lists(st.sampled_from("wcatrxy"), max_size=60))
def test_the_ring_s_counters_add_up_whatever_happens(slots: int, newest: bool, steps: list[str]) -> None:
    ring = Ring.create(slots, 64)
    writing: list[int] = []
    reading: list[Frame] = []
    seen: list[int] = []
    for step in steps:
        if step == "w" and not writing and (slot := ring.begin(newest=newest)) is not None:
            writing.append(slot)
        elif step == "c" and writing:
            ring.commit(writing.pop(), 4, 5)
        elif step == "a" and writing:
            ring.abandon(writing.pop())
        elif step == "t" and not reading and (frame := ring.take(newest=newest)):
            reading.append(frame)
            seen.append(frame.number)
        elif step == "r" and reading:
            ring.release(reading.pop())
        elif step == "x":
            ring.recover_writer()
            writing.clear()
        elif step == "y":
            ring.recover_reader()
            reading.clear()
        counters = ring.counters()
        assert counters.captured == counters.processed + counters.dropped + counters.in_flight
        assert counters.dropped >= 0
    assert seen == sorted(set(seen))
    if not newest and "y" not in steps:
        assert seen == list(range(len(seen)))
        assert ring.counters().dropped == 0
    ring.close()


class Deadly:
    """A ring's words; the process is killed before it writes one of them."""

    def __init__(self, words: memoryview, place: int) -> None:
        self._words, self._left = words, place

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        self._words[at] = value


@pytest.mark.parametrize("newest", [True, False])
def test_the_ring_s_counters_add_up_after_a_death_at_any_write(newest: bool) -> None:
    for place in itertools.count(1):
        ring = Ring.create(3, 64)
        if not (child := os.fork()):
            mine = Ring(ring.fd)
            mine._words = Deadly(mine._words, place)  # type: ignore[assignment]
            for _ in range(3):
                for _ in range(2):
                    slot = mine.begin(newest=newest)
                    assert slot is not None
                    mine.commit(slot, 4, 5)
                while frame := mine.take(newest=newest):
                    mine.release(frame)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ring.recover_writer()
        ring.recover_reader()
        counters = ring.counters()
        assert 0 <= counters.in_flight <= 2
        assert counters.captured == counters.processed + counters.dropped + counters.in_flight
        # One more than without the death: the frame that it took along.
        assert 0 <= counters.dropped <= (counters.captured // 2 + 1 if newest else 1), (place, counters)
        ring.close()
        if status == 0:
            assert place > 60, "it lived to the end"
            return
        assert status == -signal.SIGKILL


def test_a_frame_crosses_as_it_is() -> None:
    ring = Ring.create(3, 1000)
    other = Ring(os.dup(ring.fd))
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    slot = ring.begin(newest=True)
    assert slot is not None
    ring.picture(slot, 4, 5)[:] = picture
    ring.commit(slot, 4, 5)
    frame = other.take(newest=True)
    assert frame is not None
    assert np.array_equal(frame.data, picture)
    with pytest.raises(ValueError, match="does not fit"):
        ring.memory(0, 2000)


def box(left: float, top: float = 0.0, size: float = 20.0) -> tuple[float, float, float, float]:
    return (left, top, left + size, top + size)


def test_tracks_keep_their_ids_through_crossings_and_weak_frames() -> None:
    tracker = Joined(Tracker(confirm=2, lost_s=0.5), "t")
    ids: dict[int, set[str]] = {0: set(), 1: set()}
    for step in range(40):
        now = step * 0.1
        seen = [
            Seen("a", 0, 0.9 if step % 3 else 0.3, box(step * 3.0)),
            Seen("b", 1, 0.9, box(120 - step * 3.0)),
        ]
        tracker.update(seen, now, 0)
        for track in tracker.confirmed(now):
            ids[track.class_id].add(track.id)
    assert [len(one) for one in ids.values()] == [1, 1]
    change = tracker.update([], 10.0, 0)
    assert len(change.ended) == 2
    assert not tracker.tracks


def test_a_flicker_is_no_track() -> None:
    tracker = Joined(Tracker(confirm=3), "t")
    assert not tracker.update([Seen("a", 0, 0.9, box(0))], 0.0, 0).new
    assert not tracker.update([], 0.1, 0).new
    assert not tracker.tracks


def track(name: str, left: float, top: float = 0.0, score: float = 0.9) -> Track:
    return Track(name, "person", 0, score, box(left, top), 0.0, 0, 0.0, score, 3, True)


@given(st.floats(0, 1), st.floats(0, 1))
def test_inside_a_square(across: float, down: float) -> None:
    square = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]
    if 0.26 < across < 0.74 and 0.26 < down < 0.74:
        assert inside((across, down), square)
    if not (0.24 < across < 0.76 and 0.24 < down < 0.76):
        assert not inside((across, down), square)


def test_crossings_have_a_side() -> None:
    line = ((0.0, 0.5), (1.0, 0.5))
    assert crossing((0.5, 0.6), (0.5, 0.4), line) == "in"
    assert crossing((0.5, 0.4), (0.5, 0.6), line) == "out"
    assert crossing((0.5, 0.6), (0.5, 0.7), line) is None
    assert crossing((1.5, 0.6), (1.5, 0.4), line) is None


def fire(rule: Rule, steps: list[list[Track]], zone: str = "z") -> list[tuple[str, float]]:
    book = RuleBook([rule], "r-")
    found = []
    for number, tracks in enumerate(steps):
        zones = {one.id: [zone] for one in tracks}
        found += [(f.phase, f.value) for f in book.update(tracks, zones, float(number), (100.0, 100.0))]
    return found + [(f.phase, f.value) for f in book.finish(float(len(steps)))]


def test_every_kind_of_rule() -> None:
    one, two = track("1", 0), track("2", 50)
    assert fire(Rule(name="p", kind="presence", zone="z"), [[], [one], [one], []]) == [("new", 1), ("end", 0)]
    assert fire(Rule(name="d", kind="dwell", zone="z", seconds=2), [[one]] * 4 + [[]]) == [
        ("new", 2),
        ("end", 4),
    ]
    assert fire(Rule(name="d", kind="dwell", zone="z", seconds=2), [[one], [], [one], []]) == []
    assert fire(Rule(name="c", kind="count", at_least=2), [[one], [one, two], [one]]) == [
        ("new", 2),
        ("end", 1),
    ]
    low, high = track("1", 0, score=0.2), track("1", 0, score=0.9)
    score = Rule(name="s", kind="score", score=0.5, n=2, m=3)
    assert fire(score, [[high], [low], [high], [low], [low], [low]]) == [("new", 2), ("end", 0)]
    line = Rule(name="l", kind="line", line=((0.0, 0.5), (1.0, 0.5)))
    assert fire(line, [[track("1", 40, 10)], [track("1", 40, 50)], [track("1", 40, 10)]]) == [
        ("new", 1),
        ("new", 1),
    ]


def frame(data: np.ndarray, kind: Kind = Kind.PICTURE) -> Frame:
    return Frame(0, 0, data, kind, 16000, 0, 0)


def test_a_gate_opens_for_motion_and_holds() -> None:
    gate = GateKeeper(Gate(hold_s=1.0, refresh_s=100.0))
    still = np.full((120, 160, 3), 80, np.uint8)
    moved = still.copy()
    moved[40:80, 40:80] = 250
    assert gate.passes(frame(still), 0.0)  # the first one is news
    assert not gate.passes(frame(still), 2.0)
    assert gate.passes(frame(moved), 3.0)
    assert gate.passes(frame(still), 3.5)
    for number in range(60):
        gate.passes(frame(still), 5.0 + number)
    assert not gate.passes(frame(still), 66.0)
    assert gate.passes(frame(still), 200.0)  # the refresh


def test_loudness() -> None:
    seconds = np.arange(16000) / 16000
    sine = np.sin(2 * math.pi * 440 * seconds).astype(np.float32)
    assert level_dbfs(sine) == pytest.approx(-3.01, abs=0.01)
    gate = GateKeeper(Gate(kind="level", level_dbfs=-40, hold_s=0.1, refresh_s=1000))
    quiet = (sine * 1e-4)[:, None]
    gate.passes(frame(quiet, Kind.SOUND), 0.0)
    assert not gate.passes(frame(quiet, Kind.SOUND), 5.0)
    assert gate.passes(frame((sine * 0.1)[:, None], Kind.SOUND), 6.0)


def test_nan_is_refused_and_models_are_compared() -> None:
    good = Detection(Box(0, 0, 10, 10), "a", 0, 0.9)
    with pytest.raises(BrokenOutput):
        findings_of([Detection(Box(0, 0, 10, 10), "a", 0, float("nan"))], "detection")
    with pytest.raises(BrokenOutput):
        findings_of([Detection(Box(0, math.inf, 10, 10), "a", 0, 0.5)], "detection")
    left = findings_of([good], "detection")
    assert agreement(left, findings_of([good], "detection")) == 1.0
    assert agreement(left, findings_of([Detection(Box(50, 50, 60, 60), "a", 0, 0.9)], "detection")) == 0.0
    assert agreement(Findings(), Findings()) == 1.0


def test_sound_files_keep_their_pitch(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    rate = 8000
    sine = np.sin(2 * math.pi * 500 * np.arange(rate) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sine * 20000).astype("<i2").tobytes())
    source = open_source(SourceSettings(kind="sound", path=path, loop=False, pace="fast"), 5)
    chunks = []
    while (chunk := source.read(None)) is not None:
        chunks.append(chunk)
    samples = np.concatenate(chunks)[:, 0]
    assert chunks[0].shape == (1280, 1)
    peak = np.argmax(np.abs(np.fft.rfft(samples[:16000])))
    assert peak == pytest.approx(500, abs=1)
    assert np.allclose(resample(resample(sine.astype(np.float32), 8000, 16000), 16000, 8000), sine, atol=1e-3)


def test_sources_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for section, word in (
        (SourceSettings(kind="file", path=tmp_path / "none.mp4"), "none.mp4"),
        (SourceSettings(kind="file", path=tmp_path / "text.mp4"), "text.mp4"),
        (SourceSettings(kind="folder", path=tmp_path / "empty"), "holds no pictures"),
        (SourceSettings(kind="sound", path=tmp_path / "none.wav"), "none.wav"),
        (SourceSettings(kind="camera", index=97), "/dev/video97"),
    ):
        with pytest.raises(SourceError, match=word):
            open_source(section, 2)


def test_secrets_do_not_reach_the_log() -> None:
    for text in (
        "rtsp://admin:hunter2@10.0.0.1/live", "token=hunter2 rest", '{"password": "hunter2"}',
        "Authorization: Bearer hunter2",
    ):  # fmt: skip
        assert "hunter2" not in redact(text)
    assert redact("nothing to hide: 7 tokens") == "nothing to hide: 7 tokens"


class Stream:
    def __init__(self, priority: int, fps: float) -> None:
        self.priority, self.full, self.throttled = priority, fps, None

    @property
    def fps(self) -> float:
        return min(self.full, self.throttled or self.full)

    def throttle(self, fps: float | None) -> None:
        self.throttled = fps


def test_a_budget_slows_the_least_important_first_and_lets_it_recover() -> None:
    streams = {"door": Stream(9, 20.0), "yard": Stream(1, 20.0)}
    keeper = BudgetKeeper(BudgetSection(cpu_percent=110))

    def load() -> float:
        return 5.0 * sum(one.fps for one in streams.values())

    said = [keeper.check(streams, load(), 0, None) for _ in range(10)]
    assert "yard" in said[1]
    assert load() <= 110
    assert streams["door"].throttled is None
    streams["door"].full = 4.0  # the door became cheap: there is room again
    for _ in range(40):
        keeper.check(streams, load() / 4, 0, None)
    assert streams["yard"].throttled is None


def own_memory() -> int:
    """Anonymous memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def turn(loop: Loop, done: Callable[[], bool]) -> bool:
    """Turn the loop until something holds that is no event of it."""
    return any(loop.run_until(done, 0.05) for _ in range(1200))


def test_a_camera_that_is_not_there_leaves_our_own_words_only(capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    runner = StreamRunner("cam", StreamSection.model_validate({"source": "camera:97"}), loop, lambda _: None)
    runner.start()
    assert turn(loop, lambda: runner.state == "failed")
    assert "/dev/video97" in runner.message
    runner.close()
    said = capfd.readouterr().err
    assert "VIDEOIO" not in said, said


@pytest.mark.timeout(900)
@pytest.mark.parametrize("times", [4, pytest.param(500, marks=pytest.mark.long)])
def test_a_camera_that_comes_and_goes_leaks_nothing(times: int) -> None:
    loop = Loop()
    settings = StreamSection.model_validate({"source": {"kind": "test", "pace": "fast"}, "policy": "newest"})
    runner = StreamRunner("cam", settings, loop, lambda _: None)
    before = own = 0
    for number in range(times):
        began = time.monotonic()
        if runner.pid is None:
            runner.start()
        seen = runner.ring.counters().captured
        assert turn(loop, lambda n=seen: runner.ring.counters().captured > n)
        if number == 1:
            before, own = descriptors(), own_memory()
        assert runner.pid is not None
        os.kill(runner.pid, signal.SIGKILL)
        runner._attempt = 0
        assert turn(loop, lambda n=number: runner.restarts > n)
        assert turn(loop, lambda: runner.pid is not None)
        note("camera that goes and comes back", time.monotonic() - began, None)
    counters = runner.ring.counters()
    assert counters.captured == counters.processed + counters.dropped + counters.in_flight
    assert runner.restarts == times
    assert descriptors() <= before
    print(f"{times} times: {descriptors() - before} descriptors and {own_memory() - own} bytes more")
    assert own_memory() - own < 4 << 20
    runner.close()
