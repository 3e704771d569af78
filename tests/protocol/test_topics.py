"""Topics are built and parsed by the same rules, and each has one direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.protocol.errors import ProtocolError
from edgec.protocol.topics import (
    FOR_OTHERS,
    FROM_DEVICE,
    TO_DEVICE,
    Kind,
    ParsedTopic,
    Topics,
    fleet_subscriptions,
    parse,
)

names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
TOPICS = Topics("plant", "cam-7")


@given(names, names, st.sampled_from(Kind), names)
def test_every_topic_is_parsed_back(fleet: str, device: str, kind: Kind, name: str) -> None:
    name = name if "+" in kind else ""
    assert parse(Topics(fleet, device).of(kind, name)) == ParsedTopic(fleet, device, kind, name)


@pytest.mark.parametrize(
    ("topic", "path"),
    [
        (TOPICS.status, "status"),
        (TOPICS.health, "health"),
        (TOPICS.events("gate"), "events/gate"),
        (TOPICS.jobs_get, "jobs/get"),
        (TOPICS.jobs_notify, "jobs/notify"),
        (TOPICS.job_update("j-1"), "jobs/j-1/update"),
        (TOPICS.of(Kind.SHADOW_DELTA, "config"), "shadow/name/config/update/delta"),
    ],
)
def test_topics_are_spelled_as_devices_in_the_field_know_them(topic: str, path: str) -> None:
    assert topic == f"edgec/v1/plant/cam-7/{path}"


@given(st.text(max_size=60))
def test_what_is_parsed_is_spelled_the_same_way_when_built_again(text: str) -> None:
    for topic in (text, f"edgec/v1/{text}", f"edgec/v1/f/d/{text}"):
        try:
            parsed = parse(topic)
        except ProtocolError:
            continue
        assert Topics(parsed.fleet, parsed.device).of(parsed.kind, parsed.name) == topic


@pytest.mark.parametrize(
    "topic",
    ["", "status", "edgec/v2/f/d/status", "edgec/v1/f/d", "edgec/v1/f/d/", "edgec/v1/f/d/events",
     "edgec/v1/f/d/events/+", "edgec/v1/f/d/jobs/+/update", "edgec/v1/f/d/events/a/b", "edgec/v1/f/+/status",
     "edgec/v1/f/d/STATUS", "/edgec/v1/f/d/status", "edgec/v1/f/d/shadow/name//get"],
)  # fmt: skip
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(ProtocolError):
        parse(topic)


def test_a_name_is_needed_exactly_where_a_kind_has_one() -> None:
    with pytest.raises(ProtocolError, match="takes a name"):
        TOPICS.of(Kind.EVENT)
    with pytest.raises(ProtocolError, match="takes no name"):
        TOPICS.of(Kind.STATUS, "x")
    with pytest.raises(ProtocolError, match="not a valid"):
        TOPICS.events("a/b")
    with pytest.raises(ProtocolError, match="not a valid device name"):
        Topics("plant", "+")


def test_each_topic_has_one_direction() -> None:
    assert set(FROM_DEVICE) | set(FOR_OTHERS) | set(TO_DEVICE) == set(Kind)
    assert len(FROM_DEVICE) + len(FOR_OTHERS) + len(TO_DEVICE) == len(Kind)


def test_subscriptions_cover_what_the_other_side_publishes() -> None:
    assert set(fleet_subscriptions("plant")) == {f"edgec/v1/plant/+/{kind.value}" for kind in FROM_DEVICE}
    assert set(TOPICS.subscriptions()) == {f"edgec/v1/plant/cam-7/{kind.value}" for kind in TO_DEVICE}
    assert all(topic.startswith("edgec/v1/+/+/") for topic in fleet_subscriptions())
    with pytest.raises(ProtocolError, match="not a valid fleet name"):
        fleet_subscriptions("#")
