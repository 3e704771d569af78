"""The application that serves the API and the registry."""

from __future__ import annotations

import logging

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, Response

from edgec.fleet.api import (
    access,
    audit,
    captures,
    certificates,
    deprecated,
    devices,
    enrolment,
    experiments,
    groups,
    jobs,
    metrics,
    models,
    oidc,
    ops,
    rollouts,
    session,
    shadows,
    telemetry,
    trust,
)
from edgec.fleet.api.context import identity
from edgec.fleet.api.etag import Conditional
from edgec.fleet.api.protection import Compressed, Protection
from edgec.fleet.api.registry import Registry
from edgec.fleet.problems import Problem, problem_response
from edgec.fleet.registry.blobs import StoreAway
from edgec.fleet.registry.errors import RegistryError
from edgec.fleet.services import Services

log = logging.getLogger(__name__)
DESCRIPTION = (
    "Devices, models and rollouts of one fleet. Errors are problem+json (RFC 9457); times are Unix seconds."
)
AREAS = (
    enrolment, access, audit, session, oidc, certificates, devices, groups, jobs, shadows, telemetry, models, rollouts,
    experiments, captures, ops, metrics, trust, deprecated,
)  # fmt: skip


def create_app(services: Services) -> FastAPI:
    """Build the application around running services."""
    app = FastAPI(
        title="edgec fleet",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.services = services
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(DataError, _no_text)
    app.add_exception_handler(StoreAway, _store_away)
    for area in AREAS:
        app.include_router(area.router)
    _add_registry(app, services)
    app.add_middleware(Conditional)
    app.add_middleware(Protection, services.url)
    app.add_middleware(lambda inner: Compressed(inner, GZipMiddleware(inner)))
    return app


def _add_registry(app: FastAPI, services: Services) -> None:
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

    registry = Registry(services.database, services.blobs, services.settings.max_upload)

    async def entry(request: Request) -> Response:
        who = await to_thread.run_sync(identity, request)
        headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
        if who is None:
            challenge = {"WWW-Authenticate": 'Basic realm="edgec fleet"'}
            return RegistryError(
                401, "UNAUTHORIZED", "sign in with a token", headers=headers | challenge
            ).response()
        path = request.url.path.removeprefix("/v2").strip("/") if request.url.path != "/v2/" else ""
        if not path:
            return JSONResponse({}, headers=headers)
        # The trailing slash distinguishes `blobs/uploads/` from a blob called `uploads`.
        kept = path + "/" if request.url.path.endswith("/") else path
        answer = await registry.handle(request, kept, who)
        answer.headers.update(headers)
        return answer

    app.add_api_route("/v2/", entry, methods=methods, include_in_schema=False)
    app.add_api_route("/v2/{path:path}", entry, methods=methods, include_in_schema=False)


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    fields = [{"field": ".".join(map(str, item["loc"])), "message": item["msg"]} for item in error.errors()]
    return problem_response(Problem(422, "Invalid request", f"{where}: {first['msg']}", errors=fields))


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = problem_response(Problem(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


async def _database_away(_request: Request, error: Exception) -> Response:
    assert isinstance(error, OperationalError)
    log.warning("the database does not answer: %s", error.orig)
    return _away("Database unavailable")


async def _store_away(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreAway)
    log.warning("blobs are unavailable: %s", error.strerror)
    return _away("Storage unavailable")


def _away(title: str) -> Response:
    answer = problem_response(Problem(503, title, "Try again in a moment."))
    answer.headers["Retry-After"] = "5"
    return answer


async def _no_text(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DataError)
    log.info("a request with characters that the database cannot store: %s", error.orig)
    return problem_response(
        Problem(422, "Invalid request", "Names and values must not contain NUL characters.")
    )
