"""The models of a device by slot, as HTML."""

from __future__ import annotations

from typing import Any

from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import badge, esc, link, number
from edgec.fleet.devices.slots import CANDIDATE_SLOT


def named(model: str, version: str) -> str:
    """A model and its version; a dash for none."""
    return f'{esc(model)}<wbr><span class="e-soft">:{esc(version)}</span>' if model else number(None)


def wish(one: dict[str, Any]) -> str:
    """What is wanted of a slot, where it does not run that."""
    if (
        not (one["drift"] or one["updating"])
        or one["desired"] is None
        or one["digest"] == one["desired"]["digest"]
    ):
        return ""
    other = one["desired"]["model"] if one["desired"]["model"] != one["model"] else ""
    wanted = f"{other}:{one['desired']['version']}".removeprefix(":")
    tone = "warn" if one["drift"] else "accent"
    return f' <span class="e-badge {tone}" title="{esc(one["reason"] or "desired")}">→ {esc(wanted)}</span>'


def model_lines(row: dict[str, Any]) -> str:
    """All models of a device, a line each: its slot where there are several, the version, and what is wanted."""
    models = row["models"]
    if not models:
        return named(row["model"], row["version"]) if row["version"] else number(None)
    several = len(models) > 1
    lines = []
    for one in models:
        slot = f"<small>{esc(one['slot'])}</small> " if several else ""
        state = f" {badge(one['state'])}" if one["state"] in ("failed", "loading") else ""
        running = named(one["model"], one["version"])
        lines.append(f'<div class="e-slot">{slot}{running}{wish(one)}{state}</div>')
    return "".join(lines)


def slot_table(device: dict[str, Any]) -> str:
    """Every slot of a device: what it runs, what is wanted, and why the two differ."""
    figures = {one["slot"]: one for one in device["health"].get("models", [])}
    rows = []
    for one in device["models"]:
        reported = figures.get(one["slot"], {})
        desired = one["desired"]
        wanted = (
            named(desired["model"], desired["version"]) if desired else '<span class="e-faint">nothing</span>'
        )
        state = (
            badge("drift") if one["drift"] else badge("IN_PROGRESS", "updating") if one["updating"] else ""
        )
        rows.append(
            [
                f"<b>{esc(one['slot'])}</b>", badge(one["state"]),
                f'<a class="main" href="{link("/models", one["model"])}">{named(one["model"], one["version"])}</a>'
                if one["model"] else number(None),
                "candidate" if one["slot"].startswith(CANDIDATE_SLOT) else f"{wanted} {state}",
                f'<span class="e-soft">{esc(one["message"] or one["reason"])}</span>',
                parts.count(reported.get("inferences", 0)), parts.count(reported.get("errors", 0)),
                f'<span class="e-mono e-soft">{esc(one["digest"][7:19])}</span>',
            ]
        )  # fmt: skip
    if not rows:
        return ""
    heads = ("Slot", "State", "Model", "Desired", "~Note", "#~Inferences", "#~Errors", "~Digest")
    return parts.table(heads, rows)
