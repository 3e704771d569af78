"""How the device is: figures from every part, put into one message."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from edgec.device_agent.cloud.capture_uplink import SampleState
from edgec.protocol.status import (
    CapturesHealth,
    Health,
    ModelHealth,
    OutboxHealth,
    StageLatency,
    StreamHealth,
)

_EARLIEST = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
_LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()


class Meter:
    """Processor and memory of the agent's processes, and the machine's temperature."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._at = time.monotonic()
        self.cpu_percent = 0.0
        self.memory_bytes = 0
        self.temperature_c: float | None = None
        self._zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))

    def measure(self, pids: list[int]) -> None:
        """Look at these processes; the processor's share is that since the last look."""
        now = time.monotonic()
        used, memory, seconds = 0.0, 0, {}
        for pid in pids:
            try:
                process = psutil.Process(pid)
                times = process.cpu_times()
                memory += _private_bytes(pid)
            except (psutil.Error, OSError):
                continue  # it has ended meanwhile
            seconds[pid] = times.user + times.system
            used += max(0.0, seconds[pid] - self._seconds.get(pid, seconds[pid]))
        self.cpu_percent = round(100 * used / max(0.001, now - self._at), 1)
        self.memory_bytes, self._seconds, self._at = memory, seconds, now
        self.temperature_c = self._temperature()

    def _temperature(self) -> float | None:
        values = []
        for zone in self._zones:
            try:
                values.append(int(zone.read_text()) / 1000)
            except (OSError, ValueError):
                continue
        return round(max(values), 1) if values else None


def _private_bytes(pid: int) -> int:
    """Proportional memory of a process: shared pages count once over all that share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def clock_is_plausible() -> bool:
    """Whether the wall clock shows a date on which this software can run."""
    return _EARLIEST < time.time() < _LATEST


def stream_health(capture: dict[str, Any], pipeline: dict[str, Any]) -> StreamHealth:
    """Join the capture side's and the pipeline's figures of one stream."""
    latency = {stage: StageLatency(**value) for stage, value in pipeline.get("latency", {}).items()}
    return StreamHealth(
        **{key: value for key, value in capture.items() if key != "message"},
        message=capture["message"] or pipeline.get("message", ""),
        gated=pipeline.get("gated", 0),
        events=pipeline.get("events", 0),
        errors=pipeline.get("errors", 0),
        comparison=pipeline.get("comparison"),
        latency=latency,
    )


def model_health(slot: str, state: str, message: str, restarts: int, counters: dict[str, Any]) -> ModelHealth:
    """Put one slot's figures into its part of the message."""
    latency = counters.get("latency")
    return ModelHealth(
        slot=slot,
        name=counters.get("name", ""),
        version=counters.get("version", ""),
        manifest_digest=counters.get("manifest_digest"),
        state=state if state in ("loading", "running", "probation", "failed", "absent") else "failed",  # type: ignore[arg-type]
        inferences=counters.get("inferences", 0),
        errors=counters.get("errors", 0),
        restarts=restarts,
        latency=StageLatency(**latency) if latency else None,
        score_mean=counters.get("score_mean"),
        results_per_frame=counters.get("results_per_frame"),
        message=message or counters.get("last_error", ""),
    )


def captures_health(state: SampleState | None, counters: dict[str, Any]) -> CapturesHealth | None:
    """Join what the spool and its sender say; None where the device has no fleet server."""
    if state is None:
        return None
    return CapturesHealth(
        waiting=state.waiting,
        bytes=state.bytes,
        kept=counters.get("kept", 0),
        sent=state.sent,
        refused=state.refused + counters.get("refused", 0),
        message=counters.get("problem", "") or state.problem,
    )


def free_bytes(folder: Path) -> int | None:
    """Space left where the agent keeps its state."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def descriptors() -> int:
    """Open descriptors of this process, to notice leaks."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


__all__ = [
    "Health", "Meter", "OutboxHealth", "clock_is_plausible", "descriptors", "free_bytes", "model_health",
    "stream_health",
]  # fmt: skip
