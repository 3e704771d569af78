"""The supervisor's loop: timers in order, calls from other threads, and errors that end nothing."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from edgec.device_agent.process.loop import Loop


def test_timers_fire_in_order_and_can_be_cancelled() -> None:
    loop, fired = Loop(), []
    loop.call_later(0.02, lambda: fired.append("second"))
    loop.call_later(0.01, lambda: fired.append("first"))
    loop.call_later(0.015, lambda: fired.append("never")).cancel()
    assert loop.run_until(lambda: len(fired) == 2, 30)
    assert fired == ["first", "second"]


def test_calls_from_other_threads_run_in_the_loop_s() -> None:
    loop, threads = Loop(), []
    worker = threading.Thread(target=lambda: loop.post(lambda: threads.append(threading.get_ident())))
    worker.start()
    assert loop.run_until(lambda: bool(threads), 30)
    worker.join()
    assert threads == [threading.get_ident()]


def test_a_reader_that_an_earlier_callback_removed_is_not_called() -> None:
    loop, called = Loop(), []
    first, second = os.eventfd(1), os.eventfd(1)

    def only(fd: int, other: int) -> None:
        called.append(fd)
        loop.remove_reader(fd)
        loop.remove_reader(other)

    loop.add_reader(first, lambda: only(first, second))
    loop.add_reader(second, lambda: only(second, first))
    assert loop.run_until(lambda: bool(called), 30)
    assert len(called) == 1
    assert loop.errors == 0
    os.close(first)
    os.close(second)


def test_an_unexpected_error_is_counted_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loop, after = Loop(), []
    loop.post(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    loop.post(lambda: after.append(True))
    with caplog.at_level(logging.ERROR):
        assert loop.run_until(lambda: bool(after), 30)
    assert loop.errors == 1
    assert "ZeroDivisionError" in caplog.text


def test_run_until_gives_up_in_time() -> None:
    assert not Loop().run_until(lambda: False, 0.01)
