"""Metrics for Prometheus under `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from edgec.fleet.api.context import Asking, Server, address, allowed
from edgec.fleet.broker.durable import LIMIT
from edgec.fleet.devices.queries import counts
from edgec.fleet.services import Services
from edgec.fleet.store.tables import Job, Rollout

router = APIRouter(tags=["operations"])


@router.get("/metrics", response_class=Response)
def metrics(server: Server, request: Request, asking: Asking) -> Response:
    """Metrics in Prometheus' text format 0.0.4, for the networks of the setting `metrics_from` and, from anywhere, for
    a token (of the scope `operations:read`, where it has scopes). They name no device."""
    if not server.settings.reads_metrics(address(request)):
        allowed(request, asking, "viewer")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(server))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(f"edgec_{name}", text, value=value)


def labelled(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    """A family with one label and a value for each of its values."""
    found = family(f"edgec_{name}", text, labels=[label])
    for key, value in values.items():
        found.add_metric([key], value)
    return found


class FleetCollector(Collector):
    """Reads the figures at each scrape. Those from the database cover all processes, the others this one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        """Yield every metric."""
        yield from self._fleet()
        yield from self._process()

    def _fleet(self) -> Iterator[Metric]:
        with self._services.database.reading() as session:
            devices = counts(session)
            rollouts = dict(
                session.execute(select(Rollout.state, func.count()).group_by(Rollout.state)).all()
            )
            jobs = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
        states = {key: devices[key] for key in ("online", "stopped", "offline", "never")}
        yield labelled(GaugeMetricFamily, "devices", "Devices by presence.", "state", states)
        yield gauge("devices_pending", "Devices waiting to be accepted.", devices["pending"])
        yield gauge("devices_drift", "Devices that run another version than desired.", devices["drift"])
        yield labelled(GaugeMetricFamily, "rollouts", "Rollouts by state.", "state", rollouts)
        yield labelled(GaugeMetricFamily, "jobs", "Jobs by state.", "state", jobs)

    def _process(self) -> Iterator[Metric]:
        services = self._services
        ingest = services.ingest.counters
        yield labelled(
            CounterMetricFamily,
            "ingest_messages",
            "Messages written, by kind.",
            "kind",
            dict(ingest.messages),
        )
        yield labelled(
            CounterMetricFamily,
            "ingest_rejected",
            "Messages rejected, by reason.",
            "reason",
            dict(ingest.rejected),
        )
        yield CounterMetricFamily("edgec_ingest_batches", "Transactions of the ingest.", ingest.batches)
        yield CounterMetricFamily("edgec_ingest_seconds", "Time spent in them.", round(ingest.seconds, 6))
        yield gauge("ingest_queue", "Messages waiting to be written.", services.ingest.depth)
        yield gauge(
            "broker_connected", "Whether the broker is connected.", int(services.mqtt_client.connected)
        )
        if services.sessions is not None:
            held = len(services.sessions.held)
            yield gauge("ingest_sessions", "Sessions at the broker that this process receives through.", held)
        if services.broker is not None:
            yield gauge("broker_sessions", "Connections to the embedded broker.", services.broker.sessions())
            yield gauge("broker_sessions_limit", "Connections it is designed for.", LIMIT)
        yield gauge("uptime_seconds", "Time since the start.", round(time.time() - services.started_at, 3))
