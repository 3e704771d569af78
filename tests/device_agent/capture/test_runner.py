"""Capture processes: killed, restarted, and gone without a trace."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgec.device_agent.capture import runner as runner_module
from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.health.report import descriptors
from edgec.device_agent.process.loop import Loop
from tests.device_agent.harness import note


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


def stopped_at_its_start(loop: Loop) -> StreamRunner:
    """A stream whose process makes no progress: as on a machine where loading OpenCV takes minutes."""
    settings = StreamSection.model_validate({"source": {"kind": "test"}, "open_timeout_s": 0.1})
    runner = StreamRunner("cam", settings, loop, lambda _: None)
    runner.start()
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGSTOP)
    return runner


def test_a_process_that_takes_long_to_start_is_not_a_source_that_does_not_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "_FIRST_FRAME_S", 0.1)
    loop = Loop()
    runner = stopped_at_its_start(loop)
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        loop.run_until(lambda: False, 0.05)
        runner.tick()
    assert runner.state == "starting"
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGCONT)
    assert turn(loop, lambda: runner.ring.counters().captured > 0)
    assert runner.restarts == 0
    runner.close()


def test_a_process_that_never_starts_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "_START_S", 0.3)
    loop = Loop()
    runner = stopped_at_its_start(loop)
    assert turn(loop, lambda: runner.tick() or runner.state == "stalled")
    assert turn(loop, lambda: runner.restarts == 1)
    runner.close()


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
        runner._process.healthy()  # the waits would grow to half a minute
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
