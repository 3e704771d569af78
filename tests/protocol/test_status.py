"""Presence and health."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import ProtocolError
from edgec.protocol.status import CapturesHealth, Health, Presence, Status, StreamHealth

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def status(state: str, number: int) -> Status:
    return Status(state=Presence(state), boot_id="b", session_seq=number)


@pytest.mark.parametrize(
    ("message", "known", "news"),
    [
        (("online", 7), None, True),
        (("offline", 6), ("online", 7), False),  # a last will that the broker published late
        (("offline", 7), ("online", 7), True),
        (("stopped", 7), ("online", 7), True),
        (("online", 7), ("stopped", 7), False),
        (("offline", 7), ("stopped", 7), False),  # the device has said goodbye: the will is no news
        (("online", 8), ("offline", 7), True),
        (("online", 7), ("online", 7), False),
    ],
)
def test_a_late_will_does_not_replace_the_current_session(
    message: tuple[str, int], known: tuple[str, int] | None, news: bool
) -> None:
    assert status(*message).supersedes(status(*known) if known else None) is news


def test_health_is_sent_with_captures_and_read_with_the_old_name_too() -> None:
    health = Health(boot_id="b", session_seq=1, time=NOW, captures=CapturesHealth(waiting=2, sent=5))
    table = json.loads(encode(health))
    assert table["captures"] == {"schema_version": 1, "waiting": 2, "bytes": 0, "kept": 0, "sent": 5, "refused": 0,
                                 "message": ""}  # fmt: skip
    assert decode(Health, json.dumps(table)) == health
    table["samples"] = table.pop("captures")
    assert decode(Health, json.dumps(table)) == health


def test_numbers_that_no_stream_can_have_are_refused() -> None:
    stream = {"name": "gate", "state": "running"}
    assert decode(StreamHealth, json.dumps(stream)).fps == 0
    for wrong in (
        {"fps": -1},
        {"captured": -1},
        {"state": "dancing"},
        {"name": "a/b"},
        {"fps": float("nan")},
    ):
        with pytest.raises(ProtocolError, match=f"StreamHealth: {next(iter(wrong))}"):
            decode(StreamHealth, json.dumps(stream | wrong))
