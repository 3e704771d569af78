"""The list of rollouts, and the page of one."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import ago, badge, esc, link
from edgec.fleet.dashboard.rollout import Buttons, load_one, show_rollout
from edgec.fleet.dashboard.shell import (
    frame,
    html,
    live,
    signed_in,
    to_sign_in,
)
from edgec.fleet.rollouts.service import member_counts, view
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Rollout


def load_list(services: Services) -> list[dict[str, Any]]:
    """The newest rollouts."""
    with services.database.reading() as session:
        rows = list(session.scalars(select(Rollout).order_by(Rollout.id.desc()).limit(100)))
        members = member_counts(session, [row.id for row in rows])
        return [view(row, members[row.id]) for row in rows]


def add(services: Services) -> None:
    """Add `/rollouts` and `/rollouts/{id}`."""

    @ui.page("/rollouts")
    def rollouts(request: Request) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(services, request, identity, "Rollouts"):
            body = html("", "e-card flush")
            live(lambda: load_list(services), lambda rows: body.set_content(_list(rows)), 1.5)
        return None

    @ui.page("/rollouts/{rollout_id}")
    def rollout_page(request: Request, rollout_id: int) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        wanted: dict[str, Any] = {"state": "", "page": 0}
        first = load_one(services, rollout_id, wanted)
        title = f"{first['model']}:{first['version']}" if first else f"Rollout {rollout_id}"
        with frame(
            services, request, identity, title, f'<a href="/rollouts">Rollouts</a> / {rollout_id}'
        ) as actions:
            if first is None:
                html(parts.empty("No such rollout", "It may have been on another server."), "e-card")
                return None
            buttons = Buttons(services, identity, rollout_id, actions)
            show_rollout(services, rollout_id, wanted, buttons, first)
        return None


def _list(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return parts.empty(
            "No rollouts yet",
            "Send a version to a device or a group.",
            "edgec deploy MODEL:VERSION --to DEVICE",
        )
    heads = ("#~No.", "Version", "~For", "Progress", "State", "~Stage", "~Started", "~By")
    cells, links = [], []
    for row in rows:
        href = link("/rollouts", row["id"])
        links.append(href)
        scope = row["scope"]["name"] or "all devices"
        cells.append(
            [
                f'<span class="e-soft">{row["id"]}</span>', f'<a class="main" href="{href}">{esc(row["model"])}:{esc(row["version"])}</a>',
                esc(scope), parts.bar(row["devices"]), badge(row["state"]), f"{row['stage'] + 1} of {len(row['plan']['stages'])}",
                ago(row["created_at"]), esc(row["created_by"]),
            ]
        )  # fmt: skip
    return parts.table(heads, cells, links)
