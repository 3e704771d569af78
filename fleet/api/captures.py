"""Captures for retraining under `/api/v1/captures`: sent by devices, reviewed and exported by people."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, StreamingResponse

from edgec.fleet.access.identity import Identity, require_role
from edgec.fleet.api.context import (
    Asking,
    Cursor,
    Limit,
    Operator,
    Server,
    Viewer,
    next_cursor,
    number_cursor,
    page,
)
from edgec.fleet.audit.log import audit
from edgec.fleet.captures.classes import class_list
from edgec.fleet.captures.export import Box, Format, Item, export_zip
from edgec.fleet.captures.service import Review, State, capture_query, get_capture, truth, view
from edgec.fleet.captures.split import Taken
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Capture, Device
from edgec.protocol.captures import MAX_CAPTURE_BYTES, CaptureMeta

router = APIRouter(prefix="/api/v1", tags=["captures"])
CaptureId = Annotated[int, Path(ge=1, lt=2**53)]
Text = Annotated[str, Query(max_length=128)]
MAX_META = 1 << 20
BATCH = 1000
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["meta", "image"],
                    "properties": {
                        "meta": {"type": "string", "description": "A CaptureMeta as JSON."},
                        "image": {"type": "string", "format": "binary", "description": "The JPEG."},
                    },
                }
            }
        },
    }
}


async def _bounded(request: Request) -> AsyncGenerator[bytes, None]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_CAPTURE_BYTES + MAX_META:
            raise Problem(413, "Too large", f"A picture has at most {MAX_CAPTURE_BYTES} bytes.")
        yield part


async def _parts(request: Request) -> tuple[bytes, bytes]:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(415, "Not multipart", "Send multipart/form-data with the parts meta and image.")
    try:
        parser = MultiPartParser(
            request.headers, _bounded(request), max_files=2, max_fields=2, max_part_size=MAX_META
        )
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        raise Problem(400, "Bad multipart", f"The request cannot be read: {error}") from error
    found = []
    for name in ("meta", "image"):
        part = form.get(name)
        if part is None:
            raise Problem(422, "Part missing", f"There is no part called {name!r}.")
        found.append(await part.read() if isinstance(part, UploadFile) else part.encode())
    await form.close()
    if len(found[1]) > MAX_CAPTURE_BYTES:
        raise Problem(413, "Too large", f"A picture has at most {MAX_CAPTURE_BYTES} bytes.")
    return found[0], found[1]


@router.post("/captures", status_code=201, openapi_extra=UPLOAD_BODY)
async def send_capture(server: Server, asking: Asking, request: Request) -> Response:
    """Accept a capture from a device; 200 for one that is stored already. Only the device itself may send it."""
    who = require_role(asking, "device")
    if who.device_id is None:
        raise Problem(403, "For devices", "Captures are sent with a device's own token.")
    raw, image = await _parts(request)
    try:
        meta = CaptureMeta.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Problem(422, "Invalid meta", f"{where}: {first['msg']}") from error
    number, new = await run_in_threadpool(_take, server, who, meta, image)
    return JSONResponse({"id": number, "new": new}, 201 if new else 200)


def _take(server: Services, who: Identity, meta: CaptureMeta, image: bytes) -> tuple[int, bool]:
    assert who.device_id is not None
    if who.name != f"device {meta.device}":
        raise Problem(403, "Another device", f"This token does not belong to {meta.device}.")
    return server.captures.take(who.device_id, meta, image)


@router.get("/captures")
def list_captures(
    server: Server, _who: Viewer, limit: Limit = 100, cursor: Cursor = "", device: Text = "", stream: Text = "",
    model: Text = "", version: Text = "", reason: Text = "", state: State | None = None,
) -> dict[str, Any]:  # fmt: skip
    """List captures, newest first."""
    wanted = {"device": device, "stream": stream, "model": model, "version": version, "reason": reason}
    query = capture_query(**wanted, state=state or "")
    with server.database.reading() as session:
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        if (before := number_cursor(cursor)) is not None:
            query = query.where(Capture.id < before)
        rows = session.execute(query.order_by(Capture.id.desc()).limit(limit + 1)).all()
    following = next_cursor(rows, limit, lambda row: row[0].id)
    return page([view(row, name) for row, name in rows[:limit]], following, total=total)


@router.get("/captures/usage")
def usage(server: Server, _who: Viewer) -> dict[str, Any]:
    """Show how much of the quota is used, and how many captures are in each state."""
    return server.captures.usage()


@router.get("/captures/export", response_class=StreamingResponse)
def export(
    server: Server, who: Operator, format: Format = "coco", device: Text = "", model: Text = "", version: Text = "",
    unreviewed: bool = False, val_percent: Annotated[int, Query(ge=0, le=90)] = 20,
) -> StreamingResponse:  # fmt: skip
    """Export confirmed and corrected captures: as a zip, or as a table (`csv`). With `unreviewed` new ones, too, with
    the model's predictions.

    Class numbers are those of the model's label list. Validation is split off by device and hour.
    """
    states = ["confirmed", "corrected"] + ["new"] * unreviewed
    query = capture_query(device=device, model=model, version=version).where(Capture.state.in_(states))
    with server.database.writing() as session:
        rows = session.execute(query.order_by(Capture.id)).all()
        if not rows:
            raise Problem(
                404, "Nothing to export", "No capture that fits has been confirmed or corrected yet."
            )
        audit(session, who.name, "capture.export", format, number=len(rows))
        classes, unsure = class_list(session, server.blobs, [row for row, _device in rows])
    items = [_item(server, row, name) for row, name in rows]
    name, kind = (
        ("captures.csv", "text/csv") if format == "csv" else (f"captures-{format}.zip", "application/zip")
    )
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(
        export_zip(items, format, val_percent, classes, unsure), headers=headers, media_type=kind
    )


def _item(server: Services, row: Capture, device: str) -> Item:
    found: list[tuple[str, Box | None]] = [(one["label"], one.get("box")) for one in truth(row)]
    taken = Taken(row.id, device, row.stream, row.at, row.digest)
    facts = (row.reason, row.state, row.model, row.version, row.reviewed_by)
    return Item(
        row.id, row.width, row.height, found, lambda: server.captures.pictures.read(row.digest), taken, facts
    )


@router.get("/captures/{capture_id}")
def show_capture(server: Server, _who: Viewer, capture_id: CaptureId) -> dict[str, Any]:
    """Show a capture."""
    with server.database.reading() as session:
        row = get_capture(session, capture_id)
        return view(row, session.get_one(Device, row.device_id).name)


@router.get("/captures/{capture_id}/image", response_class=Response)
def image(server: Server, _who: Viewer, capture_id: CaptureId) -> Response:
    """Download the picture of a capture, a JPEG."""
    with server.database.reading() as session:
        row = get_capture(session, capture_id)
    if row.state == "discarded":
        raise Problem(410, "Discarded", f"The picture of capture {capture_id} was discarded.")
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=86400, immutable"}
    return Response(server.captures.pictures.read(row.digest), headers=headers, media_type="image/jpeg")


@router.patch("/captures/{capture_id}")
def review(server: Server, who: Operator, capture_id: CaptureId, body: Review) -> dict[str, Any]:
    """Confirm, correct or discard a capture, or reset it to new. A discarded picture is deleted for good."""
    row = server.captures.review(who.name, [capture_id], body)[0]
    with server.database.reading() as session:
        return view(row, session.get_one(Device, row.device_id).name)


class ManyReviews(BaseModel):
    """The same verdict on many captures."""

    model_config = ConfigDict(extra="forbid")
    ids: list[Annotated[int, Field(ge=1, lt=2**53)]] = Field(min_length=1, max_length=BATCH)
    review: Review


@router.post("/captures/review")
def review_many(server: Server, who: Operator, body: ManyReviews) -> dict[str, Any]:
    """Confirm or discard many captures at once, all or none."""
    return {"reviewed": len(server.captures.review(who.name, body.ids, body.review))}
