"""Browser sessions under `/api/v1/session`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from edgec.fleet.access.identity import Identity, require_role
from edgec.fleet.access.sessions import COOKIE
from edgec.fleet.api.context import Asking, Server, Viewer, address
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services

router = APIRouter(prefix="/api/v1", tags=["session"])
REFUSED = "This token is unknown, expired, revoked, or a machine's (restricted to scopes)."


class SignIn(BaseModel):
    """The request of the sign-in page."""

    token: str = Field(min_length=1, max_length=512)


def set_cookie(server: Services, response: Response, cookie: str) -> None:
    """Hand a session to the browser: only to this server, out of reach of scripts."""
    response.set_cookie(
        COOKIE, cookie, max_age=int(server.auth.sessions.rules.absolute_s), httponly=True, samesite="lax",
        secure=server.secure, path="/",
    )  # fmt: skip


def _browser(asking: Asking) -> Identity:
    who = require_role(asking, "viewer")
    if not who.session:
        raise Problem(400, "No session", "This is for browsers that are signed in.")
    return who


Browser = Annotated[Identity, Depends(_browser)]


@router.post("/session", status_code=204)
def sign_in(server: Server, request: Request, body: SignIn, response: Response) -> None:
    """Sign a browser in with an access token: sets the session cookie."""
    cookie = server.auth.sign_in(body.token, address(request))
    if cookie is None:
        raise Problem(401, "Token refused", REFUSED)
    set_cookie(server, response, cookie)


@router.delete("/session", status_code=204)
def sign_out(server: Server, request: Request, response: Response) -> None:
    """Sign the browser out."""
    if cookie := request.cookies.get(COOKIE):
        server.auth.sign_out(cookie)
    response.delete_cookie(COOKIE, path="/")


@router.post("/session/active", status_code=204)
def stay(_who: Browser) -> None:
    """Report that the person is active, which keeps the session from ending for idleness."""


@router.post("/session/confirm", status_code=204)
def confirm(server: Server, request: Request, who: Browser, body: SignIn) -> None:
    """Prove to be there, with the token that the session began with; for some minutes the browser may then do what
    cannot be taken back."""
    server.auth.limits.check("confirmation", address(request))
    if not server.auth.sessions.confirm(who, body.token):
        server.auth.limits.failed("confirmation", address(request), who.name, "another token")
        raise Problem(401, "Token refused", "This is not the token that this browser signed in with.")


@router.get("/me")
def me(who: Viewer) -> dict[str, Any]:
    """Show the identity of the caller."""
    return {"name": who.name, "role": who.role, "models": list(who.models), "scopes": list(who.scopes)}
