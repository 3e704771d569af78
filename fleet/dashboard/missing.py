"""Error pages: nothing at the address, or the database does not answer."""

from __future__ import annotations

import json
import logging

from fastapi.exceptions import RequestValidationError
from nicegui import app
from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from edgec.fleet.dashboard.parts import empty, esc
from edgec.fleet.dashboard.theme import CSS, FAVICON, LOGO, THEME
from edgec.fleet.problems import Problem, problem_response

log = logging.getLogger(__name__)


def add() -> None:
    """Respond to browsers with our own pages, and to everything else with problem+json."""
    app.add_exception_handler(404, _missing)
    app.add_exception_handler(RequestValidationError, _missing)
    app.add_exception_handler(OperationalError, _database_away)


async def _missing(request: Request, _error: Exception) -> Response:
    if not _wants_page(request):
        return problem_response(Problem(404, "Not Found", f"Nothing is at {request.url.path}."))
    body = empty("There is no such page", f"Nothing is at {request.url.path}.")
    return plain_page("Not found", _card(body), 404)


async def _database_away(request: Request, error: Exception) -> Response:
    assert isinstance(error, OperationalError)
    log.warning("the database does not answer: %s", error.orig)
    answer: Response
    if _wants_page(request):
        text = "Nothing that devices send is lost meanwhile; load the page again in a moment."
        answer = plain_page("Unavailable", _card(empty("The database does not answer", text)), 503)
    else:
        answer = problem_response(Problem(503, "Database unavailable", "Try again in a moment."))
    answer.headers["Retry-After"] = "5"
    return answer


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def _card(body: str) -> str:
    link = '<p style="text-align:center;margin:0"><a class="e-mini main" style="padding:7px 14px" href="/">To the overview</a></p>'
    return f'<div class="e-card" style="max-width:560px;margin:12vh auto 0">{body}{link}</div>'


def plain_page(title: str, body: str, status: int = 200, style: str = "") -> HTMLResponse:
    """A page that needs no connection to the server: `body` is HTML, `style` further rules."""
    dark = json.dumps(f"{THEME}=dark"), json.dumps(f"{THEME}=light")
    script = (
        f"if (document.cookie.includes({dark[0]}) || (!document.cookie.includes({dark[1]}) &&"
        " matchMedia('(prefers-color-scheme: dark)').matches)) document.body.classList.add('body--dark');"
    )
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{esc(title)} · edgec fleet</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="{FAVICON}">'
        f"<style>*, *::before {{ box-sizing:border-box; }} body {{ margin:0; }} {CSS} {style}</style></head>"
        f'<body><script>{script}</script><header class="e-head"><a href="/" class="e-brand">{LOGO}<span>edgec fleet'
        f'</span></a></header><main class="e-main"><h1 class="e-title">{esc(title)}</h1>{body}</main></body></html>',
        status,
    )
