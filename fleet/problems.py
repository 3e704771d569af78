"""Error responses of the HTTP API, as RFC 9457 defines them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse


class Problem(Exception):
    """An error response of the API (RFC 9457): HTTP `status`, a short `title`, and a `detail` that tells what to
    do."""

    def __init__(self, status: int, title: str, detail: str = "", **extra: Any) -> None:  # noqa: ANN401 - JSON
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.extra = extra


def not_found(kind: str, name: object) -> Problem:
    """A 404 that names what is missing."""
    return Problem(404, f"{kind} not found", f"There is no {kind} called {str(name)!r} here.")


def problem_response(problem: Problem) -> JSONResponse:
    """The response for a problem, as `application/problem+json`."""
    body: dict[str, Any] = {"type": "about:blank", "title": problem.title, "status": problem.status}
    if problem.detail:
        body["detail"] = problem.detail
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    if seconds := problem.extra.get("retry_after"):
        headers["Retry-After"] = str(seconds)
    return JSONResponse(body | problem.extra, problem.status, headers, media_type="application/problem+json")
