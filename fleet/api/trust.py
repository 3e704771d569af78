"""The TUF repository over HTTP: metadata for devices, publishing for administrators."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from edgec.fleet.api.context import Admin, Server, Viewer
from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.trust.repository import MAX_BYTES

router = APIRouter(tags=["trust"])


@router.get("/tuf/metadata/{name}", response_class=Response)
def metadata(server: Server, name: str) -> Response:
    """Download a metadata file. Open to all: its content is signed and not secret."""
    content = server.trust.read(name)
    if content is None:
        raise Problem(404, "No such metadata", f"There is no {name!r} here.")
    return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})


@router.get("/api/v1/trust")
def status(server: Server, _who: Viewer) -> dict[str, Any]:
    """Show whether versions must be signed, what is signed, and this server's key for snapshot and timestamp."""
    online = server.trust.online_key()
    signed = server.trust.digests()
    return {
        "active": server.trust.active,
        "online_key": {"keyid": online.keyid} | online.to_dict(),
        "signed": signed,
    }


class Publication(BaseModel):
    """Newly signed metadata, as text."""

    model_config = ConfigDict(extra="forbid")
    root: str | None = Field(None, max_length=MAX_BYTES)
    targets: str | None = Field(None, max_length=MAX_BYTES)


@router.put("/api/v1/trust/metadata")
def publish(server: Server, who: Admin, body: Publication) -> dict[str, Any]:
    """Publish root, targets or both, after the checks that devices make."""
    if body.root is None and body.targets is None:
        raise Problem(422, "Nothing to publish", "Send root, targets or both.")
    root = body.root.encode() if body.root is not None else None
    targets = body.targets.encode() if body.targets is not None else None
    server.trust.publish(root, targets)
    with server.database.writing() as session:
        audit(session, who.name, "trust.publish", root=root is not None, targets=targets is not None)
    return {"active": server.trust.active, "signed": server.trust.digests()}
