"""Prometheus metrics: valid text with the figures of health, whatever the names contain."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgec.device_agent.health.metrics import MetricsServer
from edgec.protocol.status import Health

HEALTH = Health.model_validate(
    {
        "boot_id": "b", "session_seq": 1, "time": datetime(2026, 1, 1, tzinfo=UTC), "cause": "interval",
        "agent_version": "1", "target": "t", "uptime_s": 7.5,
        "streams": [
            {"name": "door", "state": "running", "captured": 10, "processed": 7, "dropped": 2, "in_flight": 1,
             "fps": 4.5, "latency": {"inference": {"p50_ms": 12.0, "p99_ms": 40.0}}},
            {"name": "yard", "state": "failed"},
        ],
        "models": [{"slot": "m", "state": "running", "name": 'a "b"\\n', "version": "2", "inferences": 7}],
        "outbox": {"depth": 3, "bytes": 900, "dropped": 1},
        "cpu_percent": 25.0,
    }
)  # fmt: skip


def test_the_figures_of_health_are_served() -> None:
    server = MetricsServer(0, lambda: HEALTH)
    try:
        address = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            text = answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/other", timeout=30)
    finally:
        server.close()
    samples = {
        (one.name, *sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    door = ("stream", "door")
    assert samples["edgec_frames_captured_total", door] == 10
    assert samples["edgec_frames_in_flight", door] == 1
    assert samples["edgec_stream_up", door] == 1
    assert samples["edgec_stream_up", ("stream", "yard")] == 0
    quantile = ("quantile", "0.99"), ("stage", "inference"), door
    assert samples["edgec_stage_latency_seconds", *quantile] == 0.04
    info = ("model", 'a "b"\\n'), ("slot", "m"), ("state", "running"), ("version", "2")
    assert samples["edgec_model_info", *info] == 1
    assert samples["edgec_outbox_dropped_total",] == 1
    assert samples["edgec_uptime_seconds",] == 7.5
    assert not any(name == "edgec_temperature_celsius" for name, *_ in samples), "unknown is left out"
