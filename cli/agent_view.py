"""Rendering of the agent's answers in a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from edgec.cli.console import out, styled
from edgec.device_agent.health.doctor import Finding

_MARKS = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "bold red")}


def print_finding(finding: Finding) -> None:
    """Print one of the doctor's findings."""
    out.print(styled(_MARKS[finding.verdict], f" {finding.what}: {finding.text}"), soft_wrap=True)
    if finding.remedy:
        out.print(f"    → {finding.remedy}", soft_wrap=True)


def print_status(answer: dict[str, Any]) -> None:
    """Print the agent's status."""
    broker = "connected" if answer["connected"] else "not connected"
    out.print(
        styled(
            (answer["device"], "bold"),
            f" in {answer['fleet']}: {broker}, up {answer['uptime_s']:.0f} s, "
            f"{answer.get('cpu_percent', 0):.0f} % of a core, {answer.get('memory_bytes', 0) / 1e6:.0f} MB",
        )
    )
    heads = (
        "stream",
        "state",
        "fps",
        "captured",
        "processed",
        "dropped",
        "damaged",
        "in flight",
        "restarts",
        "events",
    )
    streams = Table(*heads)
    for one in answer.get("streams", []):
        keys = ("captured", "processed", "dropped", "damaged", "in_flight", "restarts", "events")
        streams.add_row(
            one["name"], one["state"], f"{one['fps']:.1f}", *(str(one.get(key, 0)) for key in keys)
        )
    out.print(streams)
    models = Table("slot", "state", "model", "version", "frames", "errors", "p50 ms", "message")
    for one in answer.get("models", []):
        latency = (one.get("latency") or {}).get("p50_ms")
        models.add_row(
            one["slot"], one["state"], one["name"], one["version"], str(one["inferences"]), str(one["errors"]),
            "" if latency is None else f"{latency:.2f}", one["message"],
        )  # fmt: skip
    out.print(models)
    box = answer["outbox"]
    out.print(f"outbox: {box['depth']} messages, {box['bytes'] / 1e3:.1f} kB, {box['dropped']} dropped")
    for sentence in answer.get("degraded", []):
        out.print(sentence, style="yellow")
