"""Captures for retraining: accepted from devices within a quota, reviewed by people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from edgec.fleet.audit.log import audit
from edgec.fleet.captures.jpeg import jpeg_size
from edgec.fleet.problems import Problem
from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Capture, Device
from edgec.protocol.captures import MAX_PREDICTIONS, CaptureMeta

State = Literal["new", "confirmed", "corrected", "discarded"]
STATES: tuple[State, ...] = ("new", "confirmed", "corrected", "discarded")
GIB = 1 << 30


class Annotation(BaseModel):
    """A person's label for a picture or a part of it. The box is left, top, right, bottom in pixels; None for the
    whole picture."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    label: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    box: Annotated[tuple[float, float, float, float] | None, Field()] = None

    @model_validator(mode="after")
    def _sides(self) -> Annotation:
        if self.box and not (0 <= self.box[0] < self.box[2] and 0 <= self.box[1] < self.box[3]):
            raise ValueError("a box is left, top, right, bottom, with left < right and top < bottom")
        return self


class Review(BaseModel):
    """A person's verdict on a capture. `corrected` comes with the right annotations."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    state: State
    annotations: list[Annotation] | None = Field(None, max_length=MAX_PREDICTIONS)

    @model_validator(mode="after")
    def _fitting(self) -> Review:
        if (self.state == "corrected") != (self.annotations is not None):
            raise ValueError("annotations come with the state corrected, and only with it")
        return self


@dataclass(frozen=True, slots=True)
class Quota:
    """How many bytes of pictures may be stored in total, and per device."""

    total: int = 10 * GIB
    device: int = GIB


class Captures:
    """Stores pictures in a blob store of their own and the rest in the database."""

    def __init__(self, database: Database, pictures: BlobStore, quota: Quota) -> None:
        self._database = database
        self.pictures = pictures
        self.quota = quota

    def take(self, device_id: int, meta: CaptureMeta, image: bytes) -> tuple[int, bool]:
        """Store a capture; returns its number, and whether it is new. A repeated `id` changes nothing.

        Raises:
            Problem: 422 for a picture that is not a JPEG of the stated size; 507 when the quota is used up.
        """
        try:
            width, height = jpeg_size(image)
        except ValueError as error:
            raise Problem(422, "No JPEG", f"The image cannot be used: {error}.") from error
        if (width, height) != (meta.width, meta.height):
            text = f"The image is {width}×{height}, the meta part says {meta.width}×{meta.height}."
            raise Problem(422, "Wrong size", text)
        with self._database.reading() as session:
            known = session.scalar(select(Capture.id).filter_by(device_id=device_id, capture_id=meta.id))
            if known is not None:
                return known, False
            self._check_quota(session, device_id, len(image))
        digest = self.pictures.put(image)
        with self._database.writing() as session:
            # Two deliveries of one capture may come at once.
            known = session.scalar(select(Capture.id).filter_by(device_id=device_id, capture_id=meta.id))
            if known is not None:
                return known, False
            row = _row(device_id, meta, digest, len(image))
            session.add(row)
            session.flush()
            return row.id, True

    def _check_quota(self, session: Session, device_id: int, more: int) -> None:
        used = select(func.coalesce(func.sum(Capture.size), 0)).where(Capture.state != "discarded")
        total = session.scalar(used) or 0
        if total + more > self.quota.total:
            raise Problem(
                507,
                "Quota used up",
                f"{total} of {self.quota.total} bytes of captures are stored: discard some.",
            )
        own = session.scalar(used.where(Capture.device_id == device_id)) or 0
        if own + more > self.quota.device:
            text = f"{own} of {self.quota.device} bytes of this device's captures are stored: discard some."
            raise Problem(507, "Quota used up", text)

    def review(self, actor: str, ids: Sequence[int], review: Review) -> list[Capture]:
        """Apply a person's verdict to some captures. A discarded one loses its picture, for good.

        Raises:
            Problem: 404 for an unknown capture; 409 for one whose picture is gone; 422 for a box outside the picture.
        """
        with self._database.writing() as session:
            rows = [get_capture(session, one) for one in ids]
            for row in rows:
                self._apply(session, actor, row, review)
            audit(session, actor, f"capture.{review.state}", ", ".join(map(str, ids[:20])), number=len(rows))
            gone = {row.digest for row in rows} if review.state == "discarded" else set()
            needed = set(
                session.scalars(
                    select(Capture.digest).where(Capture.digest.in_(gone), Capture.state != "discarded")
                )
            )
            for digest in gone - needed:
                self.pictures.delete(digest)
        return rows

    def _apply(self, session: Session, actor: str, row: Capture, review: Review) -> None:
        if row.state == "discarded" and review.state != "discarded":
            raise Problem(409, "Discarded", f"The picture of capture {row.id} was deleted.")
        for one in review.annotations or []:
            if one.box and (one.box[2] > row.width or one.box[3] > row.height):
                text = f"A box of {one.label!r} reaches beyond {row.width}×{row.height}."
                raise Problem(422, "Box outside the picture", text)
        row.state = review.state
        row.annotations = [one.model_dump(mode="json") for one in review.annotations or []]
        row.reviewed_by, row.reviewed_at = (actor, time.time()) if review.state != "new" else ("", None)
        session.flush()

    def forget(self, session: Session, device_id: int) -> None:
        """Delete all captures of a device."""
        rows = session.scalars(select(Capture).filter_by(device_id=device_id)).all()
        digests = {row.digest for row in rows}
        for row in rows:
            session.delete(row)
        session.flush()
        for digest in digests - set(
            session.scalars(select(Capture.digest).where(Capture.digest.in_(digests)))
        ):
            self.pictures.delete(digest)

    def sweep(self, now: float, grace_s: float = 86400.0) -> int:
        """Delete pictures without a row, left by a crash between the two writes; returns how many."""
        with self._database.reading() as session:
            known = set(session.scalars(select(Capture.digest).where(Capture.state != "discarded")))
        old = [
            digest
            for digest, at, _size in self.pictures.digests()
            if digest not in known and at < now - grace_s
        ]
        for digest in old:
            self.pictures.delete(digest)
        for name in self.pictures.stale_uploads(now - grace_s):
            self.pictures.cancel_upload(name)
        return len(old)

    def usage(self) -> dict[str, Any]:
        """Bytes used and allowed, and how many captures are in each state."""
        with self._database.reading() as session:
            rows = session.execute(
                select(Capture.state, func.count(), func.sum(Capture.size)).group_by(Capture.state)
            )
            states = {state: (number, size or 0) for state, number, size in rows}
        return {
            "bytes": sum(size for state, (_n, size) in states.items() if state != "discarded"),
            "quota": self.quota.total,
            "device_quota": self.quota.device,
            "captures": {state: states.get(state, (0, 0))[0] for state in STATES},
        }


def _row(device_id: int, meta: CaptureMeta, digest: str, size: int) -> Capture:
    rest = meta.model_dump(mode="json", by_alias=True, exclude_none=True)
    for key in ("id", "device", "stream", "model", "version", "reason", "predictions", "width", "height"):
        rest.pop(key, None)
    at, now = meta.time.timestamp(), time.time()
    return Capture(
        device_id=device_id, capture_id=meta.id, stream=meta.stream, model=meta.model[:128],
        version=meta.version[:128], at=min(at, now) if at > 0 else now, received_at=now, reason=meta.reason.value,
        digest=digest, size=size, width=meta.width, height=meta.height,
        predictions=[one.model_dump(mode="json", exclude_none=True) for one in meta.predictions], meta=rest,
    )  # fmt: skip


def get_capture(session: Session, number: int) -> Capture:
    """The capture.

    Raises:
        Problem: 404.
    """
    row = session.get(Capture, number) if 0 < number < 2**53 else None
    if row is None:
        raise Problem(404, "Capture not found", f"There is no capture {number}.")
    return row


def capture_query(**wanted: str) -> Select[Capture, str]:
    """Captures with their device's name, filtered by `device, stream, model, version, state, reason`."""
    query = select(Capture, Device.name).join(Device, Device.id == Capture.device_id)
    for key, value in wanted.items():
        if value:
            query = query.where((Device.name if key == "device" else getattr(Capture, key)) == value)
    return query


def truth(row: Capture) -> list[dict[str, Any]]:
    """The labels to train with: the correction, else the model's predictions."""
    return list(row.annotations if row.state == "corrected" else row.predictions)


def view(row: Capture, device: str) -> dict[str, Any]:
    """A capture as the API represents it."""
    fields = (
        "id", "stream", "model", "version", "at", "received_at", "reason", "size", "width", "height", "state",
        "predictions", "annotations", "reviewed_by", "reviewed_at", "meta",
    )  # fmt: skip
    return {"device": device} | {field: getattr(row, field) for field in fields}
