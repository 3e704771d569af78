"""Detections as CloudEvents."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import ProtocolError
from edgec.protocol.events import DetectionData, DetectionEvent, FrameRef, Phase

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event(**changes: object) -> DetectionEvent:
    fields = {
        "phase": Phase.NEW, "track_id": "t", "label": "cat", "score": 0.5, "started_at": NOW,
        "frame": FrameRef(number=1, captured_at=NOW),
    }  # fmt: skip
    data = DetectionData.model_validate(fields | changes)
    return DetectionEvent.of(data, source="/edgec/f/d/door", event_id="e", sequence=5, time=NOW)


def test_an_event_is_a_cloud_event() -> None:
    body = json.loads(encode(event()))
    assert {"specversion", "id", "source", "type", "time", "datacontenttype", "data"} <= set(body)
    assert (body["specversion"], body["sequence"], body["subject"]) == ("1.0", "5", "t")
    assert decode(DetectionEvent, encode(event())) == event()


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", ["detection", "sound", "rule"])
def test_the_type_names_the_kind_and_the_phase(kind: str, phase: Phase) -> None:
    assert event(kind=kind, phase=phase).type == f"edgec.{kind}.{phase.value}"


def test_the_stream_is_the_end_of_the_source() -> None:
    assert event().stream == "door"


def test_times_without_a_zone_are_refused_and_others_keep_their_instant() -> None:
    body = json.loads(encode(event()))
    with pytest.raises(ProtocolError, match="DetectionEvent: time"):
        decode(DetectionEvent, json.dumps(body | {"time": "2026-01-01T00:00:00"}))
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9))).isoformat()
    assert decode(DetectionEvent, json.dumps(body | {"time": elsewhere})).time == NOW


@pytest.mark.parametrize(
    "change", [{"specversion": "0.3"}, {"id": ""}, {"type": "edgec.detection.over"}, {"type": "other.detection.new"},
               {"sequence": "-1"}],
)  # fmt: skip
def test_other_events_are_refused(change: dict[str, str]) -> None:
    body = json.loads(encode(event()))
    with pytest.raises(ProtocolError, match=f"DetectionEvent: {next(iter(change))}"):
        decode(DetectionEvent, json.dumps(body | change))


@pytest.mark.parametrize("change", [{"score": 1.5}, {"box": [1, 2, 3]}, {"kind": "smell"}, {"phase": "gone"}])
def test_detections_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    body = json.loads(encode(event()))
    with pytest.raises(ProtocolError, match=rf"DetectionEvent: data\.{next(iter(change))}"):
        decode(DetectionEvent, json.dumps(body | {"data": body["data"] | change}))
