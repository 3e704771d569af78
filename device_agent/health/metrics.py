"""Prometheus metrics on loopback. Import it only to serve them: importing the client library takes time."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgec.protocol.status import Health

_STREAM = (
    ("captured", "frames_captured_total", "Frames that the source delivered."),
    ("processed", "frames_processed_total", "Frames that the pipeline processed."),
    ("dropped", "frames_dropped_total", "Frames dropped for newer ones."),
    ("damaged", "frames_damaged_total", "Pictures that could not be decoded whole."),
    ("in_flight", "frames_in_flight", "Frames waiting or being processed."),
    ("gated", "frames_gated_total", "Frames that a gate withheld from the model."),
    ("events", "events_total", "Events of the pipeline."),
    ("errors", "pipeline_errors_total", "Frames that the model failed on."),
    ("restarts", "capture_restarts_total", "Restarts of the capture process."),
    ("fps", "frames_per_second", "Frames processed per second, over the last seconds."),
)
_MODEL = (
    ("inferences", "inferences_total", "Calls of the model."),
    ("errors", "inference_errors_total", "Calls that failed."),
    ("restarts", "inference_restarts_total", "Restarts of the inference process."),
)
_Samples = Iterable[tuple[tuple[str, ...], float | None]]


class HealthCollector(Collector):
    """The metrics of the latest state of health."""

    def __init__(self, latest: Callable[[], Health]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Return every family that has samples."""
        health = self._latest()
        yield from filter(None, (*_of_streams(health), *_of_models(health), *_of_device(health)))


def _of_streams(health: Health) -> Iterator[Metric | None]:
    streams = health.streams
    for key, name, text in _STREAM:
        yield _family(name, text, ("stream",), [((one.name,), float(getattr(one, key))) for one in streams])
    running = [((one.name,), float(one.state == "running")) for one in streams]
    yield _family("stream_up", "Whether the stream runs.", ("stream",), running)
    stages = [
        ((one.name, stage, quantile), value / 1000)
        for one in streams
        for stage, latency in one.latency.items()
        for quantile, value in (("0.5", latency.p50_ms), ("0.99", latency.p99_ms))
    ]
    text = "Time in a pipeline's stages over the last 512 frames."
    yield _family("stage_latency_seconds", text, ("stream", "stage", "quantile"), stages)


def _of_models(health: Health) -> Iterator[Metric | None]:
    models = health.models
    for key, name, text in _MODEL:
        yield _family(name, text, ("slot",), [((one.slot,), float(getattr(one, key))) for one in models])
    info = [((one.slot, one.name, one.version, one.state), 1.0) for one in models]
    yield _family("model_info", "What runs in a slot.", ("slot", "model", "version", "state"), info)


def _of_device(health: Health) -> Iterator[Metric | None]:
    outbox = health.outbox
    for value, name, text in (
        (outbox.depth, "outbox_messages", "Messages that wait for the broker."),
        (outbox.bytes, "outbox_bytes", "Their size."),
        (outbox.dropped, "outbox_dropped_total", "Messages dropped at a bound."),
        (health.uptime_s, "uptime_seconds", "Time since the agent started."),
        (health.cpu_percent, "cpu_percent", "Of one core, all processes."),
        (health.memory_bytes, "memory_bytes", "Proportional memory of all processes."),
        (health.temperature_c, "temperature_celsius", "Of the hottest zone."),
        (health.disk_free_bytes, "disk_free_bytes", "Where the state is kept."),
    ):
        yield _family(name, text, (), [((), value)])


def _family(name: str, text: str, labels: tuple[str, ...], samples: _Samples) -> Metric | None:
    """Return a counter where the name says so, else a gauge; None without samples."""
    present = [(values, float(value)) for values, value in samples if value is not None]
    if not present:
        return None
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(f"edgec_{name}", text, labels=labels)
    for values, value in present:
        family.add_metric(values, value)
    return family


class MetricsServer:
    """Serves `/metrics` on 127.0.0.1 from the latest state of health."""

    def __init__(self, port: int, latest: Callable[[], Health]) -> None:
        registry = CollectorRegistry()
        registry.register(HealthCollector(latest))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Serve the metrics."""
                if self.path != "/metrics":
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                body = generate_latest(registry)
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", CONTENT_TYPE_LATEST)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not logged."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
