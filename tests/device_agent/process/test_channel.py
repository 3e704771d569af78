"""Channels: typed messages and descriptors cross whole; what is unknown or malformed is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgec.device_agent.capture.messages import (
    FROM_CAPTURE,
    START_CAPTURE,
    LimitRate,
    SourceFailed,
    StartCapture,
)
from edgec.device_agent.config.source_settings import SourceSettings
from edgec.device_agent.health.report import descriptors
from edgec.device_agent.inference.messages import (
    FROM_INFERENCE,
    TO_INFERENCE,
    AddStream,
    DetectionFound,
    LoadModel,
    Report,
    SlotCounters,
)
from edgec.device_agent.process.channel import Channel, ChannelClosed, MalformedMessage


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_come_out_as_they_went_in(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    source = SourceSettings(kind="file", path=Path("/films/a.mp4"), fps=12.5)
    start = StartCapture("door", source, "newest", None, 30.0)
    ours.send(start)
    assert theirs.receive(START_CAPTURE)[0] == start
    for message in (
        LoadModel("m", "/store", "sha256:0", None, key="1.2"),
        AddStream("door", {"source": {"kind": "test"}}, True),
    ):
        ours.send(message)
        assert theirs.receive(TO_INFERENCE)[0] == message
    report = Report("1.3", 2, slots={"m": SlotCounters()})
    theirs.send(report)
    assert ours.receive(FROM_INFERENCE)[0] == report


def test_numbers_of_numpy_cross_as_numbers(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.send(DetectionFound("door", "1", True, {"score": np.float64(0.5), "count": np.int64(3)}))
    message, _ = theirs.receive(FROM_INFERENCE)
    assert isinstance(message, DetectionFound)
    assert message.data == {"score": 0.5, "count": 3}


def test_descriptors_travel_along(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    event = os.eventfd(7)
    ours.send(LimitRate(None), (event,))
    os.close(event)
    _, fds = theirs.receive(msgspec.json.Decoder(LimitRate))
    assert [os.eventfd_read(fd) for fd in fds] == [7]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"op":"explode"}', "explode"),
        (b'{"op":"sourcefailed"}', "message"),
        (b'{"op":"sourcefailed","message":5}', "str"),
        (b"[1]", "array"),
        (b"not json", "malformed"),
    ],
)
def test_unknown_and_malformed_messages_are_named(
    ends: tuple[Channel, Channel], data: bytes, problem: str
) -> None:
    ours, theirs = ends
    ours.socket.send(data)
    with pytest.raises(MalformedMessage, match=problem) as refused:
        theirs.receive(FROM_CAPTURE)
    assert data.decode() in str(refused.value)
    ours.send(SourceFailed("the next one is read all the same"))
    assert theirs.receive(FROM_CAPTURE)[0] == SourceFailed("the next one is read all the same")


def test_a_malformed_message_leaks_no_descriptor(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    before = descriptors()
    ours.send(LimitRate(1.0), (ours.fileno(),))
    with pytest.raises(MalformedMessage):
        theirs.receive(FROM_CAPTURE)
    assert descriptors() == before


def test_the_other_end_s_end_is_told(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(ChannelClosed):
        ours.receive(FROM_CAPTURE)
    with pytest.raises(ChannelClosed):
        ours.send(LimitRate(None))


def test_a_message_that_is_too_long_is_refused(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(ValueError, match="SourceFailed"):
        ends[0].send(SourceFailed("x" * 300_000))
