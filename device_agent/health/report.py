"""Parts of the health message, from the counters of each part of the agent."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from edgec.device_agent.cloud.capture_uplink import SpoolState
from edgec.device_agent.inference.messages import (
    CaptureCounters,
    Latency,
    ModelCounters,
    PipelineCounters,
    SlotCounters,
)
from edgec.protocol.status import (
    CapturesHealth,
    ModelHealth,
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
        """Measure these processes; the processor's share is that since the last call."""
        now = time.monotonic()
        used, memory, seconds = 0.0, 0, {}
        for pid in pids:
            try:
                process = psutil.Process(pid)
                times = process.cpu_times()
                memory += _private_bytes(pid)
            except (psutil.Error, OSError):
                continue  # it has ended in the meantime
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
    """Return whether the wall clock shows a plausible date."""
    return _EARLIEST < time.time() < _LATEST


def stream_health(capture: dict[str, Any], pipeline: PipelineCounters) -> StreamHealth:
    """Combine the figures of one stream's capture process and pipeline."""
    return StreamHealth(
        **{key: value for key, value in capture.items() if key != "message"},
        message=capture["message"] or pipeline.message,
        gated=pipeline.gated,
        events=pipeline.events,
        errors=pipeline.errors,
        comparison=pipeline.comparison,
        latency={stage: _latency(value) for stage, value in pipeline.latency.items()},
    )


def model_health(slot: str, state: str, message: str, restarts: int, counters: SlotCounters) -> ModelHealth:
    """Build one slot's part of the message."""
    model = counters.active or ModelCounters()
    return ModelHealth(
        slot=slot,
        name=model.name,
        version=model.version,
        manifest_digest=model.manifest_digest or None,
        state=state if state in ("loading", "running", "probation", "failed", "absent") else "failed",  # type: ignore[arg-type]
        inferences=model.inferences,
        errors=model.errors,
        restarts=restarts,
        latency=_latency(model.latency) if model.latency else None,
        score_mean=model.score_mean,
        results_per_frame=model.results_per_frame,
        message=message or model.last_error,
    )


def _latency(latency: Latency) -> StageLatency:
    return StageLatency(p50_ms=latency.p50_ms, p99_ms=latency.p99_ms)


def captures_health(state: SpoolState | None, counters: CaptureCounters) -> CapturesHealth | None:
    """Combine the figures of the spool and its upload; `None` if the device is not enrolled."""
    if state is None:
        return None
    return CapturesHealth(
        waiting=state.waiting,
        bytes=state.bytes,
        kept=counters.kept,
        sent=state.sent,
        refused=state.refused + counters.refused,
        message=counters.problem or state.problem,
    )


def free_bytes(folder: Path) -> int | None:
    """Return the space left in the state folder; `None` if it cannot be determined."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def descriptors() -> int:
    """Return the number of open descriptors of this process, to detect leaks."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
