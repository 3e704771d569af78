"""Dependencies shared by all routes: the services, the caller's identity, and pagination."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request

from edgec.fleet.access.auth import COOKIE
from edgec.fleet.access.identity import Identity, require_role
from edgec.fleet.api.sendfile import PEER
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services

Row = TypeVar("Row")


def services(request: Request) -> Services:
    """The running server's parts."""
    found: Services = request.app.state.services
    return found


def identity(request: Request) -> Identity | None:
    """The caller's identity: by `Authorization` header, else by the browser's cookie, else by certificate.

    A cookie authorises changes only for requests from our own pages.
    """
    auth = services(request).auth
    if header := request.headers.get("authorization"):
        return auth.by_header(header)
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        shown = request.scope.get("extensions", {}).get(PEER)
        return auth.by_certificate(shown["certificate"]) if shown else None
    site = request.headers.get("sec-fetch-site", "same-origin")
    if request.method not in ("GET", "HEAD") and site not in ("same-origin", "none"):
        return None
    return auth.by_cookie(cookie)


Asking = Annotated[Identity | None, Depends(identity)]


def viewer(asking: Asking) -> Identity:
    """A caller who may view."""
    return require_role(asking, "viewer")


def operator(asking: Asking) -> Identity:
    """A caller who may roll out and change devices."""
    return require_role(asking, "operator")


def admin(asking: Asking) -> Identity:
    """A caller who may grant access."""
    return require_role(asking, "admin")


Server = Annotated[Services, Depends(services)]
Viewer = Annotated[Identity, Depends(viewer)]
Operator = Annotated[Identity, Depends(operator)]
Admin = Annotated[Identity, Depends(admin)]
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
