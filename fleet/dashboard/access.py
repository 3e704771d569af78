"""Settings: enrolment tokens, access tokens, groups and the audit log."""

from __future__ import annotations

import json
import time
from typing import Any

from nicegui import run, ui
from pydantic import ValidationError
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.access.identity import AREAS, Identity
from edgec.fleet.access.tokens import NewAccessToken, issue_access_token
from edgec.fleet.audit.log import audit_query
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.groups import group_dialog, groups_table
from edgec.fleet.dashboard.parts import ago, esc, link
from edgec.fleet.dashboard.shell import (
    Pager,
    dialog_card,
    frame,
    html,
    live,
    signed_in,
    surely,
    to_sign_in,
)
from edgec.fleet.devices.enrolment import NewEnrollToken, issue_enroll_token
from edgec.fleet.groups.service import group_counts
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services
from edgec.fleet.store.tables import AccessToken, Audit, EnrollToken, Group

PAGE = 25
DAYS = {1: "1 day", 7: "1 week", 30: "30 days", 90: "90 days", 365: "1 year"}
SCOPES = [f"{area}:{kind}" for area in AREAS for kind in ("read", "write")]
VALID = {3600: "1 hour", 86400: "1 day", 7 * 86400: "1 week"}


def enroll_dialog(services: Services, identity: Identity) -> None:
    """A button that makes an enrolment token and shows how to use it."""
    with dialog_card("Add devices", 560) as dialog:
        form = ui.column().classes("w-full")
        with form:
            html('<p class="e-soft">A token lets a new device enrol. It is shown once.</p>')
            with ui.row().classes("w-full"):
                uses = ui.number("Devices", value=1, min=1, max=100000, precision=0).props("outlined dense")
                valid = (
                    ui.select(VALID, value=86400, label="Valid for")
                    .props("outlined dense")
                    .style("min-width:140px")
                )
            hold = ui.checkbox(
                "Hold them until someone accepts them", value=not services.settings.auto_accept
            )
        result = html()

        async def make() -> None:
            def create() -> str:
                with services.database.writing() as session:
                    wanted = NewEnrollToken(
                        uses=int(uses.value or 1),
                        valid_s=float(valid.value or 3600),
                        auto_accept=not hold.value,
                    )
                    return issue_enroll_token(session, identity.name, wanted)[1]

            secret = await run.io_bound(create)
            turn(False)
            command = f"edgec agent enroll --server {services.url} --token {secret}"
            result.set_content(
                '<p class="e-soft">On the device, run this once:</p>'
                f'<code class="e-code" style="display:block" data-token="{esc(secret)}">{esc(command)}</code>'
            )

        def turn(asking: bool) -> None:
            form.set_visibility(asking)
            go.set_visibility(asking)

        def begin() -> None:
            # A secret is shown only once; another token can be created.
            result.set_content("")
            turn(True)
            dialog.open()

        with ui.row().classes("w-full justify-end"):
            ui.button("Close", on_click=dialog.close).props("flat color=quiet")
            go = ui.button("Create token", on_click=make).props("unelevated")
    ui.button("Add devices", icon="add", on_click=begin).props("unelevated")


def load(services: Services, identity: Identity, wanted: dict[str, Any]) -> dict[str, Any]:
    """Tokens, groups and, for administrators, a page of the audit log."""
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
        found = session.scalars(select(Group).order_by(Group.name).limit(100)).all()
        numbers = group_counts(session, found)
        groups = [(g.name, g.description, len(g.devices), g.selector, numbers[g.id]) for g in found]
        if not identity.may("admin"):
            return {"enroll": enroll, "groups": groups}
        tokens = [
            (row.name, row.role, [*row.models, *row.scopes], row.created_at, row.expires_at, row.revoked_at)
            for row in session.scalars(select(AccessToken).order_by(AccessToken.name).limit(200))
        ]
        query = audit_query(wanted["search"])
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        page = max(min(wanted["page"], (total - 1) // PAGE), 0)
        rows = session.scalars(query.order_by(Audit.id.desc()).offset(page * PAGE).limit(PAGE))
        lines = [(row.at, row.actor, row.action, row.subject, json.dumps(row.detail)) for row in rows]
        return {
            "enroll": enroll, "groups": groups, "tokens": tokens, "audit": lines, "page": page, "total": total,
        }  # fmt: skip


def add(services: Services) -> None:
    """Add `/access`."""

    @ui.page("/access")
    def access(request: Request) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        with frame(
            services, request, identity, "Settings", "access of people and devices, and the audit log"
        ) as actions:
            if not identity.may("operator"):
                html(parts.empty("Not for viewers", "Ask an operator or administrator."), "e-card")
                return None
            with actions:
                if identity.may("admin"):
                    _token_dialog(services, identity)
                group_dialog(services, identity)
                enroll_dialog(services, identity)
            _show(services, identity)
        return None


def _show(services: Services, identity: Identity) -> None:
    wanted: dict[str, Any] = {"search": "", "page": 0}
    boxes = {name: html("", "e-card flush") for name in ("enroll", "groups", "tokens")}
    boxes["tokens"].set_visibility(identity.may("admin"))
    with ui.element("div").classes("e-card flush") as log:
        with ui.element("div").classes("e-top").style("padding:12px 16px 0"):
            html("<h2 style='padding:0;margin:0'>Audit log</h2>")
            box = ui.input(placeholder="Actor, action or target").props(
                'outlined dense clearable debounce=250 aria-label="Search the audit log"'
            )
        lines = html()
        pager = Pager(PAGE, lambda by: turn(by))
    log.set_visibility(identity.may("admin"))

    def show(data: dict[str, Any]) -> None:
        boxes["enroll"].set_content("<h2>Enrolment tokens</h2>" + _enroll(data["enroll"]))
        boxes["groups"].set_content("<h2>Groups</h2>" + groups_table(data["groups"]))
        if "tokens" in data:
            boxes["tokens"].set_content("<h2>Access tokens</h2>" + _tokens(data["tokens"], identity))
            lines.set_content(_audit(data["audit"]))
            pager.show(data["page"], data["total"])
            wanted["page"] = data["page"]

    async def turn(by: int) -> None:
        wanted["page"] += by
        await refresh()

    async def search(text: str | None) -> None:
        wanted["search"], wanted["page"] = text or "", 0
        await refresh()

    box.on_value_change(lambda e: search(e.value))
    refresh = live(lambda: load(services, identity, dict(wanted)), show, 3.0)


def _token_dialog(services: Services, identity: Identity) -> None:
    with dialog_card("New access token", 480) as dialog:
        name = ui.input("Name, such as ann or ci").props("outlined dense").classes("w-full")
        roles = {
            "viewer": "viewer: looks",
            "operator": "operator: rolls out",
            "admin": "admin: hands out access",
        }
        role = ui.select(roles, value="viewer", label="Role").props("outlined dense").classes("w-full")
        valid = ui.select(DAYS, value=90, label="Valid for").props("outlined dense").classes("w-full")
        scopes = ui.select(SCOPES, multiple=True, label="Only for (empty: all)")
        scopes.props("outlined dense use-chips").classes("w-full")
        result = html()

        def row_name() -> str:
            return str(name.value or "").strip()

        def begin() -> None:
            result.set_content("")
            dialog.open()

        async def make() -> None:
            def create() -> str:
                with services.database.writing() as session:
                    wanted = NewAccessToken.model_validate(
                        {
                            "name": row_name(),
                            "role": role.value,
                            "valid_s": float(valid.value) * 86400,
                            "scopes": list(scopes.value or []),
                        }
                    )
                    return issue_access_token(session, identity.name, wanted)[1]

            try:
                secret = await run.io_bound(create)
            except (Problem, ValidationError) as error:
                text = error.detail if isinstance(error, Problem) else error.errors()[0]["msg"]
                ui.notify(text, type="negative")
                return
            text = f"The token of {row_name()}, shown only now:"
            result.set_content(f'<p class="e-soft">{esc(text)}</p><code class="e-code">{esc(secret)}</code>')
            name.set_value("")

        async def ask() -> None:
            if not row_name():
                ui.notify("Give it a name.", type="warning")
                return
            await surely(services, identity, make)

        with ui.row().classes("w-full justify-end"):
            ui.button("Close", on_click=dialog.close).props("flat color=quiet")
            ui.button("Create token", on_click=ask).props("unelevated")
    ui.button("New access token", icon="key", on_click=begin).props("outline")


def _enroll(rows: list[Any]) -> str:
    if not rows:
        return parts.empty(
            "No enrolment tokens", "Create one to let a device enrol.", "edgec fleet token create"
        )
    heads = ("#~No.", "Note", "#Uses left", "Expires", "~By", "~Admission", "")
    cells = [
        [
            f'<span class="e-soft">{i}</span>',
            esc(note) or "–",
            str(left),
            _until(expires),
            esc(by),
            "at once" if auto else "held",
            parts.button(
                "Revoke",
                "DELETE",
                f"/api/v1/enroll-tokens/{i}",
                ask="Revoke it? No further device can enrol with it.",
                tone="bad",
            ),
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


def _tokens(rows: list[Any], identity: Identity) -> str:
    def revoke(name: str) -> str:
        ask = f"Revoke the token {name}, and sign out every browser that used it?"
        return parts.button("Revoke", "DELETE", link("/api/v1/access-tokens", name), ask=ask, tone="bad")

    heads = ("Name", "Role", "~Only for", "~Made", "~Expires", "State", "")
    cells = [
        [f"<b>{esc(name)}</b>", esc(role), esc(", ".join(models) or "all"), ago(made), _until(expires),
         parts.badge("revoked") if revoked else parts.badge("revoked", "expired") if expires and expires < time.time()
         else parts.badge("accepted", "valid"),
         "" if revoked or name == identity.name else revoke(name)]
        for name, role, models, made, expires, revoked in rows
    ]  # fmt: skip
    return parts.table(heads, cells)


def _audit(rows: list[Any]) -> str:
    if not rows:
        return parts.empty("Nothing matches", "No entry of the audit log contains this text.")
    heads = ("When (UTC)", "Who", "What", "~Whom", "~Detail")
    cells = [
        [parts.moment(at), esc(actor),
         f'<span class="e-mono" style="white-space:nowrap">{esc(action)}</span><span class="e-narrow e-soft">{esc(subject)}</span>', esc(subject),
         f'<span class="e-mono e-soft">{esc(detail if detail != "{}" else "")}</span>']
        for at, actor, action, subject, detail in rows
    ]  # fmt: skip
    return parts.table(heads, cells)
