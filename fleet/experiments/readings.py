"""Figures of a candidate against the device's own model, from two successive health reports. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Counters = dict[str, Any]


def counters_of(health: Mapping[str, Any], base: str, candidate: str, streams: list[str]) -> Counters:
    """The counters of both slots, and of the comparison on `streams`, in a health message."""
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
    return found | {"boot_id": health.get("boot_id", ""), "time": health.get("time", "")}


def comparable(before: Counters, after: Counters) -> bool:
    """Whether `after` continues the counters of `before`: the same run of the agent, the same artifacts, nothing
    reset."""
    if before.get("boot_id") != after.get("boot_id") or after["frames"] < before.get("frames", 0):
        return False
    for name in ("base", "candidate"):
        old, new = before.get(name), after.get(name)
        if old is None or new is None or old["manifest_digest"] != new["manifest_digest"]:
            return False
        if any((new[key] or 0) < (old[key] or 0) for key in ("inferences", "errors")):
            return False
    return True


def reading(before: Counters, after: Counters) -> tuple[int, dict[str, float]]:
    """The frames that the candidate processed since `before`, and its figures relative to the base model's.

    Both must be `comparable`.
    """
    values: dict[str, float] = {}
    frames: int = after["frames"] - before["frames"]
    if frames > 0:
        differing = (after["disagreements"] - before["disagreements"]) / frames
        values["disagreement"] = min(max(differing, 0.0), 1.0)
    base, candidate = _grown(before["base"], after["base"]), _grown(before["candidate"], after["candidate"])
    if not (base[0] and candidate[0]):
        return frames, values
    values["errors"] = candidate[1] / candidate[0] - base[1] / base[0]
    return max(frames, candidate[0]), values | _levels(after["base"], after["candidate"])


def _levels(base: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, float]:
    """Figures that health reports over its last window rather than as counters."""
    values: dict[str, float] = {}
    own, other = ((one.get("latency") or {}).get("p50_ms") for one in (base, candidate))
    if own and other:
        values["latency"] = math.log(other / own)
    own, other = base.get("score_mean"), candidate.get("score_mean")
    if own is not None and other is not None:
        values["score"] = other - own
    own, other = base.get("results_per_frame"), candidate.get("results_per_frame")
    if own is not None and other is not None:
        # A small addition on both sides keeps the logarithm finite where nothing was found.
        values["results"] = math.log((other + 0.05) / (own + 0.05))
    return values


def _grown(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[int, int]:
    """Inferences and failures between the two reports."""
    done, failed = ((after[key] or 0) - (before[key] or 0) for key in ("inferences", "errors"))
    return done + failed, failed
