"""Groups of devices: the table and the dialog that makes one."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from nicegui import run, ui
from pydantic import TypeAdapter, ValidationError

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import esc, link
from edgec.fleet.dashboard.shell import dialog_card, html
from edgec.fleet.groups.service import GroupBody, save_group
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services
from edgec.protocol.names import Name

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def groups_table(rows: list[Any]) -> str:
    """Groups with the selectors of their devices."""
    if not rows:
        return parts.empty(
            "No groups", "Put devices under one name, by their labels or one by one.", "edgec fleet groups"
        )
    cells = []
    for name, description, named, selector, number in rows:
        chosen = parts.chips(
            dict(selector.get("labels", {})) | {k: v for k, v in selector.items() if k != "labels"}
        )
        chosen += f'<span class="e-chip">{named} named</span>' if named else ""
        href = f"/devices?{urlencode({'group': name})}"
        ask = f"Remove the group {name}? Its devices stay."
        remove = parts.button("Remove", "DELETE", link("/api/v1/groups", name), ask=ask, tone="bad")
        cells.append(
            [
                f'<a class="main" href="{esc(href)}">{esc(name)}</a>',
                esc(description),
                chosen,
                parts.count(number),
                remove,
            ]
        )
    return parts.table(("Group", "~Description", "~Devices that", "#Devices", ""), cells)


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"].startswith("string_"):
        return f"{first['input']!r} is not a valid name: letters, digits, '.', '_' and '-', at most 64."
    return str(first["msg"]).removeprefix("Value error, ")


def group_dialog(services: Services, identity: Identity) -> None:
    """A button that creates a group, or replaces the one of that name."""
    with dialog_card("New group") as dialog:
        name = ui.input("Name").props("outlined dense").classes("w-full")
        about = ui.input("Description").props("outlined dense").classes("w-full")
        labels = ui.input("Labels, such as line=a, site=lyon").props("outlined dense").classes("w-full")
        target = ui.input("Target, such as rpi5").props("outlined dense").classes("w-full")
        named = ui.input("Devices, such as cam-1, cam-2").props("outlined dense").classes("w-full")
        html(
            '<p class="e-small e-soft">Devices that match all labels and the target, now and later, and those named. '
            "A group of the same name is replaced.</p>"
        )

        async def make() -> None:
            wanted = dict(
                item.strip().partition("=")[::2]
                for item in str(labels.value or "").split(",")
                if item.strip()
            )
            selector: dict[str, Any] = {"labels": wanted} if wanted else {}
            selector |= {"target": target.value.strip()} if (target.value or "").strip() else {}
            devices = [item.strip() for item in str(named.value or "").split(",") if item.strip()]

            def save(name: str, body: GroupBody) -> None:
                with services.database.writing() as session:
                    save_group(session, identity.name, name, body)

            try:
                body = GroupBody(description=about.value or "", devices=devices, selector=selector)
                checked = _NAME.validate_python((name.value or "").strip())
                await run.io_bound(save, checked, body)
            except ValidationError as error:
                ui.notify(_said(error), type="warning")
                return
            except Problem as problem:
                ui.notify(problem.detail, type="negative")
                return
            dialog.close()
            ui.notify(f"The group {checked} was saved.", type="positive")

        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
            ui.button("Save", on_click=make).props("unelevated")
    ui.button("New group", icon="folder", on_click=dialog.open).props("outline")
