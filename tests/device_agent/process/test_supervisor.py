"""The supervisor of child processes: starts, watches, kills, reaps and restarts them."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from edgec.device_agent.health.report import descriptors
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.messages import decoder
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.process.supervisor import Exit, StartMessage, Supervisor
from tests.device_agent.process.children import Begin, Said

SAID: msgspec.json.Decoder[Said] = decoder(Said)
AT_ONCE = RetryPolicy(0.0, 0.0)


class Parent:
    """Records what a supervisor reports of its child."""

    def __init__(self, behaviour: str, restarts: int = 0) -> None:
        self.behaviour, self.left = behaviour, restarts
        self.loop = Loop()
        self.said: list[str] = []
        self.exits: list[Exit] = []
        self.supervisor = Supervisor(
            self.loop, "test", "tests.device_agent.process.children", SAID,
            first=self.first, on_message=self.heard, on_exit=self.exited, retry=AT_ONCE,
        )  # fmt: skip

    def first(self) -> StartMessage:
        return Begin(self.behaviour), (0,)

    def heard(self, message: Said) -> None:
        self.said.append(message.text)

    def exited(self, how: Exit) -> bool:
        self.exits.append(how)
        self.left -= 1
        return self.left >= 0

    def wait(self, exits: int) -> None:
        assert self.loop.run_until(lambda: len(self.exits) >= exits, 60)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[None]:
    """The child imports this folder's module."""
    monkeypatch.chdir(pytestconfig.rootpath)
    before = descriptors()
    yield
    # Each test's loop leaves its selector and its eventfd to the garbage collector.
    assert descriptors() - before <= 3


def test_a_child_is_started_heard_and_reaped() -> None:
    parent = Parent("fail")
    parent.supervisor.start()
    pid = parent.supervisor.pid
    assert pid is not None
    parent.wait(1)
    assert parent.said == ["fail with 1 descriptors"]
    assert parent.exits == [Exit(3)]
    assert str(parent.exits[0]) == "ended with status 3"
    assert not parent.supervisor.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_crash_is_told_and_the_child_started_again() -> None:
    parent = Parent("crash", restarts=2)
    parent.supervisor.start()
    parent.wait(3)
    assert parent.exits == [Exit(-signal.SIGSEGV)] * 3
    assert parent.said == ["crash with 1 descriptors"] * 3
    assert parent.supervisor.restarts == 2


def test_a_hanging_child_meets_its_deadline() -> None:
    parent = Parent("hang")
    parent.supervisor.start()
    parent.supervisor.kill_after(0.2, "no answer in time")
    parent.wait(1)
    assert parent.exits == [Exit(-signal.SIGKILL, "no answer in time")]
    assert str(parent.exits[0]) == "was killed: no answer in time"


def test_a_deadline_ends_with_its_child() -> None:
    parent = Parent("fail", restarts=1)
    parent.supervisor.start()
    parent.supervisor.kill_after(30.0, "no answer in time")
    parent.wait(1)
    assert parent.supervisor._deadline is None
    parent.wait(2)
    assert [how.reason for how in parent.exits] == ["", ""]


def test_a_malformed_message_is_logged_and_the_child_reaped(caplog: pytest.LogCaptureFixture) -> None:
    parent = Parent("nonsense")
    with caplog.at_level(logging.ERROR):
        parent.supervisor.start()
        parent.wait(1)
    assert "after it" in parent.said
    assert any("nonsense" in (record.exc_text or record.getMessage()) for record in caplog.records)


def test_no_restart_lets_the_child_end_by_itself() -> None:
    parent = Parent("fail", restarts=5)
    parent.supervisor.start()
    parent.supervisor.no_restart()
    parent.wait(1)
    parent.supervisor.start()
    assert not parent.supervisor.running


def test_close_reaps_without_a_word() -> None:
    parent = Parent("hang", restarts=5)
    parent.supervisor.start()
    pid = parent.supervisor.pid
    assert pid is not None
    parent.supervisor.close()
    assert parent.exits == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_messages_to_a_child_that_is_gone_are_dropped() -> None:
    parent = Parent("fail")
    parent.supervisor.send(Begin("nobody hears"))
    parent.supervisor.start()
    parent.wait(1)
    parent.supervisor.send(Begin("nobody hears"))
