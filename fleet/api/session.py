"""Browser sessions under `/api/v1/session`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from edgec.fleet.access.auth import COOKIE, SESSION_S
from edgec.fleet.api.context import (
    Server,
)
from edgec.fleet.problems import Problem

router = APIRouter(prefix="/api/v1", tags=["session"])


class SignIn(BaseModel):
    """The request of the sign-in page."""

    token: str = Field(min_length=1, max_length=512)


@router.post("/session", status_code=204, tags=["session"])
def sign_in(server: Server, body: SignIn, response: Response) -> None:
    """Sign a browser in with an access token: sets the session cookie."""
    cookie = server.auth.sign_in(body.token)
    if cookie is None:
        raise Problem(401, "Token refused", "This token is unknown, expired or revoked.")
    response.set_cookie(
        COOKIE, cookie, max_age=int(SESSION_S), httponly=True, samesite="lax",
        secure=server.settings.secure_cookies, path="/",
    )  # fmt: skip


@router.delete("/session", status_code=204, tags=["session"])
def sign_out(server: Server, request: Request, response: Response) -> None:
    """Sign the browser out."""
    if cookie := request.cookies.get(COOKIE):
        server.auth.sign_out(cookie)
    response.delete_cookie(COOKIE, path="/")
