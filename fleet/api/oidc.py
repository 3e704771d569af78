"""Sign-in through an identity provider under `/api/v1/oidc`: where browsers are sent there, and come back."""

from __future__ import annotations

import hmac
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from edgec.fleet.access.oidc import Person, Provider, SignInRefused
from edgec.fleet.api.context import Asking, Server, address
from edgec.fleet.api.session import set_cookie
from edgec.fleet.audit.log import audit
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services

router = APIRouter(prefix="/api/v1/oidc", tags=["session"])
STATE = "edgec_oidc"
PATH = "/api/v1/oidc"


def _provider(server: Services) -> Provider:
    if server.oidc is None:
        raise Problem(
            404, "No identity provider", "This fleet is not connected to one (EDGEC_FLEET_OIDC_ISSUER)."
        )
    return server.oidc


def local(target: str) -> str:
    """A path of this server to go to; `//elsewhere` and `https:` would lead to other sites."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"


@router.get("/start", response_class=RedirectResponse, status_code=303)
def start(
    server: Server, request: Request, asking: Asking, next: str = "/", confirm: bool = False
) -> Response:
    """Send the browser to the identity provider; with `confirm`, to prove that its person is there."""
    provider = _provider(server)
    server.auth.limits.check("sign-in", address(request))
    session = asking.session if confirm and asking is not None else ""
    try:
        url, state = provider.begin(local(next), session)
    except SignInRefused as error:
        return _refuse(str(error))
    answer = RedirectResponse(url, 303)
    answer.set_cookie(
        STATE, state, max_age=600, httponly=True, samesite="lax", secure=server.secure, path=PATH
    )
    return answer


@router.get("/callback", response_class=RedirectResponse, status_code=303)
def callback(
    server: Server, request: Request, asking: Asking, state: str = "", code: str = "", error: str = ""
) -> Response:
    """Where the identity provider sends the browser back to."""
    provider = _provider(server)
    server.auth.limits.check("sign-in", address(request))
    try:
        # Another site could send a browser here with a state and a code of its own.
        if not state or not hmac.compare_digest(request.cookies.get(STATE, "").encode(), state.encode()):
            raise SignInRefused("this browser did not begin this sign-in; cookies may be switched off")
        if error:
            raise SignInRefused(f"the identity provider refused: {error[:64]}")
        person = provider.finish(state, code)
        answer = RedirectResponse(person.target, 303)
        if person.session:
            session = asking.session if asking is not None else ""
            if session != person.session or not server.auth.sessions.confirm_by_provider(
                session, person.subject
            ):
                raise SignInRefused("someone else signed in at the identity provider")
        else:
            set_cookie(server, answer, _begin(server, person, address(request)))
    except SignInRefused as refused:
        server.auth.limits.failed("sign-in", address(request), reason=str(refused))
        return _refuse(str(refused))
    answer.delete_cookie(STATE, path=PATH)
    return answer


def _begin(server: Services, person: Person, origin: str) -> str:
    with server.database.writing() as session:
        audit(session, person.name, "sign-in", address=origin, subject=person.subject, role=person.role)
        return server.auth.sessions.begin(session, person.name, person.role, subject=person.subject)


def _refuse(reason: str) -> Response:
    answer = RedirectResponse(f"/login?refused={quote(reason[:300])}", 303)
    answer.delete_cookie(STATE, path=PATH)
    return answer
