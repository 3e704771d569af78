"""Access tokens under `/api/v1`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from edgec.fleet.access.tokens import NewAccessToken, issue_access_token, revoke_access_token
from edgec.fleet.api.context import Admin, Server, SureAdmin, page
from edgec.fleet.store.tables import AccessToken

router = APIRouter(prefix="/api/v1", tags=["access"])


def _access_token(row: AccessToken) -> dict[str, Any]:
    fields = ("name", "role", "models", "scopes", "created_at", "expires_at", "revoked_at")
    return {field: getattr(row, field) for field in fields}


@router.post("/access-tokens", status_code=201)
def make_access_token(server: Server, who: SureAdmin, body: NewAccessToken) -> dict[str, Any]:
    """Create an access token. The secret is in this response only."""
    with server.database.writing() as session:
        row, secret = issue_access_token(session, who.name, body)
        return _access_token(row) | {"token": secret}


@router.get("/access-tokens")
def list_access_tokens(server: Server, _who: Admin) -> dict[str, Any]:
    """List access tokens, without their secrets."""
    with server.database.reading() as session:
        return page(
            [_access_token(row) for row in session.scalars(select(AccessToken).order_by(AccessToken.name))],
            None,
        )


@router.delete("/access-tokens/{name}", status_code=204)
def delete_access_token(server: Server, who: SureAdmin, name: str) -> None:
    """Revoke a token, and sign out every browser that signed in with it."""
    with server.database.writing() as session:
        revoke_access_token(session, who.name, name)
