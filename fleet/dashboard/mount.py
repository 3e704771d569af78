"""Mounts the dashboard on the application."""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import ui
from starlette.responses import Response

from edgec.fleet.dashboard import (
    access,
    captures,
    device,
    devices,
    experiments,
    missing,
    models,
    overview,
    rollouts,
    signin,
)
from edgec.fleet.dashboard.reference import STYLE, reference
from edgec.fleet.dashboard.theme import FAVICON
from edgec.fleet.services import Services

PAGES = (signin, overview, devices, device, models, rollouts, experiments, captures, access)


def mount(app: FastAPI, services: Services) -> None:
    """Add the pages. NiceGUI's pages are global, so there is one dashboard per process."""
    for page in PAGES:
        page.add(services)
    missing.add()

    @app.get("/api/docs", include_in_schema=False)
    def docs() -> Response:
        return missing.plain_page("The API", reference(app.openapi()), style=STYLE)

    ui.run_with(
        app,
        title="edgec fleet",
        favicon=FAVICON,
        show_welcome_message=False,
        reconnect_timeout=10,
        language="en-US",
        gzip_middleware_factory=None,  # api.protection compresses, after it has read the page's scripts
    )
