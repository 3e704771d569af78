"""Dependencies shared by all routes: the services, the caller's identity, and pagination."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request

from edgec.fleet.access.identity import Identity, Role, require_role, require_scope
from edgec.fleet.access.sessions import COOKIE, require_confirmed
from edgec.fleet.api.sendfile import PEER
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services

Row = TypeVar("Row")


def services(request: Request) -> Services:
    """The running server's parts."""
    found: Services = request.app.state.services
    return found


def address(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else "unknown"


def identity(request: Request) -> Identity | None:
    """The caller's identity: by `Authorization` header, else by the browser's cookie, else by certificate.

    That a cookie authorises changes only for requests from our own pages, `edgec.fleet.api.protection` sees to.

    Raises:
        Problem: 429 for an invalid token from an address that is locked out.
    """
    auth = services(request).auth
    if header := request.headers.get("authorization"):
        return auth.by_header(header, address(request))
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        shown = request.scope.get("extensions", {}).get(PEER)
        return auth.by_certificate(shown["certificate"]) if shown else None
    return auth.by_cookie(cookie, active=request.method not in ("GET", "HEAD"))


Asking = Annotated[Identity | None, Depends(identity)]


def allowed(request: Request, asking: Identity | None, role: Role) -> Identity:
    """The caller, if it has the role, and the scope of the route: the tag of its area.

    Raises:
        Problem: 401, 403.
    """
    tags = request.scope["route"].tags
    return require_scope(
        require_role(asking, role), str(tags[0]), write=request.method not in ("GET", "HEAD")
    )


def viewer(request: Request, asking: Asking) -> Identity:
    """A caller who may view."""
    return allowed(request, asking, "viewer")


def operator(request: Request, asking: Asking) -> Identity:
    """A caller who may roll out and change devices."""
    return allowed(request, asking, "operator")


def admin(request: Request, asking: Asking) -> Identity:
    """A caller who may grant access."""
    return allowed(request, asking, "admin")


def sure_operator(request: Request, who: Annotated[Identity, Depends(operator)]) -> Identity:
    """An operator who does what cannot be taken back: in a browser, one who proved to be there recently."""
    return require_confirmed(services(request).auth.sessions, who)


def sure_admin(request: Request, who: Annotated[Identity, Depends(admin)]) -> Identity:
    """An administrator who does what cannot be taken back."""
    return require_confirmed(services(request).auth.sessions, who)


Server = Annotated[Services, Depends(services)]
Viewer = Annotated[Identity, Depends(viewer)]
Operator = Annotated[Identity, Depends(operator)]
Admin = Annotated[Identity, Depends(admin)]
SureOperator = Annotated[Identity, Depends(sure_operator)]
SureAdmin = Annotated[Identity, Depends(sure_admin)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum number of items.")]
Cursor = Annotated[str, Query(max_length=512, description="`next` of the page before.")]


def to_cursor(value: str | int) -> str:
    """An opaque cursor for the last item of a page."""
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def next_cursor(rows: Sequence[Row], limit: int, key: Callable[[Row], str | int]) -> str | None:
    """The cursor of the page after `rows`, which were queried with `limit` plus one; None on the last page."""
    return to_cursor(key(rows[limit - 1])) if len(rows) > limit else None


def from_cursor(cursor: str) -> str:
    """The value in a cursor; empty for the first page.

    Raises:
        Problem: 400 for a cursor that is not ours.
    """
    try:
        value = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError as error:  # from binascii, or not ASCII
        raise Problem(400, "Bad cursor", "Use `next` of the previous page, unchanged.") from error
    return value.replace("\x00", "")


def number_cursor(cursor: str) -> int | None:
    """The number in a cursor; None for the first page.

    Raises:
        Problem: 400 for a cursor that is not ours.
    """
    value = from_cursor(cursor)
    if not value:
        return None
    if not value.isdecimal() or len(value) > 18:
        raise Problem(400, "Bad cursor", "Use `next` of the previous page, unchanged.")
    return int(value)


def page(items: list[Any], following: str | None, **extra: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A page of a list."""
    return {"items": items, "next": following, **extra}
