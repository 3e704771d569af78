"""The rules of shadows: merge patches, deltas and versions."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from edgec.protocol.errors import ProtocolError, VersionConflict
from edgec.protocol.shadow import (
    MAX_DEPTH,
    JsonObject,
    ShadowDocument,
    ShadowState,
    ShadowUpdate,
    apply_update,
    delta_of,
    difference,
    merge,
    removals,
    with_removals,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


def without_null(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: without_null(one) for key, one in value.items() if one is not None}
    return value


states = json_objects.map(without_null)

RFC_7396 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}), ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}), ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}), ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}), (["a", "b"], ["c", "d"], ["c", "d"]), ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None), ({"a": "foo"}, "bar", "bar"), ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}), ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]  # fmt: skip
"""The examples of RFC 7396, appendix A: target, patch, result."""


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396)
def test_a_merge_patch_does_what_the_rfc_shows(
    target: JsonValue, patch: JsonValue, result: JsonValue
) -> None:
    before = deepcopy(target)
    assert merge(target, patch) == result
    assert target == before, "the argument is left alone"


@given(json_objects, json_objects)
def test_a_merge_patch_applied_twice_is_one_applied_once(base: JsonObject, patch: JsonObject) -> None:
    merged = merge(base, patch)
    assert merge(merged, patch) == merged


@given(states, states)
def test_a_device_that_applies_the_delta_has_nothing_left_to_do(
    desired: JsonObject, reported: JsonObject
) -> None:
    done = merge(reported, difference(desired, reported))
    assert isinstance(done, dict)
    # Only a scalar that becomes an empty object keeps a difference, one without content.
    assert all(value == {} for value in difference(desired, done).values())


@given(states, states)
def test_removals_take_away_exactly_the_keys_that_are_gone(before: JsonObject, after: JsonObject) -> None:
    left = merge(before, removals(before, after))
    assert isinstance(left, dict)
    assert not removals(left, after)
    assert set(left) == set(before) & set(after)


def test_a_wish_wins_over_a_removal() -> None:
    gone: JsonObject = {"a": None, "b": {"x": None, "y": None}, "c": None}
    assert with_removals({"a": 1, "b": {"x": 2}}, gone) == {"a": 1, "b": {"x": 2, "y": None}, "c": None}


def change(document: ShadowDocument, version: int | None = None, **state: JsonObject) -> ShadowDocument:
    return apply_update(document, ShadowUpdate(state=ShadowState(**state), version=version), now=1.0)


def test_a_delta_lasts_until_the_device_reports_it() -> None:
    document = change(ShadowDocument(), desired={"fps": 5, "zone": {"x": 1}})
    assert (document.version, document.timestamp) == (1, 1.0)
    delta = delta_of(document)
    assert delta is not None
    assert (delta.state, delta.version) == ({"fps": 5, "zone": {"x": 1}}, 1)
    document = change(document, reported={"fps": 5})
    delta = delta_of(document)
    assert delta is not None
    assert (delta.state, delta.version) == ({"zone": {"x": 1}}, 2)
    assert delta_of(change(document, reported={"zone": {"x": 1}})) is None


def test_a_key_that_is_no_longer_desired_is_null_in_the_delta_once() -> None:
    before = change(ShadowDocument(), desired={"fps": 5}, reported={"fps": 5})
    after = change(before, desired={"fps": None})
    delta = delta_of(after, before)
    assert delta is not None
    assert delta.state == {"fps": None}
    assert delta_of(after) is None


def test_an_update_for_another_version_is_refused_and_changes_nothing() -> None:
    document = change(ShadowDocument(), desired={"a": 1})
    with pytest.raises(VersionConflict, match="is at version 1, the update is for 0"):
        change(document, version=0, reported={"a": 1})
    assert change(document, version=1, reported={"a": 1}).version == 2


@pytest.mark.parametrize("section", ["desired", "reported"])
def test_states_have_a_greatest_depth(section: str) -> None:
    deep: JsonObject = {}
    for _ in range(MAX_DEPTH - 1):
        deep = {"x": deep}
    assert change(ShadowDocument(), **{section: deep}).version == 1
    with pytest.raises(ProtocolError, match=f"deeper than {MAX_DEPTH}"):
        change(ShadowDocument(), **{section: {"x": deep}})
    with pytest.raises(ProtocolError, match=f"deeper than {MAX_DEPTH}"):
        change(ShadowDocument(), **{section: {"list": [deep]}})
