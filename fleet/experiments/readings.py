"""What a device's health says about a candidate beside its own model, between two reports. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Counters = dict[str, Any]


def counters_of(health: Mapping[str, Any], base: str, candidate: str, streams: list[str]) -> Counters:
    """The counters of both slots, and of the comparison on ``streams``, as a health message has them."""
    slots = {one.get("slot"): one for one in health.get("models", [])}
    keys = ("inferences", "errors", "score_mean", "results_per_frame", "latency", "manifest_digest")
    found: Counters = {
        name: {key: slots[slot].get(key) for key in keys} for name, slot in (("base", base), ("candidate", candidate))
        if slot in slots
    }  # fmt: skip
    compared = [
        one.get("comparison") or {} for one in health.get("streams", []) if one.get("name") in streams
    ]
    for key in ("frames", "disagreements"):
        found[key] = int(sum(one.get(key) or 0 for one in compared))
    return found | {"boot_id": health.get("boot_id", "")}


def reading(before: Counters, after: Counters) -> tuple[int, dict[str, float]]:
    """Frames that the candidate saw since ``before``, and its figures against the base's; nothing after a restart."""
    if before.get("boot_id") != after.get("boot_id") or "candidate" not in after or "base" not in after:
        return 0, {}
    grown = {name: _grown(before.get(name), after[name]) for name in ("base", "candidate")}
    values: dict[str, float] = {}
    frames = after["frames"] - before.get("frames", 0)
    if frames > 0:
        values["disagreement"] = min(
            max((after["disagreements"] - before["disagreements"]) / frames, 0.0), 1.0
        )
    if grown["base"] is None or grown["candidate"] is None:
        return max(frames, 0), values
    rates = {name: one[1] / one[0] for name, one in grown.items() if one is not None}
    values["errors"] = rates["candidate"] - rates["base"]
    base, candidate = after["base"], after["candidate"]
    speeds = [(one.get("latency") or {}).get("p50_ms") for one in (base, candidate)]
    if all(speeds):
        values["latency"] = math.log(speeds[1] / speeds[0])
    if None not in (base.get("score_mean"), candidate.get("score_mean")):
        values["score"] = candidate["score_mean"] - base["score_mean"]
    if None not in (base.get("results_per_frame"), candidate.get("results_per_frame")):
        # A little more on both sides keeps the logarithm finite where nothing was found.
        values["results"] = math.log(
            (candidate["results_per_frame"] + 0.05) / (base["results_per_frame"] + 0.05)
        )
    return max(frames, grown["candidate"][0]), values


def _grown(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> tuple[int, int] | None:
    """Attempts and failures since then; None where there were none, or another artifact runs now."""
    if before is None or before.get("manifest_digest") != after.get("manifest_digest"):
        return None
    done = (after["inferences"] or 0) - (before["inferences"] or 0)
    failed = (after["errors"] or 0) - (before["errors"] or 0)
    return (done + failed, failed) if done >= 0 and failed >= 0 and done + failed > 0 else None
