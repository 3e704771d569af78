"""The measurements; each returns plain numbers."""

from __future__ import annotations

import time
from typing import Any

from edgec.benchmarks.fleet.stage import Players, RowWatch, Stage


def _at(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)]


def ingest(place: Stage, rate: float, seconds: float, devices: int) -> dict[str, Any]:
    """Publish `rate` detections per second and follow each to its row."""
    players = Players(place, devices)
    watch = RowWatch(place.database)
    try:
        time.sleep(2)
        watch.start()
        before = place.cpu()
        began = time.monotonic()
        players.tell(do="events", rate=rate, seconds=seconds)
        time.sleep(seconds)
        backlog = place.metrics()["edgec_ingest_queue"]
        sent = sum(item["sent"] for item in players.report())
        end = time.monotonic() + 40
        while len(watch.latencies) < sent and time.monotonic() < end:
            time.sleep(0.05)
        took = time.monotonic() - began
        after = place.cpu()
        watch.halt()
        ordered = sorted(watch.latencies)
        seconds_of: dict[int, list[float]] = {}
        for at, latency in zip(watch.sent_at, watch.latencies, strict=True):
            seconds_of.setdefault(int(at - min(watch.sent_at)), []).append(latency)
        return {
            "backend": place.backend, "devices": players.online, "offered_per_s": rate, "sent": sent,
            "rows": len(ordered), "seconds_to_last_row": round(took, 2),
            "rows_per_s": round(len(ordered) / max(watch.last - watch.first, 1e-9)),
            "p50_s": round(_at(ordered, 0.5), 3) if ordered else None,
            "p99_s": round(_at(ordered, 0.99), 3) if ordered else None,
            "max_s": round(ordered[-1], 3) if ordered else None,
            "queue_at_end": backlog,
            "p99_s_by_second": [round(_at(sorted(found), 0.99), 3) for _, found in sorted(seconds_of.items())],
            "cpu_s": {name: round(after[name] - before.get(name, 0), 2) for name in after},
        }  # fmt: skip
    finally:
        players.stop()


def scale(place: Stage, devices: int, seconds: float, every_s: float = 30.0) -> dict[str, Any]:
    """Response time of the overview while all devices are connected and report every `every_s` seconds."""
    began = time.monotonic()
    players = Players(place, devices)
    connected = time.monotonic() - began
    try:
        before, began = place.cpu(), time.monotonic()
        first = place.metrics()
        players.tell(do="health", every_s=every_s, seconds=seconds)
        answers: list[float] = []
        pages: list[float] = []
        with place.client() as client:
            client.post("/api/v1/session", json={"token": place.token}).raise_for_status()
            while time.monotonic() - began < seconds:
                start = time.monotonic()
                client.get("/api/v1/overview").raise_for_status()
                answers.append(time.monotonic() - start)
                start = time.monotonic()
                client.get("/", headers={"Authorization": ""}).raise_for_status()
                pages.append(time.monotonic() - start)
                time.sleep(1.0)
            shown = client.get("/api/v1/overview").json()["devices"]
        spent = time.monotonic() - began
        last, after = place.metrics(), place.cpu()
        reports = players.report()
        answers.sort()
        pages.sort()
        health = 'edgec_ingest_messages_total{kind="health"}'
        return {
            "backend": place.backend, "devices": players.online, "connect_s": round(connected, 1),
            "lost": sum(item["lost"] for item in reports), "sent": sum(item["sent"] for item in reports),
            "written": int(last.get(health, 0) - first.get(health, 0)),
            "queue_at_end": last["edgec_ingest_queue"], "shown_online": shown["online"],
            "ack_p99_s": max(item.get("ack_p99_s", 0) for item in reports),
            "overview_ms": {"p50": round(1e3 * _at(answers, 0.5), 1), "p99": round(1e3 * _at(answers, 0.99), 1),
                            "n": len(answers)},
            "page_ms": {"p50": round(1e3 * _at(pages, 0.5), 1), "p99": round(1e3 * _at(pages, 0.99), 1)},
            "cores": {name: round((after[name] - before.get(name, 0)) / spent, 2) for name in after},
        }  # fmt: skip
    finally:
        players.stop()


def rollout(place: Stage, devices: int, failing: float, limit_s: float) -> dict[str, Any]:
    """A rollout in three stages to all devices, a share of which fails; compares the counts of fleet and devices."""
    from edgec.benchmarks.fleet.artifact import push

    version = str(int(time.time()))
    push(place, "detector", version)
    players = Players(place, devices, failing=failing)
    try:
        stages = [{"percent": 1}, {"percent": 25}, {"percent": 100}]
        plan = {"stages": stages, "max_failed_percent": 50, "min_success_percent": 50, "job_timeout_s": 300}
        with place.client() as client:
            began = time.monotonic()
            before = place.cpu()
            made = client.post(
                "/api/v1/rollouts",
                json={
                    "model": "detector",
                    "version": version,
                    "scope": {"kind": "all", "name": ""},
                    "plan": plan,
                },
            )
            made.raise_for_status()
            created = time.monotonic() - began
            number = made.json()["id"]
            shown = made.json()
            while not shown["ended"] and time.monotonic() - began < limit_s:
                time.sleep(0.5)
                shown = client.get(f"/api/v1/rollouts/{number}").json()
            took = time.monotonic() - began
            after = place.cpu()
        reports = players.report()
        jobs: dict[str, int] = {}
        for item in reports:
            for state, count in item["jobs"].items():
                jobs[state] = jobs.get(state, 0) + count
        return {
            "backend": place.backend, "devices": players.online, "state": shown["state"],
            "reason": shown["reason"], "accounts_fleet": shown["devices"], "accounts_devices": jobs,
            "seconds": round(took, 2), "create_s": round(created, 2),
            "cpu_s": {name: round(after[name] - before.get(name, 0), 2) for name in after},
        }  # fmt: skip
    finally:
        players.stop()
