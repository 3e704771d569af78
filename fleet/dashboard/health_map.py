"""The health map: devices grouped by a label such as place or line, coloured by their state."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from edgec.fleet.dashboard.parts import bar, count, esc, link
from edgec.fleet.devices.slots import drifts, has_slot
from edgec.fleet.store.tables import Device

CELLS = 300
"""Up to this number devices are shown individually, beyond it as groups."""
GROUPS = 60
PROBE = 200
TONE = {"SUCCEEDED": "good", "UNREACHED": "warn", "FAILED": "bad", "CANCELED": "idle"}
CAPTION = {
    "good": "well",
    "warn": "differs from desired, stopped or without frames",
    "bad": "offline",
    "idle": "not seen",
}
_HEALTH = case(
    (Device.admission != "accepted", "CANCELED"),
    (Device.state == "offline", "FAILED"),
    (Device.state == "never", "CANCELED"),
    (Device.state == "stopped", "UNREACHED"),
    (Device.fps == 0, "UNREACHED"),
    (has_slot(drifts()), "UNREACHED"),
    else_="SUCCEEDED",
)


def load_map(session: Session) -> dict[str, Any]:
    """Devices grouped by the label key that most of them have: individually while they are few, else as counts."""
    keys = Counter(
        key
        for labels in session.scalars(select(Device.labels).order_by(Device.id).limit(PROBE))
        for key in labels
    )
    key = min(keys, key=lambda name: (-keys[name], name != "site", name), default="")
    value = Device.labels[key].as_string() if key else Device.target
    number = session.scalar(select(func.count(Device.id))) or 0
    if number <= CELLS:
        rows = session.execute(select(Device.name, value, _HEALTH).order_by(Device.name))
        return {"key": key, "cells": [(name, group or "", health) for name, group, health in rows]}
    groups: dict[str, dict[str, int]] = {}
    found = session.execute(select(value, _HEALTH, func.count()).group_by(value, _HEALTH))
    for group, health, devices in found:
        groups.setdefault(group or "", {})[health] = devices
    return {"key": key, "groups": groups}


def show_map(data: dict[str, Any]) -> str:
    """The map as HTML."""
    key = data["key"]
    by = esc(f"by {key}" if key else "by target")
    shown = _cells(data["cells"]) if "cells" in data else _groups(key, data["groups"])
    legend = "".join(f'<span><i class="{tone}"></i>{CAPTION[tone]}</span>' for tone in CAPTION)
    return f'<h2>Health {by}</h2>{shown}<div class="e-legend">{legend}</div>'


def _cells(cells: list[tuple[str, str, str]]) -> str:
    groups: dict[str, list[str]] = {}
    for name, group, health in cells:
        caption = f"{name}: {CAPTION[TONE[health]]}"
        groups.setdefault(group, []).append(
            f'<a class="{TONE[health]}" href="{link("/devices", name)}" title="{esc(caption)}" aria-label="{esc(caption)}"></a>'
        )
    parts = [
        (f"<h3>{esc(group or 'without')}</h3>" if len(groups) > 1 else "") + "".join(items)
        for group, items in sorted(groups.items())
    ]
    return f'<div class="e-cells">{"".join(parts)}</div>'


def _groups(key: str, groups: dict[str, dict[str, int]]) -> str:
    def badness(item: tuple[str, dict[str, int]]) -> tuple[float, str]:
        total = sum(item[1].values())
        return -(item[1].get("FAILED", 0) + item[1].get("UNREACHED", 0) / 4) / total, item[0]

    tiles = []
    for group, states in sorted(groups.items(), key=badness)[:GROUPS]:
        where = {"label": f"{key}={group}"} if key else {"target": group}
        tiles.append(
            f'<a href="/devices?{esc(urlencode(where))}"><span><b>{esc(group or "without")}</b>'
            f'<small class="e-soft">{count(states.get("SUCCEEDED", 0))}/{count(sum(states.values()))}</small></span>'
            f"{bar(states, 'health')}</a>"
        )
    more = (
        f'<div class="e-small e-faint">and {len(groups) - GROUPS} more</div>' if len(groups) > GROUPS else ""
    )
    return f'<div class="e-map">{"".join(tiles)}</div>{more}'
