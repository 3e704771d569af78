"""The part of a rollout's dialog with its guards: what stops it, and how far devices may differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from edgec.fleet.rollouts.plan import ModelCriteria, Plan

CRITERIA = "criteria"


@dataclass(frozen=True, slots=True)
class Guard:
    """One number of a plan or of its criteria; `unit` is how many of the plan's units one of the field's is."""

    label: str
    unit: float = 1.0


PLAN: Mapping[str, Guard] = {
    "max_failed_percent": Guard("Stop above (% of failures)"),
    "min_success_percent": Guard("A stage passes at (% of successes)"),
    "retries": Guard("Retries on each device"),
    "rate_per_minute": Guard("Devices per minute, at most"),
    "job_timeout_s": Guard("Time for each device (minutes)", 60.0),
    "probation_s": Guard("Probation (minutes)", 60.0),
    "deadline_s": Guard("Time for the whole rollout (hours)", 3600.0),
}
MODEL: Mapping[str, Guard] = {
    "latency_ratio": Guard("Latency, at most this factor"),
    "error_rate": Guard("More failed inferences, at most (%)", 0.01),
    "event_rate_ratio": Guard("Events, at most this factor up or down"),
    "score_shift": Guard("Shift of the mean score, at most"),
    "alpha": Guard("Chance of stopping a good version"),
}
ON_FAILURE = {"rollback": "Devices return to their previous version", "stop": "Devices keep what they have"}


def guards() -> Callable[[], dict[str, Any]]:
    """Show the guards with their defaults, folded; returns a function that gives the plan's fields."""
    fields: dict[str, ui.number] = {}
    with ui.expansion("Guards", icon="shield").classes("w-full").props("dense"):
        reaction = ui.select(ON_FAILURE, value=Plan.model_fields["on_failure"].default, label="When it fails")
        reaction.props("outlined dense").classes("w-full")
        for name, guard in PLAN.items():
            fields[name] = _number(guard, Plan.model_fields[name].default)
        ui.label("Compared with devices that wait, and with their own hour before:").classes(
            "e-soft e-small mt-2"
        )
        for name, guard in MODEL.items():
            fields[name] = _number(guard, ModelCriteria.model_fields[name].default)

    def chosen() -> dict[str, Any]:
        given = {
            name: float(field.value) * {**PLAN, **MODEL}[name].unit
            for name, field in fields.items()
            if field.value is not None and str(field.value) != ""
        }
        plan: dict[str, Any] = {name: given[name] for name in PLAN if name in given}
        criteria = {name: given[name] for name in MODEL if name in given}
        plan["on_failure"] = reaction.value
        if "retries" in plan:
            plan["retries"] = int(plan["retries"])
        if criteria.keys() - {"alpha"}:
            plan[CRITERIA] = criteria
        return plan

    return chosen


def _number(guard: Guard, default: float | None) -> ui.number:
    value = None if default is None else default / guard.unit
    return ui.number(guard.label, value=value, min=0).props("outlined dense clearable").classes("w-full")
