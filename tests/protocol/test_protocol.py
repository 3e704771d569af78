"""Topics and messages survive the journey, strangers are refused, and the rules of shadows and jobs hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from edgec.protocol import jobs, shadow
from edgec.protocol.codec import MAX_PAYLOAD_BYTES, decode, encode
from edgec.protocol.errors import InvalidTransition, ProtocolError, VersionConflict
from edgec.protocol.events import DetectionData, DetectionEvent, FrameRef, Phase
from edgec.protocol.jobs import JOB_TRANSITIONS, JobExecution, JobState, JobUpdate
from edgec.protocol.names import check_name
from edgec.protocol.samples import Prediction, SampleMeta, SampleReason
from edgec.protocol.shadow import ShadowDocument, ShadowState, ShadowUpdate, delta_of, difference, merge
from edgec.protocol.status import Presence, Status
from edgec.protocol.topics import FROM_DEVICE, TO_DEVICE, Kind, Topics, fleet_subscriptions, parse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


@given(names, names, st.sampled_from(Kind), names)
def test_every_topic_is_parsed_back(fleet: str, device: str, kind: Kind, name: str) -> None:
    name = name if "+" in kind else ""
    parsed = parse(Topics(fleet, device).of(kind, name))
    assert (parsed.fleet, parsed.device, parsed.kind, parsed.name) == (fleet, device, kind, name)


@given(st.text(max_size=60))
def test_foreign_topics_are_refused(text: str) -> None:
    for topic in (text, f"edgec/v1/{text}", f"edgec/v1/f/d/{text}"):
        try:
            parsed = parse(topic)
        except ProtocolError:
            continue
        rebuilt = Topics(parsed.fleet, parsed.device).of(parsed.kind, parsed.name)
        assert rebuilt == topic


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "..", "-x", "x\n", "é", "a" * 65, "a b"])
def test_names_that_mean_something_to_a_broker_or_a_file_system_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        check_name(name)


def test_each_topic_has_one_direction() -> None:
    assert set(FROM_DEVICE) | set(TO_DEVICE) == set(Kind)
    assert not set(FROM_DEVICE) & set(TO_DEVICE)
    assert len(fleet_subscriptions("f")) == len(FROM_DEVICE)


def test_messages_ignore_what_they_do_not_know_and_name_what_is_wrong() -> None:
    status = Status(state=Presence.ONLINE, boot_id="b", session_seq=3)
    payload = encode(status)
    assert decode(Status, payload) == status
    assert decode(Status, payload.replace(b"{", b'{"from_the_future":[1],', 1)) == status
    with pytest.raises(ProtocolError, match="session_seq"):
        decode(Status, b'{"state":"online","boot_id":"b"}')
    for nonsense in (b"", b"{", b"[]", b"\xff\xfe", b"x" * (MAX_PAYLOAD_BYTES + 1)):
        with pytest.raises(ProtocolError):
            decode(Status, nonsense)


def test_a_late_will_does_not_supersede_the_present_session() -> None:
    def status(state: str, number: int) -> Status:
        return Status(state=Presence(state), boot_id="b", session_seq=number)

    online = status("online", 7)
    assert online.supersedes(None)
    assert not status("offline", 6).supersedes(online)
    assert status("offline", 7).supersedes(online)
    assert not status("online", 7).supersedes(status("stopped", 7))
    assert status("online", 8).supersedes(status("offline", 7))


def test_an_event_is_a_cloud_event() -> None:
    frame = FrameRef(number=1, captured_at=NOW)
    data = DetectionData(phase=Phase.NEW, track_id="t", label="x", score=0.5, started_at=NOW, frame=frame)
    event = DetectionEvent.of(data, source="/edgec/f/d/door", event_id="e", sequence=5, time=NOW)
    body = event.model_dump(mode="json")
    assert (body["specversion"], body["type"], body["sequence"]) == ("1.0", "edgec.detection.new", "5")
    assert event.stream == "door"
    assert decode(DetectionEvent, encode(event)) == event


@given(json_objects, json_objects)
def test_a_merge_patch_does_what_rfc_7396_says(base: dict, patch: dict) -> None:
    merged = merge(base, patch)
    assert isinstance(merged, dict)
    for key, value in patch.items():
        if value is None:
            assert key not in merged
        elif not isinstance(value, dict):
            assert merged[key] == value
    assert {k: v for k, v in merged.items() if k not in patch} == {
        k: v for k, v in base.items() if k not in patch
    }
    assert merge(merged, patch) == merged


def without_null(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: without_null(one) for key, one in value.items() if one is not None}
    return value


@given(json_objects, json_objects)
def test_reporting_the_delta_ends_it(desired: dict, reported: dict) -> None:
    desired, reported = without_null(desired), without_null(reported)
    done = merge(reported, difference(desired, reported))
    again = difference(desired, done)
    # Only a scalar that becomes an empty object keeps a difference of no content.
    assert all(value == {} for value in again.values()) or not again


def test_versions_of_a_shadow() -> None:
    document = ShadowDocument()
    document = shadow.apply_update(document, ShadowUpdate(state=ShadowState(desired={"a": 1})), now=1.0)
    assert document.version == 1
    delta = delta_of(document)
    assert delta is not None
    assert delta.state == {"a": 1}
    with pytest.raises(VersionConflict):
        shadow.apply_update(document, ShadowUpdate(state=ShadowState(reported={"a": 1}), version=0))
    document = shadow.apply_update(document, ShadowUpdate(state=ShadowState(reported={"a": 1}), version=1))
    assert delta_of(document) is None
    deep: dict = {}
    for _ in range(20):
        deep = {"x": deep}
    with pytest.raises(ProtocolError, match="deeper"):
        shadow.apply_update(document, ShadowUpdate(state=ShadowState(desired=deep)))


@given(st.lists(st.sampled_from(JobState), max_size=12))
def test_a_job_ends_once(states: list[JobState]) -> None:
    execution = JobExecution(job_id="j", document={})
    for state in states:
        before = execution
        try:
            execution = jobs.apply_update(execution, JobUpdate(state=state), NOW)
        except InvalidTransition:
            assert state not in JOB_TRANSITIONS[before.state]
            assert execution is before
            continue
        assert execution.state is state
        if before.state.terminal:
            assert execution is before
    assert not (execution.state.terminal and JOB_TRANSITIONS[execution.state])


def test_documents_of_jobs() -> None:
    good = {
        "operation": "update", "model": "m", "version": "2", "manifest_digest": "sha256:" + "0" * 64,
        "registry": "http://127.0.0.1:1", "repository": "models/m",
    }  # fmt: skip
    assert isinstance(JobExecution(job_id="j", document=good).parsed(), jobs.UpdateDocument)
    for change in (
        {"operation": "dance"}, {"model": "../../etc"}, {"manifest_digest": "sha256:short"},
        {"registry": "file:///etc"}, {"repository": "models/../x"}, {"probation_s": -1},
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            JobExecution(job_id="j", document=good | change).parsed()


def test_a_sample_names_its_schema_and_keeps_nothing_that_it_does_not_know() -> None:
    meta = SampleMeta(
        id="gate-1", device="cam-7", stream="gate", time=NOW, reason=SampleReason.RANDOM,
        predictions=[Prediction(label="cat", score=0.5, box=(1, 2, 3, 4))], width=320, height=240,
    )  # fmt: skip
    table = json.loads(meta.encode())
    assert table["schema"] == 1
    assert table["reason"] == "random"
    assert "other" not in table
    assert decode(SampleMeta, json.dumps(table | {"later": True})) == meta
    for wrong in ({"width": 0}, {"reason": "curious"}, {"device": "a/b"}, {"time": "2026-01-01T00:00:00"}):
        with pytest.raises(ProtocolError):
            decode(SampleMeta, json.dumps(table | wrong))
