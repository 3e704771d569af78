"""Enrolment tokens, access tokens and the audit log."""

from __future__ import annotations

import json
import time
from typing import Any

from nicegui import run, ui
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.auth import Identity, audit, create_access_token
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import ago, esc
from edgec.fleet.dashboard.shell import frame, html, live, to_sign_in, who
from edgec.fleet.devices import create_enroll_token
from edgec.fleet.errors import Problem
from edgec.fleet.server import Services
from edgec.fleet.store.tables import AccessToken, Audit, EnrollToken

VALID = {3600: "1 hour", 86400: "1 day", 7 * 86400: "1 week"}


def enroll_dialog(services: Services, identity: Identity) -> None:
    """A button that makes an enrolment token and shows how to use it."""
    with ui.dialog() as dialog, ui.card().style("width:560px;max-width:94vw"):
        ui.label("Add devices").classes("text-lg font-semibold")
        form = ui.column().classes("w-full")
        with form:
            html('<p class="e-soft">A token lets a new device in. It is shown once.</p>')
            with ui.row().classes("w-full"):
                uses = ui.number("Devices", value=1, min=1, max=100000, precision=0).props("outlined dense")
                valid = (
                    ui.select(VALID, value=86400, label="Valid for")
                    .props("outlined dense")
                    .style("min-width:140px")
                )
            hold = ui.checkbox(
                "Hold them until somebody accepts them", value=not services.settings.auto_accept
            )
        result = html()

        async def make() -> None:
            def create() -> str:
                with services.database.writing() as session:
                    row, secret = create_enroll_token(
                        session, identity.name, uses=int(uses.value or 1), valid_s=float(valid.value or 3600),
                        auto_accept=not hold.value,
                    )  # fmt: skip
                    return secret if row.id else ""

            secret = await run.io_bound(create)
            form.set_visibility(False)
            go.set_visibility(False)
            command = f"edgec agent enroll --server {services.url} --token {secret}"
            result.set_content(
                '<p class="e-soft">On the device, run this once:</p>'
                f'<code class="e-code" style="display:block" data-token="{esc(secret)}">{esc(command)}</code>'
            )

        with ui.row().classes("w-full justify-end"):
            ui.button("Close", on_click=dialog.close).props("flat color=grey-7")
            go = ui.button("Make token", on_click=make).props("unelevated")
    ui.button("Add devices", icon="add", on_click=dialog.open).props("unelevated")


def load(services: Services, identity: Identity) -> dict[str, Any]:
    """Tokens and, for administrators, the audit log."""
    with services.database.reading() as session:
        enroll = [
            (row.id, row.note, row.uses_left, row.expires_at, row.created_by, row.auto_accept)
            for row in session.scalars(
                select(EnrollToken)
                .where(EnrollToken.uses_left > 0, EnrollToken.expires_at > time.time())
                .order_by(EnrollToken.id.desc())
                .limit(30)
            )
        ]
        if not identity.may("admin"):
            return {"enroll": enroll}
        tokens = [
            (row.name, row.role, row.models, row.created_at, row.expires_at, row.revoked_at)
            for row in session.scalars(select(AccessToken).order_by(AccessToken.name).limit(200))
        ]
        lines = [
            (row.at, row.actor, row.action, row.subject, json.dumps(row.detail))
            for row in session.scalars(select(Audit).order_by(Audit.id.desc()).limit(60))
        ]
        return {"enroll": enroll, "tokens": tokens, "audit": lines}


def add(services: Services) -> None:
    """Add ``/access``."""

    @ui.page("/access")
    def access(request: Request) -> Response | None:
        identity = who(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(request, identity, "Access", "who and what may come in") as actions:
            if not identity.may("operator"):
                html(parts.empty("Not for viewers", "Ask an operator or administrator."), "e-card")
                return None
            with actions:
                if identity.may("admin"):
                    _token_dialog(services, identity)
                enroll_dialog(services, identity)
            enroll = html("", "e-card flush")
            tokens = html("", "e-card flush")
            lines = html("", "e-card flush")
            tokens.set_visibility(identity.may("admin"))
            lines.set_visibility(identity.may("admin"))

            def show(data: dict[str, Any]) -> None:
                enroll.set_content("<h2>Enrolment tokens</h2>" + _enroll(data["enroll"]))
                if "tokens" in data:
                    tokens.set_content("<h2>Access tokens</h2>" + _tokens(data["tokens"]))
                    lines.set_content("<h2>Audit log</h2>" + _audit(data["audit"]))

            live(lambda: load(services, identity), show, 3.0)
        return None


def _token_dialog(services: Services, identity: Identity) -> None:
    with ui.dialog() as dialog, ui.card().style("width:480px;max-width:94vw"):
        ui.label("New access token").classes("text-lg font-semibold")
        name = ui.input("Name, such as ann or ci").props("outlined dense").classes("w-full")
        roles = {
            "viewer": "viewer: looks",
            "operator": "operator: rolls out",
            "admin": "admin: hands out access",
        }
        role = ui.select(roles, value="viewer", label="Role").props("outlined dense").classes("w-full")
        result = html()

        async def make() -> None:
            def create() -> str:
                with services.database.writing() as session:
                    row, secret = create_access_token(session, str(name.value).strip(), str(role.value))
                    audit(session, identity.name, "access-token.create", row.name, role=row.role)
                    return secret

            if not str(name.value or "").strip():
                ui.notify("Give it a name.", type="warning")
                return
            try:
                secret = await run.io_bound(create)
            except Problem as problem:
                ui.notify(problem.detail, type="negative")
                return
            result.set_content(
                f'<p class="e-soft">Shown only now:</p><code class="e-code">{esc(secret)}</code>'
            )

        with ui.row().classes("w-full justify-end"):
            ui.button("Close", on_click=dialog.close).props("flat color=grey-7")
            ui.button("Make token", on_click=make).props("unelevated")
    ui.button("Access token", icon="key", on_click=dialog.open).props("outline")


def _enroll(rows: list[Any]) -> str:
    if not rows:
        return parts.empty("No enrolment tokens", "Make one to let a device in.", "edgec fleet token create")
    heads = ("#", "Note", "#Uses left", "Expires", "~By", "~Admission")
    cells = [
        [
            f'<span class="e-soft">{i}</span>',
            esc(note) or "–",
            str(left),
            _until(expires),
            esc(by),
            "at once" if auto else "held",
        ]
        for i, note, left, expires, by, auto in rows
    ]
    return parts.table(heads, cells)


def _until(at: float | None) -> str:
    if at is None:
        return "never"
    left = at - time.time()
    if left <= 0:
        return f'<span class="e-faint">expired {ago(at)}</span>'
    return f"in {left / 86400:.0f} d" if left > 2 * 86400 else f"in {max(left / 3600, 0):.0f} h"


def _tokens(rows: list[Any]) -> str:
    heads = ("Name", "Role", "~Models", "~Made", "Expires", "State")
    cells = [
        [f"<b>{esc(name)}</b>", esc(role), esc(", ".join(models) or "all"), ago(made), _until(expires),
         parts.badge("revoked") if revoked else parts.badge("accepted", "valid")]
        for name, role, models, made, expires, revoked in rows
    ]  # fmt: skip
    return parts.table(heads, cells)


def _audit(rows: list[Any]) -> str:
    heads = ("When", "Who", "What", "~Subject", "~Detail")
    cells = [
        [ago(at), esc(actor), f'<span class="e-mono">{esc(action)}</span>', esc(subject),
         f'<span class="e-mono e-soft">{esc(detail if detail != "{}" else "")}</span>']
        for at, actor, action, subject, detail in rows
    ]  # fmt: skip
    return parts.table(heads, cells)
