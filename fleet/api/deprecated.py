"""Deprecated routes of version 0.1, kept for one more version: captures and telemetry were both called samples."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from edgec.fleet.api import captures, telemetry
from edgec.fleet.api.context import Server, Viewer

router = APIRouter(prefix="/api/v1", tags=["deprecated"], deprecated=True)


@router.get("/samples/usage")
def usage(server: Server, who: Viewer) -> dict[str, Any]:
    """Use `/captures/usage`, which says `captures` for `samples`."""
    found = captures.usage(server, who)
    return {("samples" if key == "captures" else key): value for key, value in found.items()}


def _alias(method: str, old: str, handler: Any, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
    new = old.replace("samples", "captures") if old.startswith("/samples") else "/devices/{name}/telemetry"
    router.add_api_route(
        old, handler, methods=[method], name=f"old_{handler.__name__}", description=f"Use `{new}`.", **options
    )


_alias("POST", "/samples", captures.send_capture, status_code=201, openapi_extra=captures.UPLOAD_BODY)
_alias("GET", "/samples", captures.list_captures)
_alias("GET", "/samples/export", captures.export, response_class=StreamingResponse)
_alias("GET", "/samples/{capture_id}", captures.show_capture)
_alias("GET", "/samples/{capture_id}/image", captures.image, response_class=Response)
_alias("PATCH", "/samples/{capture_id}", captures.review)
_alias("POST", "/samples/review", captures.review_many)
_alias("GET", "/devices/{name}/samples", telemetry.list_telemetry)
