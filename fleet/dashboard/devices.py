"""The list of devices: filtered, searched, paged by the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import Response

from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.access import enroll_dialog
from edgec.fleet.dashboard.parts import ago, badge, chips, esc, link, number
from edgec.fleet.dashboard.shell import Pager, frame, html, live, signed_in, to_sign_in
from edgec.fleet.dashboard.slots import model_lines
from edgec.fleet.devices.queries import device_filter, summary
from edgec.fleet.devices.slots import slots_of
from edgec.fleet.groups.service import group_query
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Device, DeviceSlot, Group

PAGE = 50
STATES = {
    "": "All states", "online": "Online", "offline": "Offline", "stopped": "Stopped", "never": "Not seen yet",
    "pending": "Pending", "revoked": "Revoked", "drift": "Not on the desired version", "idle": "Without frames",
}  # fmt: skip


def load(services: Services, wanted: dict[str, Any]) -> dict[str, Any]:
    """A page of devices, the number of all that match, and what the filters offer."""
    with services.database.reading() as session:
        group = session.scalar(select(Group).filter_by(name=wanted["group"])) if wanted["group"] else None
        idle = wanted["state"] == "idle"
        state = "online" if idle else wanted["state"]
        query = device_filter(
            group_query(group) if group else select(Device), search=wanted["search"], state=state,
            target=wanted["target"], version=wanted["version"], label=wanted["label"],
        )  # fmt: skip
        query = query.where(Device.fps == 0) if idle else query
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        page = max(min(wanted["page"], (total - 1) // PAGE), 0)
        rows = session.scalars(query.order_by(Device.name).offset(page * PAGE).limit(PAGE)).all()
        slots = slots_of(session, [row.id for row in rows])
        targets = list(session.scalars(select(Device.target).distinct().order_by(Device.target).limit(100)))
        versions = list(
            session.scalars(select(DeviceSlot.version).distinct().order_by(DeviceSlot.version).limit(100))
        )
        groups = list(session.scalars(select(Group.name).order_by(Group.name).limit(200)))
        everything = session.scalar(select(func.count(Device.id))) or 0
        return {
            "rows": [summary(row, slots[row.id]) for row in rows],
            "total": total,
            "page": page,
            "everything": everything,
            "choices": {"target": targets, "version": versions, "group": groups},
        }


def add(services: Services) -> None:
    """Add `/devices`."""

    @ui.page("/devices")
    def devices(
        request: Request, state: str = "", search: str = "", version: str = "", group: str = "", target: str = "",
        label: str = "",
    ) -> Response | None:  # fmt: skip
        identity = signed_in(services, request)
        if identity is None:
            return to_sign_in(request)
        wanted: dict[str, Any] = {
            "search": search, "state": state if state in STATES else "", "target": target, "version": version,
            "group": group, "label": label, "page": 0,
        }  # fmt: skip
        with frame(services, request, identity, "Devices") as actions:
            if identity.may("operator"):
                with actions:
                    enroll_dialog(services, identity)
            _show(services, wanted)
        return None


def _show(services: Services, wanted: dict[str, Any]) -> None:
    """The filters, and the page of the list that they select."""

    async def changed(key: str, value: Any) -> None:  # noqa: ANN401 - of a NiceGUI event
        wanted[key], wanted["page"] = value or "", 0
        await refresh()

    selects = _filters(wanted, changed)
    with ui.element("div").classes("e-card flush"):
        body = html()
        pager = Pager(PAGE, lambda by: turn(by))

    def show(data: dict[str, Any]) -> None:
        body.set_content(_table(data))
        for key, select_box in selects.items():
            options = {"": f"All {key}s"} | {value: value for value in data["choices"][key] if value}
            options |= {wanted[key]: wanted[key] or f"All {key}s"}
            if options != select_box.options:
                select_box.set_options(options, value=wanted[key])
        wanted["page"] = data["page"]
        pager.show(data["page"], data["total"])

    async def turn(by: int) -> None:
        wanted["page"] += by
        await refresh()

    refresh = live(lambda: load(services, dict(wanted)), show)


def _filters(wanted: dict[str, Any], changed: Callable[[str, Any], Awaitable[None]]) -> dict[str, ui.select]:
    """Inputs that report changes; returns the selects whose choices depend on the devices."""
    selects: dict[str, ui.select] = {}
    with ui.element("div").classes("e-filters"):
        box = ui.input(placeholder="Search name or target", value=wanted["search"]).props(
            'outlined dense clearable debounce=250 aria-label="Search devices"'
        )
        box.classes("e-search").style("min-width:240px")
        box.on_value_change(lambda e: changed("search", e.value))
        chosen = (
            ui.select(STATES, value=wanted["state"])
            .props("outlined dense aria-label=State")
            .style("min-width:150px")
        )
        chosen.on_value_change(lambda e: changed("state", e.value))
        for key in ("target", "version", "group"):
            selects[key] = ui.select({"": f"All {key}s"}, value="").props(f"outlined dense aria-label={key}")
            selects[key].style("min-width:140px").on_value_change(lambda e, key=key: changed(key, e.value))
        tag = ui.input(placeholder="Label, such as site=lyon", value=wanted["label"]).props(
            "outlined dense clearable debounce=250 aria-label=Label"
        )
        tag.style("min-width:170px").on_value_change(lambda e: changed("label", e.value))
    return selects


def _table(data: dict[str, Any]) -> str:
    if not data["everything"]:
        return parts.empty(
            "No devices yet",
            "Create an enrolment token, then start the agent with it.",
            "edgec fleet token create",
        )
    if not data["rows"]:
        return parts.empty("Nothing matches", "No device fits the search and filters; clear one of them.")
    rows, links = [], []
    for row in data["rows"]:
        state = row["state"] if row["admission"] == "accepted" else row["admission"]
        running = model_lines(row)
        shown = badge(state) + (' <span class="e-badge bad">two devices</span>' if row["duplicate"] else "")
        href = link("/devices", row["name"])
        links.append(href)
        rows.append(
            [
                f'<a class="main" href="{href}">{esc(row["name"])}</a>', shown, esc(row["target"]), running,
                number(row["fps"]), number(row["latency_ms"], " ms"), chips(row["labels"]), ago(row["last_seen"]),
            ]
        )  # fmt: skip
    heads = ("Device", "State", "~Target", "Models", "#~fps", "#~Latency", "~Labels", "~Last seen")
    return parts.table(heads, rows, links)
