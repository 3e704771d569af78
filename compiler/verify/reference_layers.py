"""Where ONNX Runtime spends its time, by node of the source model.

Its optimiser gives fused and re-laid nodes new names; those that it derives from a node's name or from the name of its
output are attributed to that node, and the rest (re-ordering of layouts, mostly) to no node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

_KERNEL = "_kernel_time"
_MADE = re.compile(r"(_token_\d+|_nchwc|_transpose\w*|_quant)+$")
ELSEWHERE = ""  # the node of what belongs to none


def by_node(
    events: Iterable[Mapping[str, Any]], producers: Mapping[str, str], nodes: set[str]
) -> dict[str, float]:
    """Milliseconds by node of the source, from ONNX Runtime's profile of some runs.

    Args:
        events: of the profile.
        producers: the node that makes a tensor, by the tensor's name.
        nodes: the source's nodes.
    """
    times: dict[str, list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            times.setdefault(name.removesuffix(_KERNEL), []).append(float(event["dur"]) / 1e3)
    found: dict[str, float] = {}
    for name, runs in times.items():
        node = _node_of(name, producers, nodes)
        found[node] = found.get(node, 0.0) + median(runs)
    return found


def _node_of(name: str, producers: Mapping[str, str], nodes: set[str]) -> str:
    bare = name.removeprefix("fused ")
    for candidate in (name, bare, _MADE.sub("", bare)):
        if candidate in nodes:
            return candidate
        if candidate in producers:
            return producers[candidate]
    return ELSEWHERE


def profiled(session: Any, run: Any, runs: int) -> list[dict[str, Any]]:  # noqa: ANN401 - ONNX Runtime has no types
    """The events of `runs` calls of `run`; `session` was made with profiling enabled, and `run` calls it."""
    for _ in range(runs):
        run()
    path = Path(session.end_profiling())
    try:
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    finally:
        path.unlink(missing_ok=True)
    return events
