"""Prometheus metrics on loopback, in the text format, version 0.0.4."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from http import HTTPStatus

from edgec.protocol.status import Health

_STREAM = (
    ("captured", "frames_captured_total", "Frames the source gave."),
    ("processed", "frames_processed_total", "Frames the pipeline took."),
    ("dropped", "frames_dropped_total", "Frames thrown out for newer ones."),
    ("in_flight", "frames_in_flight", "Frames waiting or being processed."),
    ("gated", "frames_gated_total", "Frames a gate kept from the model."),
    ("events", "events_total", "Events the pipeline made."),
    ("errors", "pipeline_errors_total", "Frames the model failed on."),
    ("restarts", "capture_restarts_total", "Restarts of the capture process."),
    ("fps", "frames_per_second", "Frames processed a second, over the last seconds."),
)
_MODEL = (
    ("inferences", "inferences_total", "Calls of the model."),
    ("errors", "inference_errors_total", "Calls that failed."),
    ("restarts", "inference_restarts_total", "Restarts of the inference process."),
)


def render(health: Health) -> str:
    """Return the metrics of one state of health."""
    lines: list[str] = []

    def family(name: str, text: str, samples: list[tuple[str, float]]) -> None:
        if samples:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines.extend((f"# HELP edgec_{name} {text}", f"# TYPE edgec_{name} {kind}"))
            lines.extend(f"edgec_{name}{labels} {value:g}" for labels, value in samples)

    for key, name, text in _STREAM:
        family(name, text, [(f'{{stream="{one.name}"}}', float(getattr(one, key))) for one in health.streams])
    running = [(f'{{stream="{one.name}"}}', float(one.state == "running")) for one in health.streams]
    family("stream_up", "Whether the stream runs.", running)
    stages = [
        (f'{{stream="{one.name}",stage="{stage}",quantile="{quantile}"}}', value / 1000)
        for one in health.streams
        for stage, latency in one.latency.items()
        for quantile, value in (("0.5", latency.p50_ms), ("0.99", latency.p99_ms))
    ]
    family("stage_latency_seconds", "Time of a pipeline's stages over the last 512 frames.", stages)
    for key, name, text in _MODEL:
        family(name, text, [(f'{{slot="{one.slot}"}}', float(getattr(one, key))) for one in health.models])
    info = [
        (f'{{slot="{one.slot}",model="{one.name}",version="{one.version}",state="{one.state}"}}', 1.0)
        for one in health.models
    ]
    family("model_info", "What runs in a slot.", info)
    box = health.outbox
    family("outbox_messages", "Messages that wait for the broker.", [("", box.depth)])
    family("outbox_bytes", "Their size.", [("", box.bytes)])
    family("outbox_dropped_total", "Messages thrown out at a bound.", [("", box.dropped)])
    family("uptime_seconds", "Since the agent's start.", [("", health.uptime_s)])
    for value, name, text in (
        (health.cpu_percent, "cpu_percent", "Of one core, all processes."),
        (health.memory_bytes, "memory_bytes", "Proportional memory of all processes."),
        (health.temperature_c, "temperature_celsius", "Of the hottest zone."),
        (health.disk_free_bytes, "disk_free_bytes", "Where the state is kept."),
    ):
        family(name, text, [] if value is None else [("", float(value))])
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Serves ``/metrics`` on 127.0.0.1 from the latest state of health."""

    def __init__(self, port: int, latest: Callable[[], Health]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Serve the metrics."""
                if self.path != "/metrics":
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                body = render(latest()).encode()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are no news."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
