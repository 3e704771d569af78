"""The log says each thing once."""

from __future__ import annotations

import io
import logging

from edgec.device_agent.process.log import OnceHandler


def test_a_fault_of_each_event_is_one_line_with_a_count() -> None:
    now, stream = [0.0], io.StringIO()
    handler = OnceHandler(stream, clock=lambda: now[0])
    logger = logging.Logger("outbox")
    logger.addHandler(handler)
    for number in range(1000):
        logger.error("event %d cannot be written: the disk is full", number)
        now[0] += 0.01
    logger.error("another thing")
    assert len(stream.getvalue().splitlines()) == 2
    now[0] += 60
    logger.info("hello")
    assert "event 999 cannot be written: the disk is full (999 such messages in 70 s)" in stream.getvalue()
    logger.error("event 1000 cannot be written: the disk is full")
    handler.close()
    assert "(1 such messages" in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 5


def test_entries_that_differ_in_words_are_all_there() -> None:
    stream = io.StringIO()
    logger = logging.Logger("agent")
    logger.addHandler(OnceHandler(stream))
    for what in ("outbox", "metrics", "outbox"):
        logger.error("%s: %s", what, "broken")
    assert stream.getvalue().splitlines() == ["outbox: broken", "metrics: broken"]
