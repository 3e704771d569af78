"""Named shadows, after AWS IoT's: desired and reported state, versions, deltas.

The rules are pure functions of documents, so that the fleet and a simulator of it share them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue

from edgec.protocol.codec import Message
from edgec.protocol.errors import ProtocolError, VersionConflict

MAX_DEPTH = 8
"""Nesting that a state may have: deeper ones are refused, as AWS does."""

JsonObject = dict[str, JsonValue]


class ShadowState(Message):
    """What is wanted, and what is so."""

    desired: JsonObject | None = None
    reported: JsonObject | None = None


class ShadowUpdate(Message):
    """Sent to ``update``: a JSON merge patch (RFC 7396) of the state; ``null`` removes a key.

    With ``version``, the update is refused unless that is the document's current version.
    """

    state: ShadowState
    version: int | None = Field(default=None, ge=0)
    client_token: str = Field(default="", max_length=64)


class ShadowDocument(Message):
    """The whole shadow, as ``get/accepted`` carries it."""

    state: ShadowState = Field(default_factory=ShadowState)
    version: int = Field(default=0, ge=0)
    timestamp: float = 0.0
    """Unix seconds of the last change."""
    client_token: str = ""


class ShadowDelta(Message):
    """On ``update/delta``: the parts of desired that reported lacks or has otherwise; ``null`` for what an update took
    out of desired."""

    state: JsonObject
    version: int = Field(ge=0)
    timestamp: float = 0.0


class ShadowAccepted(Message):
    """On ``update/accepted``: what was merged."""

    state: ShadowState
    version: int = Field(ge=0)
    timestamp: float = 0.0
    client_token: str = ""


class ShadowRejected(Message):
    """On ``update/rejected`` and ``get/rejected``: an HTTP-like code and a sentence."""

    code: int
    message: str
    client_token: str = ""


def merge(base: JsonValue, patch: JsonValue) -> JsonValue:
    """Return ``base`` with the merge patch applied (RFC 7396); neither argument is changed."""
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
    """Return the parts of ``desired`` that ``reported`` lacks or has otherwise, key by key."""
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
    """Return the merge patch that removes from ``before`` what ``after`` no longer has: ``null`` for each such key."""
    gone: JsonObject = {}
    for key, had in before.items():
        if key not in after:
            gone[key] = None
        elif (
            isinstance(had, dict) and isinstance(left := after[key], dict) and (inner := removals(had, left))
        ):
            gone[key] = inner
    return gone


def beside(patch: JsonObject, gone: JsonObject) -> JsonObject:
    """Return one merge patch of two: what :func:`removals` takes away joins ``patch``, which wins where both speak."""
    together = dict(patch)
    for key, value in gone.items():
        present = together.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            together[key] = beside(present, value)
        elif key not in together:
            together[key] = value
    return together


def delta_of(document: ShadowDocument, before: ShadowDocument | None = None) -> ShadowDelta | None:
    """Return what the device still has to do, or None.

    With ``before``, the document as it was, keys that left desired since are in the delta as ``null``: nothing else
    would tell the device. One that was not there then reads the whole document when it comes back.
    """
    state = difference(document.state.desired or {}, document.state.reported or {})
    if before is not None:
        state = beside(state, removals(before.state.desired or {}, document.state.desired or {}))
    return ShadowDelta(state=state, version=document.version, timestamp=document.timestamp) if state else None


def apply_update(document: ShadowDocument, update: ShadowUpdate, now: float | None = None) -> ShadowDocument:
    """Return the document after ``update``.

    Raises:
        VersionConflict: the update was made for another version.
        ProtocolError: the state is nested too deeply.
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
