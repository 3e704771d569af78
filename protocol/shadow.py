"""Named shadows, modelled on AWS IoT: desired and reported state, versions and deltas.

The rules are pure functions of documents, so that the fleet and its simulator share them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue

from edgec.protocol.codec import Message
from edgec.protocol.errors import ProtocolError, VersionConflict

MAX_DEPTH = 8
"""Deepest nesting that a state may have; AWS IoT has the same limit."""

JsonObject = dict[str, JsonValue]


class ShadowState(Message):
    """Desired and reported state."""

    desired: JsonObject | None = None
    reported: JsonObject | None = None


class ShadowUpdate(Message):
    """A JSON merge patch (RFC 7396) of the state, published on `update`; `null` removes a key.

    If `version` is set, the update is rejected unless it equals the document's current version.
    """

    state: ShadowState
    version: int | None = Field(default=None, ge=0)
    client_token: str = Field(default="", max_length=64)


class ShadowDocument(Message):
    """The complete shadow, published on `get/accepted`."""

    state: ShadowState = Field(default_factory=ShadowState)
    version: int = Field(default=0, ge=0)
    timestamp: float = 0.0
    """Time of the last change, in Unix seconds."""
    client_token: str = ""


class ShadowDelta(Message):
    """The parts of `desired` that `reported` lacks or contradicts, published on `update/delta`.

    Keys that the update removed from `desired` are `null`.
    """

    state: JsonObject
    version: int = Field(ge=0)
    timestamp: float = 0.0


class ShadowAccepted(Message):
    """The applied patch, published on `update/accepted`."""

    state: ShadowState
    version: int = Field(ge=0)
    timestamp: float = 0.0
    client_token: str = ""


class ShadowRejected(Message):
    """A refusal, published on `update/rejected` and `get/rejected`: an HTTP-like code and a message."""

    code: int
    message: str
    client_token: str = ""


def merge(base: JsonValue, patch: JsonValue) -> JsonValue:
    """Return `base` with the merge patch applied (RFC 7396); neither argument is modified."""
    if not isinstance(patch, dict):
        return patch
    merged: JsonObject = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def difference(desired: Mapping[str, JsonValue], reported: Mapping[str, JsonValue]) -> JsonObject:
    """Return the parts of `desired` that `reported` lacks or contradicts, key by key."""
    delta: JsonObject = {}
    for key, want in desired.items():
        have = reported.get(key)
        if isinstance(want, dict) and isinstance(have, dict):
            if inner := difference(want, have):
                delta[key] = inner
        elif key not in reported or want != have:
            delta[key] = want
    return delta


def removals(before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> JsonObject:
    """Return the merge patch that removes from `before` the keys that `after` lacks: `null` for each of them."""
    gone: JsonObject = {}
    for key, had in before.items():
        if key not in after:
            gone[key] = None
        elif (
            isinstance(had, dict) and isinstance(left := after[key], dict) and (inner := removals(had, left))
        ):
            gone[key] = inner
    return gone


def with_removals(patch: JsonObject, gone: JsonObject) -> JsonObject:
    """Return `patch` extended by the removals in `gone`; on conflict `patch` wins."""
    together = dict(patch)
    for key, value in gone.items():
        present = together.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            together[key] = with_removals(present, value)
        elif key not in together:
            together[key] = value
    return together


def delta_of(document: ShadowDocument, before: ShadowDocument | None = None) -> ShadowDelta | None:
    """Return the changes that the device still has to apply, or None if there are none.

    Args:
        document: The current shadow.
        before: The shadow before the last update. Keys removed from `desired` since then appear in the delta as
            `null`, as nothing else would tell the device. A device that was offline at the time reads the complete
            document when it reconnects.
    """
    state = difference(document.state.desired or {}, document.state.reported or {})
    if before is not None:
        state = with_removals(state, removals(before.state.desired or {}, document.state.desired or {}))
    return ShadowDelta(state=state, version=document.version, timestamp=document.timestamp) if state else None


def apply_update(document: ShadowDocument, update: ShadowUpdate, now: float | None = None) -> ShadowDocument:
    """Return `document` after `update`.

    Raises:
        VersionConflict: The update was based on another version.
        ProtocolError: The state is nested too deeply.
    """
    if update.version is not None and update.version != document.version:
        raise VersionConflict(
            f"the shadow is at version {document.version}, the update is for {update.version}"
        )
    desired = _section(document.state.desired, update.state.desired)
    reported = _section(document.state.reported, update.state.reported)
    return ShadowDocument(
        state=ShadowState(desired=desired, reported=reported),
        version=document.version + 1,
        timestamp=time.time() if now is None else now,
        client_token=update.client_token,
    )


def _section(base: JsonObject | None, patch: JsonObject | None) -> JsonObject | None:
    if patch is None:
        return base
    if _depth(patch) > MAX_DEPTH:
        raise ProtocolError(f"the state is nested deeper than {MAX_DEPTH}")
    merged = merge(base or {}, patch)
    return merged if isinstance(merged, dict) and merged else None


def _depth(value: Any) -> int:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0
