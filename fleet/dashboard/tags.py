"""Tags of a model and the deletion of its versions: dialogs, chips and the history."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from edgec.fleet.access.identity import Identity
from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import ago, esc
from edgec.fleet.dashboard.shell import attempt, dialog_card, surely
from edgec.fleet.registry.versions import USUAL, move_tag, remove_tag
from edgec.fleet.rollouts.usage import delete_version
from edgec.fleet.services import Services


def chips(tags: dict[str, str], version: str = "") -> str:
    """The tags of a model with their versions, or those of one version."""
    found = [(name, at) for name, at in tags.items() if version in ("", at)]
    return "".join(
        f'<span class="e-chip tag">{esc(name)}{"" if version else f" → {esc(at)}"}</span>'
        for name, at in found
    )


def history(moves: list[dict[str, Any]]) -> str:
    """Where tags have moved, the newest first."""
    if not moves:
        return parts.empty(
            "No tags yet", "A tag such as stable moves from version to version; versions never change."
        )
    rows = [
        [
            f'<span class="e-chip tag">{esc(move["tag"])}</span>', esc(move["previous"] or "–"),
            esc(move["version"]) if move["version"] else '<span class="e-soft">removed</span>', esc(move["actor"]),
            ago(move["at"]),
        ]
        for move in moves
    ]  # fmt: skip
    return parts.table(("Tag", "#~From", "#To", "~By", "When"), rows)


def tag_dialog(services: Services, identity: Identity, model: str, versions: list[str]) -> None:
    """A button that moves or removes a tag."""
    with dialog_card(f"Tag a version of {model}", 448) as dialog:
        name = ui.select([*USUAL], value=USUAL[0], label="Tag", with_input=True, new_value_mode="add-unique")
        version = ui.select(versions, value=versions[0], label="Version")
        for field in (name, version):
            field.props("outlined dense").classes("w-full")
        text = "What runs does not change: a rollout of the tag takes the version that it names then."
        ui.label(text).classes("e-soft e-small")

        def move() -> None:
            with services.database.writing() as session:
                move_tag(session, identity.name, model, str(name.value or ""), str(version.value))

        def remove() -> None:
            with services.database.writing() as session:
                remove_tag(session, identity.name, model, str(name.value or ""))

        async def go() -> None:
            dialog.close()
            await attempt(move, f"{name.value} is version {version.value}")

        async def take() -> None:
            dialog.close()
            await attempt(remove, f"the tag {name.value} is removed")

        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
            ui.button("Remove", on_click=take).props("flat color=negative")
            ui.button("Set", icon="sell", on_click=go).props("unelevated")
    ui.button("Tag", icon="sell", on_click=dialog.open).props("outline")


def delete_dialog(services: Services, identity: Identity, model: str, versions: list[str]) -> None:
    """A button that deletes a version, once the person has proved to be there."""
    with dialog_card(f"Delete a version of {model}", 448) as dialog:
        version = ui.select(versions, value=versions[-1], label="Version").props("outlined dense")
        version.classes("w-full")
        text = "For all targets. What devices run, rollouts may need or a tag names is kept. The number is not reused."
        ui.label(text).classes("e-soft e-small")

        def remove() -> None:
            with services.database.writing() as session:
                delete_version(session, identity.name, model, str(version.value))

        async def go() -> None:
            dialog.close()
            await surely(services, identity, lambda: attempt(remove, f"{model}:{version.value} is deleted"))

        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
            ui.button("Delete", on_click=go).props("unelevated color=negative")
    ui.button("Delete", icon="delete", on_click=dialog.open).props("flat color=negative")
