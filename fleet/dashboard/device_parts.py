"""Parts of a device's page, as HTML."""

from __future__ import annotations

import json
import time
from typing import Any

from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import ago, badge, esc, link, number, size
from edgec.fleet.dashboard.picture import COLOURS


def tiles(device: dict[str, Any]) -> str:
    """Presence, model and the figures of the latest health report."""
    health = device["health"]
    state = device["state"] if device["admission"] == "accepted" else device["admission"]
    running = f"{device['version']}" if device["version"] else "–"
    wanted = (
        f"{device['model']} → {device['desired_version']}"
        if device["drift"]
        else device["model"] or "no model yet"
    )
    dropped = sum(stream.get("dropped", 0) for stream in health.get("streams", []))
    return (
        f'<div style="margin:-8px 0 14px">{badge(state)} <span class="e-soft">last seen {ago(device["last_seen"])}</span></div>'
        + parts.tiles(
            [
                parts.tile(running, wanted, tone="warn" if device["drift"] else ""),
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


def snapshot(detections: list[dict[str, Any]], pictures: dict[str, tuple[int, float]]) -> str:
    """The boxes of the latest detections over the newest picture, as an SVG."""
    boxed = [item for item in detections if item["data"].get("box")]
    if not boxed:
        if pictures:
            stream, (number, at) = max(pictures.items(), key=lambda item: item[1][1])
            return (
                f'<a href="{link("/captures", number)}"><img class="e-view" src="/api/v1/captures/{number}/image" alt="Snapshot of {esc(stream)}">'
                f'</a><div class="e-small e-faint" style="margin-top:6px">{esc(stream)} · {passed_since(at)}</div>'
            )
        return parts.empty("Nothing to draw yet", "Boxes appear here when a detector reports them.")
    frame_data = boxed[0]["data"]["frame"]
    width, height = frame_data.get("width") or 640, frame_data.get("height") or 480
    stream = boxed[0]["stream"]
    # What is in the frame now: the latest event of each track of this stream, unless it has ended.
    latest: dict[str, dict[str, Any]] = {}
    for item in boxed:
        if item["stream"] == stream:
            latest.setdefault(item["track"], item)
    shown = [item for item in latest.values() if item["phase"] != "end" and boxed[0]["at"] - item["at"] < 10][
        :12
    ]
    unit = max(width, height) / 640
    labels = sorted({item["label"] for item in boxed})
    shapes = []
    for item in shown or boxed[:1]:
        left, top, right, bottom = item["data"]["box"]
        colour = COLOURS[labels.index(item["label"]) % len(COLOURS)]
        text = f"{item['label']} {item['score']:.2f}"
        shapes.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1):.1f}" height="{max(bottom - top, 1):.1f}" '
            f'fill="{colour}22" stroke="{colour}" stroke-width="{2 * unit:.1f}" rx="{3 * unit:.1f}"/>'
            f'<text x="{left + 3 * unit:.1f}" y="{max(top - 6 * unit, 14 * unit):.1f}" fill="{colour}" '
            f'font-size="{15 * unit:.1f}" font-weight="600">{esc(text)}</text>'
        )
    caption = f"{esc(stream)} · {width}×{height} · boxes of {passed_since(boxed[0]['at'])}"
    backdrop = ""
    if stream in pictures:
        number, at = pictures[stream]
        # Boxes over a picture of another moment would mislead: an old picture only hints at the place.
        fresh = 0.85 if abs(at - boxed[0]["at"]) < 1 else 0.3
        backdrop = f'<image href="/api/v1/captures/{number}/image" width="{width}" height="{height}" preserveAspectRatio="none" opacity="{fresh}"/>'
        caption += f' · <a href="{link("/captures", number)}">picture of {passed_since(at)}</a>'
    else:
        caption += " · no picture yet: Command, Take a snapshot"
    return (
        f'<svg class="e-view" viewBox="0 0 {width} {height}" role="img" aria-label="Boxes of the latest detections">'
        f'{backdrop}{"".join(shapes)}</svg><div class="e-small e-faint" style="margin-top:6px">{caption}</div>'
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


def stream_tables(health: dict[str, Any]) -> str:
    """Streams and model slots, from the latest health report."""
    if not health.get("streams"):
        return parts.empty("No health report yet", "The agent reports its streams when it connects.")
    rows = []
    for stream in health["streams"]:
        total = stream.get("latency", {}).get("total", {})
        rows.append(
            [
                f"<b>{esc(stream['name'])}</b>", badge(stream["state"]), esc(stream.get("model", "")), number(stream.get("fps")),
                number(total.get("p50_ms")), number(total.get("p99_ms")), parts.count(stream.get("dropped", 0)),
                str(stream.get("restarts", 0)), f'<span class="e-soft">{esc(stream.get("message", ""))}</span>',
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
        "#~Restarts",
        "~Message",
    )
    models = [
        [
            f"<b>{esc(m['slot'])}</b>", badge(m["state"]), f"{esc(m['name'])}:{esc(m.get('version', ''))}" if m.get("name") else "–",
            parts.count(m.get("inferences", 0)), parts.count(m.get("errors", 0)),
            f'<span class="e-mono e-soft">{esc((m.get("manifest_digest") or "")[7:19])}</span>',
        ]
        for m in health.get("models", [])
    ]  # fmt: skip
    second = (
        parts.table(("Slot", "State", "Model", "#~Inferences", "#Errors", "~Digest"), models)
        if models
        else ""
    )
    return parts.table(heads, rows) + second


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
        "Artifact": f'<span class="e-mono">{esc(device["digest"] or "–")}</span>',
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
