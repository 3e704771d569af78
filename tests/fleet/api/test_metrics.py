"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

# Dashboards and alerts of operators hang on these names.
COUNTERS = {"ingest_messages", "ingest_rejected", "ingest_batches", "ingest_seconds"}
GAUGES = {
    "devices", "devices_pending", "devices_drift", "rollouts", "jobs", "ingest_queue", "broker_connected",
    "broker_sessions", "broker_sessions_limit", "uptime_seconds",
}  # fmt: skip


def scrape(server: FleetServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    kinds = {family.name.removeprefix("edgec_"): family.type for family in families}
    assert kinds == dict.fromkeys(COUNTERS, "counter") | dict.fromkeys(GAUGES, "gauge")
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_metrics_count_devices_and_messages(
    server: FleetServer, device: Callable[..., SimDevice]
) -> None:
    before = scrape(server)
    assert before["edgec_devices", (("state", "online"),)] == 0
    assert before["edgec_broker_connected", ()] == 1
    camera = device("metered")
    camera.send_event()
    camera.mqtt.publish(camera.topics.events("cam"), b"{}", 1).wait_for_publish(60)
    events = ("edgec_ingest_messages_total", (("kind", "event"),))
    refused = ("edgec_ingest_rejected_total", (("reason", "event"),))
    wait_for(lambda: refused in scrape(server), 60, "the count of what was left out")
    after = scrape(server)
    assert after["edgec_devices", (("state", "online"),)] == 1
    assert (after[events], after[refused]) == (1, 1)
    assert after["edgec_ingest_batches_total", ()] > before["edgec_ingest_batches_total", ()]
    assert "metered" not in httpx.get(f"{server.url}/metrics").text, "no device's name is public"
