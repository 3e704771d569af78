"""Parts of a rollout's page, as HTML."""

from __future__ import annotations

import time
from typing import Any

from edgec.fleet.dashboard import parts
from edgec.fleet.dashboard.parts import ago, badge, esc, link
from edgec.fleet.rollouts.sequential import MIN_SAMPLES


def header(data: dict[str, Any]) -> str:
    """State and progress of a rollout."""
    counts = data["devices"]
    total = sum(counts.values()) - counts.get("SKIPPED", 0)
    done = counts.get("SUCCEEDED", 0)
    failed = counts.get("FAILED", 0) + counts.get("REVERT_FAILED", 0)
    reason = f'<span class="e-soft">{esc(data["reason"])}</span>' if data["reason"] else ""
    if not data["ended"]:
        until, edge = data["deadline"] - time.time(), "ends at the latest in"
        edge += f" {until / 3600:.1f} h" if until > 3600 else f" {max(until / 60, 0):.0f} min"
    else:
        edge = f"ended {parts.passed(time.time() - data['finished_at'])}" if data["finished_at"] else ""
    return (
        f'<div style="margin:-8px 0 14px">{badge(data["state"])} {reason} <span class="e-faint">{edge}</span></div>'
        + parts.tiles(
            [
                parts.tile(done, "updated", of=total, tone="good" if done else ""),
                parts.tile(counts.get("ACTIVE", 0) + counts.get("REVERTING", 0), "at work"),
                parts.tile(counts.get("WAITING", 0), "waiting"),
                parts.tile(failed, "failed", tone="bad" if failed else ""),
                parts.tile(counts.get("UNREACHED", 0), "not reached"),
                parts.tile(counts.get("SKIPPED", 0), "left out"),
            ]
        )
    )


def stage_list(data: dict[str, Any]) -> str:
    """The stages and how far each has come."""
    rows = []
    for index, (stage, counts) in enumerate(zip(data["plan"]["stages"], data["stages"], strict=True)):
        if stage["percent"] is not None:
            name = f"up to {stage['percent']:g} %"
        else:
            name = f"{stage['count']} devices" if stage["count"] else f"{len(stage['devices'])} named"
        soak = f", then {stage['soak_s'] / 60:g} min watch" if stage["soak_s"] else ""
        total = sum(counts.values())
        done = total - sum(counts.get(s, 0) for s in ("WAITING", "ACTIVE", "REVERTING"))
        reached = f"{parts.count(done)} of {parts.count(total)} done" if total else "no devices"
        later = " later" if index > data["stage"] and not data["ended"] else ""
        held = (
            badge("AWAITING_APPROVAL")
            if index == data["stage"] and data["state"] == "AWAITING_APPROVAL"
            else ""
        )
        rows.append(
            f'<div class="e-stage{later}"><div><b>Stage {index + 1}</b> <span class="e-soft">{esc(name)}{esc(soak)}</span></div>'
            f'{parts.bar(counts)}<div class="e-soft">{reached} {held}</div></div>'
        )
    return f'<div class="e-stages">{"".join(rows)}</div>'


def member_table(data: dict[str, Any]) -> str:
    """The devices of a rollout on this page."""
    cells = [
        [f'<a class="main" href="{link("/devices", name)}">{esc(name)}</a>', esc(slot or "–"), badge(state), str(stage + 1), esc(before or "–"),
         f'<span class="e-soft">{esc(detail)}</span>', ago(changed)]
        for name, slot, stage, state, before, changed, detail in data["members"]
    ]  # fmt: skip
    if not cells:
        return parts.empty("No such devices", "No device of this rollout is in that state now.")
    return parts.table(("Device", "~Slot", "State", "#~Stage", "~Before", "Detail", "~Changed"), cells)


def plan_facts(data: dict[str, Any]) -> str:
    """The limits of the plan."""
    plan = data["plan"]
    facts = {
        "For": esc(parts.scope_name(data["scope"])),
        "Slot": esc(data["slot"] or "that of the model"),
        "Stops at": f"{plan['max_failed_percent']:g} % failed",
        "Then": "devices go back" if plan["on_failure"] == "rollback" else "stays as it is",
        "A stage needs": f"{plan['min_success_percent']:g} % success",
        "Time a device": f"{plan['job_timeout_s'] / 60:g} min",
        "Retries": str(plan["retries"]),
        "Rate": f"{plan['rate_per_minute']:g} a minute" if plan["rate_per_minute"] else "no limit",
        "Started by": esc(data["created_by"]),
    }
    return parts.pairs(facts)


def _judged(name: str, verdict: dict[str, Any]) -> str:
    if verdict["samples"][0] < MIN_SAMPLES:
        return badge("", "too early")
    # A shift of scores or events says that the versions differ, not which of them is right.
    word = "worse" if name in ("latency", "error rate") else "differs"
    return badge("failed", word) if verdict["against"] else badge("accepted", "fine")


RATIOS = ("latency", "event rate")


def verdict_table(data: dict[str, Any]) -> str:
    """The finding for each metric."""
    if not data["verdicts"]:
        criteria = data["plan"].get("criteria")
        text = (
            "Nothing to judge yet: eight reports of updated devices are needed."
            if criteria
            else (
                "The plan judges jobs only. edgec deploy --max-latency 1.5 judges the figures that models report, too."
            )
        )
        return f'<div class="e-soft" style="padding:8px 2px">{text}</div>'
    rows = []
    for name, v in data["verdicts"].items():
        form = "×{:.2f}" if name in RATIOS else "{:+.4f}"
        share = min(v["evidence"] / v["needed"], 1.0)
        tone = "bad" if v["against"] else "accent"
        meter = f'<div class="e-bar" title="evidence {v["evidence"]:g} of {v["needed"]:g} that stop it"><i class="{tone}" style="width:{100 * share:.1f}%"></i></div>'
        rows.append(
            [esc(name), form.format(v["updated"]), form.format(v["control"]) if v["samples"][1] else "–",
             f"{parts.count(v['samples'][0])} / {parts.count(v['samples'][1])}", meter,
             _judged(name, v)]
        )  # fmt: skip
    heads = ("Change of", "#Updated", "#Others", "#~Reports", "~Evidence against it", "Verdict")
    return parts.table(heads, rows)
