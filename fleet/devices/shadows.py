"""Named shadows of devices, with the semantics of AWS IoT."""

from __future__ import annotations

from sqlalchemy.orm import Session

from edgec.fleet.broker.messages import Reply
from edgec.fleet.store.tables import Device, Shadow
from edgec.protocol.codec import decode, encode
from edgec.protocol.errors import ProtocolError, VersionConflict
from edgec.protocol.shadow import (
    ShadowAccepted,
    ShadowDocument,
    ShadowRejected,
    ShadowState,
    ShadowUpdate,
    delta_of,
)
from edgec.protocol.shadow import apply_update as merge_shadow
from edgec.protocol.topics import Kind, ParsedTopic, Topics


def load_shadow(session: Session, device: Device, name: str) -> tuple[Shadow, ShadowDocument]:
    """The named shadow as row and as document; created if there was none."""
    row = session.get(Shadow, (device.id, name), with_for_update=True)
    if row is None:
        row = Shadow(device_id=device.id, name=name, version=0, desired={}, reported={}, updated_at=0.0)
        session.add(row)
    state = ShadowState(desired=row.desired or None, reported=row.reported or None)
    return row, ShadowDocument(state=state, version=row.version, timestamp=row.updated_at)


def apply_shadow_get(session: Session, device: Device, topic: ParsedTopic) -> Reply:
    """Reply with the whole shadow, or with a 404 as AWS does."""
    topics = Topics(topic.fleet, topic.device)
    row = session.get(Shadow, (device.id, topic.name))
    if row is None:
        refused = ShadowRejected(code=404, message=f"no shadow exists with name {topic.name!r}")
        return Reply(topics.of(Kind.SHADOW_GET_REJECTED, topic.name), encode(refused))
    _row, document = load_shadow(session, device, topic.name)
    return Reply(topics.of(Kind.SHADOW_GET_ACCEPTED, topic.name), encode(document))


def apply_shadow_update(
    session: Session, device: Device, topic: ParsedTopic, payload: bytes, now: float
) -> list[Reply]:
    """Merge the reported state of a device. The desired state belongs to operators: what a device sends for it is
    ignored.

    Raises:
        ProtocolError: the payload is not a valid shadow update.
    """
    update = decode(ShadowUpdate, payload)
    state = ShadowState(reported=update.state.reported)
    return change_shadow(session, device, topic, update.model_copy(update={"state": state}), now)


def change_shadow(
    session: Session, device: Device, topic: ParsedTopic, update: ShadowUpdate, now: float
) -> list[Reply]:
    """Apply an update from either side; replies that it is accepted, with a delta where one remains, or rejected."""
    topics = Topics(topic.fleet, topic.device)
    row, document = load_shadow(session, device, topic.name)
    try:
        after = merge_shadow(document, update, now)
    except ProtocolError as error:
        code = 409 if isinstance(error, VersionConflict) else 400
        refused = ShadowRejected(code=code, message=str(error), client_token=update.client_token)
        return [Reply(topics.of(Kind.SHADOW_UPDATE_REJECTED, topic.name), encode(refused))]
    row.desired, row.reported = after.state.desired or {}, after.state.reported or {}
    row.version, row.updated_at = after.version, now
    accepted = ShadowAccepted(
        state=update.state, version=after.version, timestamp=now, client_token=update.client_token
    )
    replies = [Reply(topics.of(Kind.SHADOW_UPDATE_ACCEPTED, topic.name), encode(accepted))]
    if delta := delta_of(after, document):
        replies.append(Reply(topics.of(Kind.SHADOW_DELTA, topic.name), encode(delta)))
    return replies
