"""Fill a fleet's database with synthetic devices, to inspect and time pages and queries at scale.

What devices report comes from a seeded generator: the same call makes the same fleet. Nothing here speaks MQTT; for
that there are the simulated devices of the tests.
"""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import (
    Detection,
    Device,
    DeviceSlot,
    Group,
    Job,
    Member,
    ModelVersion,
    Rollout,
    Telemetry,
)

SITES = (
    "lyon", "porto", "turin", "gdansk", "malmo", "bilbao", "ghent", "leipzig", "brno", "graz", "lille", "cork",
)  # fmt: skip
LINES = ("line-a", "line-b", "line-c", "dock", "yard")
TARGETS = ("rpi5", "rpi4", "jetson-orin", "x86-64-v3")
MODELS = (("detector", ("1.4.0", "1.5.0", "1.5.1")), ("keywords", ("0.9",)))
LABELS = ("person", "forklift", "pallet", "car", "helmet")


def seed(database: Database, devices: int, *, seed: int = 7) -> None:
    """Add `devices` devices with an hour of telemetry for the first 300, models, groups and rollouts."""
    rng = random.Random(seed)
    now = time.time()
    rows = [_device(rng, number, now) for number in range(devices)]
    with database.writing() as session:
        session.execute(insert(Device), rows)
        session.execute(insert(DeviceSlot), [_slot(rng, row) for row in rows if row["model"]])
        session.add_all(_versions(now))
        session.add_all(
            Group(name=line, description=f"everything on {line}", selector={"labels": {"line": line}})
            for line in LINES
        )
        session.flush()
        session.execute(insert(Telemetry), _telemetry(rng, rows, now))
        session.execute(insert(Detection), _detections(rng, rows, now))
        _rollouts(session, rng, rows, now)


def _device(rng: random.Random, number: int, now: float) -> dict[str, Any]:
    site, line = SITES[number % len(SITES)], rng.choice(LINES)
    state = rng.choices(("online", "offline", "stopped", "never"), (93, 4, 2, 1))[0]
    version = rng.choices(("1.5.1", "1.5.0", "1.4.0"), (70, 25, 5))[0]
    seen = {"online": rng.uniform(0, 30), "offline": rng.uniform(60, 9e5), "stopped": rng.uniform(600, 9e5)}
    never, target = state == "never", rng.choices(TARGETS, (55, 20, 15, 10))[0]
    latency, fps = rng.gauss(23, 4), rng.choice((10.0, 15.0, 25.0, 30.0)) * rng.uniform(0.93, 1)
    name = f"cam-{site}-{number // len(SITES):04d}"
    return {
        "id": number + 1,
        "name": name,
        "admission": rng.choices(("accepted", "pending", "revoked"), (994, 4, 2))[0],
        "target": target,
        "agent_version": "0.1.0",
        "labels": {"site": site, "line": line},
        "password_hash": f"{number:064x}",
        "token_hash": f"{number:064x}",
        "enrolled_at": now - rng.uniform(1e5, 1e7),
        "state": state,
        "boot_id": f"{number:x}",
        "session_seq": 3,
        "last_seen": None if never else now - seen[state],
        "model": "" if never else "detector",
        "version": "" if never else version,
        "digest": "" if never else digest_of("detector", version, target),
        "fps": None if never else (0.0 if rng.random() < 0.002 else round(fps, 2)),
        "latency_ms": None if never else round(latency, 2),
        "health": {} if never else _health(rng, fps, latency, version),
    }


def _slot(rng: random.Random, row: dict[str, Any]) -> dict[str, Any]:
    wanted = row["version"] if rng.random() < 0.985 else "1.5.1"
    return {
        "device_id": row["id"], "slot": "detector", "model": row["model"], "version": row["version"],
        "digest": row["digest"], "state": "running", "desired_model": row["model"], "desired_version": wanted,
        "desired_digest": digest_of("detector", wanted, row["target"]),
    }  # fmt: skip


def digest_of(model: str, version: str, target: str) -> str:
    """A synthetic digest of an artifact."""
    return f"sha256:{hashlib.sha256(f'{model}:{version}-{target}'.encode()).hexdigest()}"


def _health(rng: random.Random, fps: float, latency: float, version: str) -> dict[str, Any]:
    streams = [
        {
            "name": name, "state": "running", "model": "detector", "fps": round(fps / 2, 2), "captured": 180_400,
            "processed": 180_211, "dropped": rng.randrange(200), "restarts": rng.randrange(2), "errors": 0,
            "events": rng.randrange(900), "message": "",
            "latency": {
                "total": {"p50_ms": round(latency, 2), "p99_ms": round(latency * 1.8, 2)},
                "inference": {"p50_ms": round(latency * 0.8, 2), "p99_ms": round(latency * 1.3, 2)},
            },
        }
        for name in ("gate", "ramp")
    ]  # fmt: skip
    model = {
        "slot": "detector", "name": "detector", "version": version, "state": "running", "inferences": 360_422,
        "errors": 0, "manifest_digest": f"sha256:{7:064x}", "score_mean": 0.71,
    }  # fmt: skip
    return {
        "streams": streams, "models": [model], "outbox": {"depth": rng.randrange(3)}, "cpu_percent": 143.0,
        "memory_bytes": 312_000_000, "temperature_c": round(rng.gauss(58, 6), 1), "disk_free_bytes": 21_000_000_000,
        "uptime_s": 86_000.0, "degraded": [],
    }  # fmt: skip


def _versions(now: float) -> list[ModelVersion]:
    found = []
    for model, versions in MODELS:
        for age, version in enumerate(reversed(versions)):
            for target in TARGETS:
                verified = not (version == "1.4.0" and target == "jetson-orin")
                evidence = {
                    "verified": verified,
                    "outputs": [{"name": "boxes", "max_abs": 2.1e-6}],
                    "latency": {"edgec": {"median_ms": 17.2}, "onnxruntime": {"median_ms": 21.6}},
                }
                digest = digest_of(model, version, target)
                found.append(
                    ModelVersion(
                        model=model, version=version, target=target, repository=f"models/{model}", digest=digest,
                        size=4_410_220, evidence=evidence, pushed_at=now - 86400 * (2 + 9 * age),
                    )
                )  # fmt: skip
    return found


def _telemetry(rng: random.Random, rows: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    return [
        {
            "device_id": row["id"], "stream": stream, "at": now - 3600 + 30 * step, "version": row["version"],
            "fps": max(12.3 + rng.gauss(0, 0.3), 0), "latency_ms": max(23 + rng.gauss(0, 1.2), 1), "dropped": 0,
            "processed": 400 * step, "errors": 0, "events": 2 * step,
        }
        for row in rows[:300]
        for stream in ("", "gate", "ramp")
        for step in range(120)
    ]  # fmt: skip


def _detections(rng: random.Random, rows: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    found = []
    for number in range(2000):
        row, left, top = rows[number % min(len(rows), 40)], rng.uniform(20, 480), rng.uniform(20, 250)
        label, score = rng.choice(LABELS), round(rng.uniform(0.45, 0.98), 3)
        box = [left, top, left + rng.uniform(40, 140), top + rng.uniform(60, 210)]
        found.append(
            {
                "device_id": row["id"], "event_id": f"seed-{number}", "stream": rng.choice(("gate", "ramp")),
                "at": now - 2 * (2000 - number), "received_at": now, "phase": rng.choice(("new", "update", "end")),
                "label": label, "score": score, "track_id": f"t{number}", "version": row["version"],
                "data": {"box": box, "frame": {"number": number, "width": 640, "height": 480}, "label": label},
            }
        )  # fmt: skip
    return found


def _rollouts(session: Any, rng: random.Random, rows: list[dict[str, Any]], now: float) -> None:  # noqa: ANN401
    plans = (
        ("1.5.0", "SUCCEEDED", 2, now - 9e5, ""),
        ("1.4.9", "ROLLED_BACK", 1, now - 4e5, "latency on updated devices is 1.9 times what it was (tolerated 1.5)"),
        ("1.5.1", "PAUSED", 1, now - 5400, "paused by admin"),
    )  # fmt: skip
    for version, state, stage, at, reason in plans:
        ended = state not in ("PAUSED", "RUNNING")
        stages: list[dict[str, Any]] = [
            {"percent": p, "count": None, "devices": [], "soak_s": 600.0, "approval": False}
            for p in (5, 25, 100)
        ]
        rollout = Rollout(
            model="detector", version=version, scope_kind="all", scope="", state=state, stage=stage, reason=reason,
            plan={
                "stages": stages, "max_failed_percent": 20.0, "min_success_percent": 80.0, "on_failure": "rollback",
                "job_timeout_s": 900.0, "retries": 1, "rate_per_minute": 600.0, "deadline_s": 86400.0,
                "criteria": {"latency_ratio": 1.5, "error_rate": 0.01, "alpha": 0.01}, "probation_s": None,
            },
            verdicts={
                "latency": {"updated": 1.02, "control": 1.01, "samples": [812, 2240], "evidence": 0.1, "needed": 200.0,
                            "against": False},
                "error rate": {"updated": 0.0003, "control": 0.0002, "samples": [812, 2240], "evidence": 0.2,
                               "needed": 200.0, "against": False},
            },
            created_by="admin", created_at=at, stage_since=at, deadline=at + 86400,
            finished_at=at + 7000 if ended else None,
        )  # fmt: skip
        session.add(rollout)
        session.flush()
        members = []
        for rank, row in enumerate(rows):
            place = 0 if rank < len(rows) * 0.05 else 1 if rank < len(rows) * 0.25 else 2
            reached = place < stage or ended or (place == stage and rng.random() < 0.6)
            good = {"SUCCEEDED": "SUCCEEDED", "ROLLED_BACK": "REVERTED"}.get(state, "SUCCEEDED")
            member = rng.choices((good, "FAILED", "UNREACHED"), (96, 1, 3))[0] if reached else "WAITING"
            members.append(
                {"rollout_id": rollout.id, "device_id": row["id"], "rank": rank, "stage": place, "state": member,
                 "previous_model": "detector", "previous_version": "1.4.0", "changed_at": at + rank / 10,
                 "detail": "no space left on the device" if member == "FAILED" else ""}
            )  # fmt: skip
        session.execute(insert(Member), members)
    document = {"operation": "update", "model": "detector", "version": "1.5.0"}
    session.add_all(
        Job(id=f"update-seed-{row['id']}", device_id=row["id"], rollout_id=1, document=document, state="SUCCEEDED",
            detail={"step": "RUNNING", "message": "the new model runs", "timeout_s": 900.0}, update_seq=4,
            created_at=now - 9e5, started_at=now - 9e5 + 4, finished_at=now - 9e5 + 40, expires_at=now - 8e5)
        for row in rows[:12]
    )  # fmt: skip


def seed_folder(folder: Path, devices: int) -> None:
    """Make the data folder of a server that has `devices` devices when it is started."""
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(f"sqlite:///{folder / 'fleet.db'}")
    database.migrate()
    try:
        seed(database, devices)
    finally:
        database.close()


if __name__ == "__main__":
    import sys

    seed_folder(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
