"""Parts of a device's page, as HTML."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.filesize import decimal as size

from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import ago, badge, esc, link, number
from edgec.fleet.dashboard.picture import boxes, picture
from edgec.fleet.devices.slots import CANDIDATE_SLOT

MOST_VIEWS = 4


def tiles(device: dict[str, Any]) -> str:
    """Presence, model and the figures of the latest health report."""
    health = device["health"]
    state = device["state"] if device["admission"] == "accepted" else device["admission"]
    models = [one for one in device["models"] if not one["slot"].startswith(CANDIDATE_SLOT)]
    dropped = sum(stream.get("dropped", 0) for stream in health.get("streams", []))
    return (
        f'<div style="margin:-8px 0 14px">{badge(state)} <span class="e-soft">last seen {ago(device["last_seen"])}</span></div>'
        + parts.tiles(
            [
                *[_model_tile(one) for one in models[:3]],
                parts.tile("–" if device["fps"] is None else f"{device['fps']:.1f}", "frames per second"),
                parts.tile(
                    "–" if device["latency_ms"] is None else f"{device['latency_ms']:.1f}",
                    "ms median latency",
                ),
                parts.tile(dropped, "frames dropped"),
                parts.tile(health.get("outbox", {}).get("depth", 0), "messages waiting to be sent"),
            ]
        )
    )


def _model_tile(one: dict[str, Any]) -> str:
    caption = one["model"] or f"no model in {one['slot']} yet"
    if one["drift"] and one["desired"]:
        caption += f" → {one['desired']['version']}"
    return parts.tile(one["version"] or "–", caption, tone="warn" if one["drift"] else "")


def views(detections: list[dict[str, Any]], pictures: dict[str, dict[str, Any]]) -> str:
    """What each stream saw: its newest picture, with what the model found in that picture and nothing else.

    Args:
        detections: the device's latest events, newest first.
        pictures: the newest capture of each stream.
    """
    streams = dict.fromkeys([*pictures, *(item["stream"] for item in detections)])
    figures = [
        _pictured(name, pictures[name]) if name in pictures else _positions(name, detections)
        for name in list(streams)[:MOST_VIEWS]
    ]
    figures = [figure for figure in figures if figure]
    if not figures:
        return parts.empty("No picture yet", "Command, Take a snapshot: the picture comes with its boxes.")
    return f'<div class="e-views">{"".join(figures)}</div>'


def _pictured(stream: str, capture: dict[str, Any]) -> str:
    moment = passed_since(capture["at"])
    return (
        f'<figure><a href="{link("/captures", capture["id"])}">{picture(capture)}</a>'
        f'<figcaption class="e-small e-faint">{esc(stream)} · picture of {moment}, with what was found in it</figcaption></figure>'
    )


def _positions(stream: str, detections: list[dict[str, Any]]) -> str:
    """Where the latest detections of a stream were, on an empty ground: there is no picture of that moment."""
    boxed = [item for item in detections if item["stream"] == stream and item["data"].get("box")]
    if not boxed:
        return ""
    frame = boxed[0]["data"]["frame"]
    width, height = frame.get("width") or 640, frame.get("height") or 480
    # One frame's boxes: those of the newest frame that an event is about.
    same = [item for item in boxed if item["data"]["frame"].get("number") == frame.get("number")]
    found = [{"label": item["label"], "score": item["score"], "box": item["data"]["box"]} for item in same]
    return (
        f'<figure><div class="e-pic" style="aspect-ratio:{width}/{height}">{boxes(found, width, height)}</div>'
        f'<figcaption class="e-small e-faint">{esc(stream)} · positions {passed_since(boxed[0]["at"])}'
        " · no picture yet: Command, Take a snapshot</figcaption></figure>"
    )


def rival_card(device: dict[str, Any]) -> str:
    """A warning about a second device with this identity; empty if there is none."""
    found = device["duplicate"]
    if not found:
        return ""
    return (
        '<div class="e-alert bad" role="alert"><b>Two devices use this identity.</b> '
        f"This page shows the one that keeps it (boot <code>{esc(found['holder'])}</code>). The other one "
        f"(boot <code>{esc(found['refused'])}</code>, last heard {passed_since(found['heard_at'])}) is refused and "
        "sends nothing. It is probably a copied card: enrol it again under a name of its own. If the wrong one was "
        "refused, stop the other: it is accepted three minutes later.</div>"
    )


def passed_since(at: float) -> str:
    """How long ago, as text."""
    return parts.passed(time.time() - at)


def detection_list(items: list[dict[str, Any]]) -> str:
    """The latest detections."""
    if not items:
        return parts.empty("No detections yet", "They appear here as the device reports them.")
    rows = "".join(
        f'<div><b>{esc(item["label"])}</b><span class="e-soft">{number(item["score"], "", 2)}</span>'
        f'<span class="e-chip">{esc(item["phase"])}</span><span class="grow e-soft">{esc(item["stream"])} · {esc(item["track"])}</span>'
        f'<span class="e-faint e-small">{ago(item["at"])}</span></div>'
        for item in items
    )
    return f'<div class="e-list">{rows}</div>'


def stream_table(health: dict[str, Any]) -> str:
    """Streams, from the latest health report."""
    if not health.get("streams"):
        return parts.empty("No health report yet", "The agent reports its streams when it connects.")
    rows = []
    for stream in health["streams"]:
        total = stream.get("latency", {}).get("total", {})
        rows.append(
            [
                f"<b>{esc(stream['name'])}</b>", badge(stream["state"]), esc(stream.get("model", "")), number(stream.get("fps")),
                number(total.get("p50_ms")), number(total.get("p99_ms")), parts.count(stream.get("dropped", 0)),
                parts.count(stream.get("damaged", 0)), str(stream.get("restarts", 0)), f'<span class="e-soft">{esc(stream.get("message", ""))}</span>',
            ]
        )  # fmt: skip
    heads = (
        "Stream",
        "State",
        "~Model",
        "#fps",
        "#p50 ms",
        "#~p99 ms",
        "#~Dropped",
        "#~Damaged",
        "#~Restarts",
        "~Message",
    )
    return parts.table(heads, rows)


def job_table(jobs: list[dict[str, Any]]) -> str:
    """Rollouts and commands for the device."""
    if not jobs:
        return parts.empty("No jobs", "Rollouts and commands for this device are listed here.")
    rows = []
    for job in jobs:
        document, details = job["document"], job["details"]
        what = (
            f"{document.get('model')}:{document.get('version')}"
            if document.get("operation") == "update"
            else document.get("operation")
        )
        origin = (
            f'<a href="{link("/rollouts", job["rollout"])}" class="main">rollout {job["rollout"]}</a>'
            if job["rollout"]
            else "–"
        )
        at = job["queued_at"]
        rows.append(
            [badge(job["state"]), f"{esc(job['purpose'])} <b>{esc(what)}</b>", origin, esc(details.get("step", "").lower().replace("_", " ")),
             f'<span class="e-soft">{esc(details.get("message", ""))}</span>', f'<span class="e-soft e-time">{esc(at[:19].replace("T", " "))}</span>']
        )  # fmt: skip
    return parts.table(("State", "What", "~From", "~Step", "Message", "~Queued (UTC)"), rows)


def log_lines(data: dict[str, Any]) -> str:
    """Current complaints of the device, then what was done to it."""
    health = data["device"]["health"]
    said = [*health.get("degraded", [])]
    said += [f"{one['name']}: {one['message']}" for one in health.get("streams", []) if one.get("message")]
    said += [f"{one['slot']}: {one['message']}" for one in health.get("models", []) if one.get("message")]
    now = "".join(
        f'<div>{badge("drift", "now")}<span class="grow wrap" title="{esc(text)}">{esc(text)}</span></div>'
        for text in said
    )
    rows = "".join(
        f'<div><span class="e-mono">{esc(action)}</span><span class="grow wrap e-soft" title="{esc(detail)}">{esc(actor)} {esc(detail)}</span>'
        f'<span class="e-faint e-small">{ago(at)}</span></div>'
        for at, actor, action, detail in data["log"]
    )
    if not (now or rows):
        return parts.empty(
            "Nothing happened yet", "Actions on the device, and its complaints, are listed here."
        )
    return f'<div class="e-list e-log" tabindex="0">{now}{rows}</div>'


def fact_list(device: dict[str, Any]) -> str:
    """Properties of the device."""
    health = device["health"]
    facts = {
        "Target": esc(device["target"] or "–"),
        "Agent": esc(device["agent_version"] or "–"),
        "Enrolled": ago(device["enrolled_at"]),
        "Processor": "–" if health.get("cpu_percent") is None else f"{health['cpu_percent']:.0f} % of a core",
        "Memory": "–" if health.get("memory_bytes") is None else size(health["memory_bytes"]),
        "Temperature": "–" if health.get("temperature_c") is None else f"{health['temperature_c']:.0f} °C",
        "Disk free": "–" if health.get("disk_free_bytes") is None else size(health["disk_free_bytes"]),
        "Artifacts": "<br>".join(
            f'<span class="e-mono">{esc(one["digest"])}</span>' for one in device["models"] if one["digest"]
        )
        or "–",
        "Labels": parts.chips(device["labels"]) or "–",
    }
    if health.get("degraded"):
        facts["Degraded"] = "; ".join(esc(item) for item in health["degraded"])
    return parts.pairs(facts)


def shadow_list(rows: list[Any]) -> str:
    """Desired and reported state of each shadow."""
    if not rows:
        return parts.empty("No shadows", "Desired and reported state appear here.")
    return "".join(
        f"<div style='margin-bottom:12px'><b>{esc(name)}</b> <span class='e-soft'>version {version}, {ago(at)}</span>"
        f"<div class='e-soft e-small'>desired</div><div class='e-mono'>{esc(json.dumps(desired))}</div>"
        f"<div class='e-soft e-small'>reported</div><div class='e-mono'>{esc(json.dumps(reported))}</div></div>"
        for name, version, desired, reported, at in rows
    )
