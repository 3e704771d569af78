"""The list of captures, and the page to confirm, correct or discard one."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from rich.filesize import decimal as size
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edgec.fleet.access.identity import Identity
from edgec.fleet.captures.export import FORMATS
from edgec.fleet.captures.service import Review, capture_query, truth, view
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.editor import EDITOR
from edgec.fleet.dashboard.parts import ago, badge, esc, link
from edgec.fleet.dashboard.picture import picture
from edgec.fleet.dashboard.shell import Pager, attempt, frame, html, live, signed_in, to_sign_in
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Capture, Device
from edgec.protocol.captures import CaptureReason

PAGE = 24
STATES = {
    "new": "To review", "confirmed": "Confirmed", "corrected": "Corrected", "discarded": "Discarded", "": "All captures",
}  # fmt: skip
REASONS = {"": "All reasons"} | {reason.value: reason.value.replace("-", " ") for reason in CaptureReason}


def load(services: Services, wanted: dict[str, Any]) -> dict[str, Any]:
    """A page of captures and what the filters offer."""
    query = capture_query(
        state=wanted["state"], device=wanted["device"], reason=wanted["reason"], model=wanted["model"]
    )
    usage = services.captures.usage()
    with services.database.reading() as session:
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        page = max(min(wanted["page"], (total - 1) // PAGE), 0)
        rows = session.execute(query.order_by(Capture.id.desc()).offset(page * PAGE).limit(PAGE)).all()
        models = session.scalars(select(Capture.model).distinct().order_by(Capture.model).limit(100))
        return {
            "rows": [view(row, name) for row, name in rows],
            "total": total,
            "page": page,
            "usage": usage,
            "models": [name for name in models if name],
        }


def load_one(services: Services, number: int) -> dict[str, Any] | None:
    """A capture with the number of the next one to review; None if there is no such capture."""
    with services.database.reading() as session:
        row = session.get(Capture, number) if 0 < number < 2**53 else None
        if row is None:
            return None
        waiting = select(Capture.id).where(Capture.state == "new", Capture.id != number)
        after = session.scalar(waiting.where(Capture.id < number).order_by(Capture.id.desc()).limit(1))
        following = after or session.scalar(waiting.order_by(Capture.id.desc()).limit(1))
        labels = {one["label"] for found in session.scalars(
            select(Capture.predictions).where(Capture.model == row.model).order_by(Capture.id.desc()).limit(200)
        ) for one in found}  # fmt: skip
        shown = view(row, session.get_one(Device, row.device_id).name)
        return shown | {"next": following, "labels": sorted(labels), "truth": truth(row)}


def add(services: Services) -> None:
    """Add `/captures` and `/captures/{id}`."""
    _redirect_old_pages()

    @ui.page("/captures")
    def captures(request: Request, state: str = "new", device: str = "") -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        wanted: dict[str, Any] = {
            "state": state if state in STATES else "new", "device": device, "reason": "", "model": "", "page": 0,
        }  # fmt: skip
        with frame(
            services, request, identity, "Captures", "pictures that devices sent for retraining"
        ) as actions:
            _list(services, identity, wanted, actions)
        return None

    @ui.page("/captures/{number}")
    def capture_page(request: Request, number: int) -> Response | None:
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        found = load_one(services, number)
        title = f"Capture {number}"
        with frame(services, request, identity, title, '<a href="/captures">Captures</a>') as actions:
            if found is None:
                html(parts.empty("No such capture", "Its device may have been deleted."), "e-card")
                return None
            _one(identity, found, actions)
        return None


def _redirect_old_pages() -> None:
    """Bookmarks of version 0.1 lead to `/samples`."""

    @ui.page("/samples")
    def old_list(request: Request) -> Response:
        return RedirectResponse(f"/captures?{request.url.query}" if request.url.query else "/captures")

    @ui.page("/samples/{number}")
    def old_capture(number: int) -> Response:
        return RedirectResponse(f"/captures/{number}")


def _list(services: Services, identity: Identity, wanted: dict[str, Any], actions: ui.element) -> None:
    shown: dict[str, Any] = {"rows": []}

    async def changed(key: str, value: Any) -> None:  # noqa: ANN401 - of a NiceGUI event
        wanted[key], wanted["page"] = value or "", 0
        await refresh()

    async def turn(by: int) -> None:
        wanted["page"] += by
        await refresh()

    async def confirm_page() -> None:
        ids = [row["id"] for row in shown["rows"] if row["state"] == "new"]
        if ids:
            review = Review(state="confirmed", annotations=None)
            await attempt(
                lambda: services.captures.review(identity.name, ids, review), f"{len(ids)} are confirmed"
            )
            await refresh()

    with ui.element("div").classes("e-filters"):
        for key, options in (("state", STATES), ("reason", REASONS), ("model", {"": "All models"})):
            box = (
                ui.select(options, value=wanted[key])
                .props(f"outlined dense aria-label={key}")
                .style("min-width:150px")
            )
            box.on_value_change(lambda e, key=key: changed(key, e.value))
        models = box
        name = ui.input(placeholder="Device", value=wanted["device"]).props(
            'outlined dense clearable debounce=250 aria-label="Device"'
        )
        name.classes("e-search").on_value_change(lambda e: changed("device", e.value))
    with ui.element("div").classes("e-card flush"):
        tiles = html("", "e-pad")
        pager = Pager(PAGE, turn)
    if identity.may("operator"):
        with actions:
            all_here = ui.button("Confirm this page", icon="done_all", on_click=confirm_page).props("outline")
            with ui.button("Export", icon="download").props("unelevated"), ui.menu():
                for form, text in zip(
                    (*FORMATS, "csv"), ("COCO", "YOLO", "Crops by class", "CSV"), strict=True
                ):
                    address = f"/api/v1/captures/export?format={form}"
                    ui.menu_item(text, lambda address=address: ui.navigate.to(address)).props("role=menuitem")

    def show(data: dict[str, Any]) -> None:
        shown.update(data)
        tiles.set_content(_usage(data["usage"]) + _tiles(data, wanted))
        pager.show(data["page"], data["total"])
        wanted["page"] = data["page"]
        if identity.may("operator"):
            all_here.set_enabled(any(row["state"] == "new" for row in data["rows"]))
        options = {"": "All models"} | {model: model for model in data["models"]}
        if options != models.options:
            models.set_options(options, value=wanted["model"])

    refresh = live(lambda: load(services, dict(wanted)), show, 2.0)


def _usage(usage: dict[str, Any]) -> str:
    used, quota = usage["bytes"], usage["quota"]
    share = min(used / quota, 1.0)
    numbers = " · ".join(
        f"{parts.count(n)} {STATES[state].lower()}" for state, n in usage["captures"].items()
    )
    return (
        f'<div class="e-top" style="margin-bottom:14px"><span class="e-soft">{numbers}</span>'
        f'<span style="min-width:230px"><span class="e-small e-soft">{size(used)} of {size(quota)}</span>'
        f'<span class="e-bar"><i class="{"bad" if share > 0.9 else "accent"}" style="width:{100 * share:.1f}%"></i></span></span></div>'
    )


def _tiles(data: dict[str, Any], wanted: dict[str, Any]) -> str:
    if not sum(data["usage"]["captures"].values()):
        text = "A device sends pictures when its configuration says which, or when a job asks it to:"
        return parts.empty("No captures yet", text, "streams.door.capture.low_confidence = [0.3, 0.5]")
    if not data["rows"]:
        if wanted["state"] == "new" and not (wanted["device"] or wanted["reason"] or wanted["model"]):
            return parts.empty(
                "Everything is reviewed", "Export the confirmed captures, or view them with the first filter."
            )
        return parts.empty("Nothing matches", "No capture fits the filters; clear one of them.")
    tiles = "".join(
        f'<a class="e-shot" href="{link("/captures", row["id"])}">{picture(row, 2.2)}<span class="cap">'
        f'<span class="grow e-small"><b>{esc(row["device"])}</b> <span class="e-soft">{esc(row["stream"])} · {ago(row["at"])}</span></span>'
        f"{badge(row['state'], row['reason'].replace('-', ' ') if row['state'] == 'new' else '')}</span></a>"
        for row in data["rows"]
    )
    return f'<div class="e-shots">{tiles}</div>'


def _one(identity: Identity, found: dict[str, Any], actions: ui.element) -> None:
    may = identity.may("operator") and found["state"] != "discarded"
    with ui.element("div").classes("e-row wide-left"):
        html('<div id="e-editor"></div>' if may else picture(found), "e-card")
        with ui.element("div").classes("e-card"):
            html(
                '<h2>What is in it</h2><div id="e-items"></div>'
                if may
                else f"<h2>What is in it</h2>{_said(found)}"
            )
            html("<h2 style='margin-top:18px'>Capture</h2>" + _facts(found))
    if not may:
        return
    with actions:
        html(
            '<button class="e-mini bad" id="e-discard" title="key d">Discard</button> '
            '<button class="e-mini main" id="e-confirm" title="key c">Confirm</button> '
            '<button class="e-mini" id="e-save" title="key s">Save correction</button>'
        )
    data = {key: found[key] for key in ("id", "width", "height", "state", "labels", "next")}
    data["items"] = [{"label": one["label"], "box": one.get("box")} for one in found["truth"]]
    # Within a script element, only `<` could end it.
    text = json.dumps(data).replace("<", "\\u003c")
    ui.add_body_html(f"<script>window.edgecCapture = {text};</script>{EDITOR}")


def _said(found: dict[str, Any]) -> str:
    rows = [
        f"<div><b>{esc(one['label'])}</b><span class='e-soft'>{parts.number(one.get('score'), '', 2)}</span></div>"
        for one in found["truth"]
    ]
    return (
        f'<div class="e-list">{"".join(rows)}</div>'
        if rows
        else parts.empty("Nothing", "No label was given.")
    )


def _facts(found: dict[str, Any]) -> str:
    reviewed = f"{esc(found['reviewed_by'])}, {ago(found['reviewed_at'])}" if found["reviewed_at"] else "–"
    facts = {
        "State": badge(found["state"]),
        "Device": f'<a class="main" href="{link("/devices", found["device"])}">{esc(found["device"])}</a>',
        "Stream": esc(found["stream"]),
        "Model": esc(f"{found['model']}:{found['version']}" if found["model"] else "–"),
        "Taken": ago(found["at"]),
        "Why": esc(found["reason"].replace("-", " ")),
        "Size": f"{found['width']}×{found['height']}, {size(found['size'])}",
        "Reviewed": reviewed,
    }
    other = found["meta"].get("other")
    if other:
        said = ", ".join(f"{one['label']} {one['score']:.2f}" for one in other.get("predictions", [])[:8])
        facts["Candidate"] = f"{esc(other.get('version', ''))}: {esc(said or 'nothing')}"
    if found["meta"].get("masked"):
        facts["Blurred"] = esc(", ".join(found["meta"]["masked"]))
    more = f'<a class="e-soft" href="/captures?{urlencode({"device": found["device"], "state": ""})}">All of this device</a>'
    return parts.pairs(facts) + f'<div style="margin-top:10px">{more}</div>'
