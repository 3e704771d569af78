"""The dialog that starts a rollout."""

from __future__ import annotations

from typing import Any

from nicegui import run, ui
from pydantic import ValidationError
from sqlalchemy import func, select

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard.guards import guards
from edgec.fleet.dashboard.parts import link
from edgec.fleet.dashboard.shell import (
    dialog_card,
)
from edgec.fleet.problems import Problem
from edgec.fleet.rollouts.service import NewRollout
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Device, Group

STAGINGS = {
    "100": "All at once",
    "10,100": "10 %, then all",
    "5,25,100": "5 %, 25 %, then all",
    "5,25!,100!": "5 %, 25 %, all, with approval between",
}


def _planned(staging: str, soak_s: float) -> list[dict[str, Any]]:
    return [
        {"percent": float(item.rstrip("!")), "approval": item.endswith("!"), "soak_s": soak_s}
        for item in staging.split(",")
    ]


def deploy_dialog(services: Services, identity: Identity, model: str, versions: list[str]) -> None:
    """A button that starts a rollout of a model."""
    with services.database.reading() as session:
        groups = list(session.scalars(select(Group.name).order_by(Group.name).limit(500)))
        devices = session.scalar(select(func.count()).where(Device.admission == "accepted")) or 0
    scopes = {"all:": "All devices"} | {f"group:{g}": f"Group {g}" for g in groups}
    with dialog_card(f"Roll out {model}") as dialog:
        version = ui.select(versions, value=versions[0], label="Version")
        scope = ui.select(scopes, value="all:", label="For", with_input=True)
        device = ui.input("or one device, by name")
        stages = ui.select(STAGINGS, value="5,25,100" if devices > 10 else "100", label="Stages")
        soak = ui.number("Watch each stage for (minutes)", value=0, min=0)
        slot = ui.input("Slot, if not that of the model")
        for field in (version, scope, device, slot, stages, soak):
            field.props("outlined dense").classes("w-full")
        repair = ui.checkbox("Also on devices that run it: they check and mend their copy")

        chosen = guards()

        async def start() -> None:
            one = str(device.value or "").strip()
            kind, _, name = f"device:{one}".partition(":") if one else str(scope.value).partition(":")
            parsed = _planned("100" if one else str(stages.value), 60 * float(soak.value or 0))

            limits = chosen()

            def create() -> int:
                body = NewRollout.model_validate(
                    {
                        "model": model,
                        "version": str(version.value),
                        "slot": str(slot.value or "").strip() or None,
                        "scope": {"kind": kind, "name": name},
                        "plan": {"stages": parsed, "repair": bool(repair.value)} | limits,
                    }
                )
                return services.start_rollout(identity.name, body).id

            try:
                rollout_id = await run.io_bound(create)
            except (Problem, ValidationError) as error:
                text = error.detail if isinstance(error, Problem) else error.errors()[0]["msg"]
                ui.notify(text, type="negative", multi_line=True)
                return
            ui.navigate.to(link("/rollouts", rollout_id))

        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
            ui.button("Start", icon="rocket_launch", on_click=start).props("unelevated")
    ui.button("Roll out", icon="rocket_launch", on_click=dialog.open).props("unelevated")
