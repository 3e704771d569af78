"""A soak test of fleet and device together: two models, two cameras and a microphone, and servers that come and go.

    python -m edgec.benchmarks.fleet.soak --detector shapes.edge --listener sounds.edge --camera a.avi --camera b.avi \\
        --sound street.wav --minutes 30

PostgreSQL, Mosquitto and two fleet processes run in a temporary folder, and one real agent that reads files as if they
were cameras and a microphone. In every cycle one process is stopped and started again, one is killed and started again,
and a third one joins and leaves. After each change everything that the device has reported so far must arrive. The
result is printed as JSON: frames, events, health reports, and how many messages never arrived (*stranded*).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from edgec.benchmarks.fleet.stage import Stage, serve, stage
from edgec.device_agent.errors import AgentError
from edgec.device_agent.health.status_socket import query
from edgec.fleet.store.tables import Detection, Device, Telemetry

CATCH_UP_S = 60.0
CALM_S = 20.0
_CONFIG = """
[agent]
state = "state"
health_interval_s = 2
[models.detector]
artifact = "{detector}"
threads = 1
[models.listener]
artifact = "{listener}"
threads = 1
[streams.one]
source = {{ kind = "file", path = "{cameras[0]}", pace = "real", fps = {fps} }}
model = "detector"
update_interval_s = 1
[streams.two]
source = {{ kind = "file", path = "{cameras[1]}", pace = "real", fps = {fps} }}
model = "detector"
update_interval_s = 1
[streams.mic]
source = {{ kind = "sound", path = "{sound}", rate = 16000 }}
model = "listener"
update_interval_s = 1
"""


@dataclass
class Tally:
    """What happened."""

    changes: dict[str, int] = field(default_factory=dict)
    catch_up_s: list[float] = field(default_factory=list)
    longest_silence_s: float = 0.0

    def count(self, what: str) -> None:
        """Count a change of processes."""
        self.changes[what] = self.changes.get(what, 0) + 1


class Soak:
    """One run; `place` is the running fleet, `folder` the agent's."""

    def __init__(self, place: Stage, folder: Path, stack: ExitStack, options: argparse.Namespace) -> None:
        self.place, self.folder, self.stack, self.options = place, folder, stack, options
        self.tally = Tally()
        self.agent = self._start_agent()

    def _start_agent(self) -> subprocess.Popen[bytes]:
        files = {
            name: str(getattr(self.options, name).resolve()) for name in ("detector", "listener", "sound")
        }
        cameras = [str(path.resolve()) for path in self.options.camera]
        config = self.folder / "agent.toml"
        config.write_text(_CONFIG.format(cameras=cameras, fps=self.options.fps, **files))
        with self.place.client() as client:
            token = client.post("/api/v1/enroll-tokens", json={"uses": 1}).json()["token"]
        edgec = [sys.executable, "-m", "edgec.cli.main", "agent"]
        enroll = ["enroll", "--server", self.place.url, "--token", token, "--device", "soak"]
        subprocess.run([*edgec, *enroll, "--state", str(self.state)], check=True, capture_output=True)
        log = self.stack.enter_context((self.folder / "agent.log").open("wb"))
        agent = subprocess.Popen([*edgec, "run", "--config", str(config)], stdout=log, stderr=log)
        self.stack.callback(_end, agent)
        return agent

    @property
    def state(self) -> Path:
        """The agent's state folder."""
        return self.folder / "state"

    def status(self) -> dict[str, Any]:
        """The agent's own account; waits for it.

        Raises:
            RuntimeError: the agent has ended or does not answer.
        """
        end = time.monotonic() + CATCH_UP_S
        while time.monotonic() < end and self.agent.poll() is None:
            try:
                return query(self.state)
            except AgentError:
                time.sleep(0.5)
        raise RuntimeError((self.folder / "agent.log").read_text()[-2000:])

    def stored(self) -> int:
        """The number of events in the database."""
        with self.place.database.reading() as session:
            return session.scalar(select(func.count()).select_from(Detection)) or 0

    def all_arrives(self) -> None:
        """Wait until everything that the agent has reported so far is stored."""
        wanted, began = events_of(self.status()), time.monotonic()
        while self.stored() < wanted:
            if time.monotonic() - began > CATCH_UP_S:
                raise RuntimeError(f"stranded: {wanted - self.stored()} of {wanted} events did not arrive")
            time.sleep(0.2)
        self.tally.catch_up_s.append(round(time.monotonic() - began, 2))
        self._listen()

    def _listen(self) -> None:
        with self.place.database.reading() as session:
            seen = session.scalar(select(Device.last_seen).where(Device.name == "soak")) or 0.0
        self.tally.longest_silence_s = max(self.tally.longest_silence_s, round(time.time() - seen, 1))

    def run(self) -> None:
        """Change the processes in turn until the time is over."""
        servers, index = self.place.servers, len(self.place.servers)
        end = time.monotonic() + 60 * self.options.minutes
        while not events_of(self.status()):
            time.sleep(0.5)
        self.all_arrives()
        while time.monotonic() < end:
            for what in ("stopped", "killed", "scaled up and down"):
                if what != "scaled up and down":
                    victim = servers.pop(0)
                    victim.send_signal(signal.SIGTERM if what == "stopped" else signal.SIGKILL)
                    victim.wait(60)
                    self._calm()
                process, _ = serve(self.folder.parent, self.place.environment, index, self.stack)
                index += 1
                self._calm()
                if what == "scaled up and down":
                    _end(process)
                    self._calm()
                else:
                    servers.append(process)
                self.tally.count(what)
                if time.monotonic() >= end:
                    break

    def _calm(self) -> None:
        """Let it run for a while, then see that nothing is missing."""
        time.sleep(self.options.calm)
        self.all_arrives()

    def finish(self) -> dict[str, Any]:
        """Stop the agent, wait for the rest, and return the counts."""
        last = self.status()
        _end(self.agent)
        wanted, end = events_of(last), time.monotonic() + CATCH_UP_S
        while self.stored() < wanted and time.monotonic() < end:
            time.sleep(0.2)
        with self.place.database.reading() as session:
            reports = session.scalar(select(func.count()).where(Telemetry.stream == "")) or 0
            numbers: dict[str, list[int]] = {}
            for stream, event in session.execute(select(Detection.stream, Detection.event_id)):
                numbers.setdefault(stream, []).append(
                    int(event.rpartition("-")[2]) if event[-1].isdigit() else 0
                )
        catch_up = self.tally.catch_up_s
        return {
            "minutes": self.options.minutes,
            "frames": {one["name"]: one["processed"] for one in last["streams"]},
            "dropped": {one["name"]: one["dropped"] for one in last["streams"]},
            "errors": sum(one["errors"] for one in last["models"]),
            "events sent": wanted,
            "events stored": {stream: len(found) for stream, found in sorted(numbers.items())},
            "stranded": max(0, wanted - self.stored()),
            "health reports stored": reports,
            "processes": self.tally.changes,
            "checks": len(catch_up),
            "seconds until all had arrived": {"median": sorted(catch_up)[len(catch_up) // 2], "most": max(catch_up)},
            "longest silence seen, s": self.tally.longest_silence_s,
        }  # fmt: skip


def events_of(status: dict[str, Any]) -> int:
    """The events that the streams have made so far."""
    return sum(int(one["events"]) for one in status["streams"])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main() -> None:
    """Entry of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("detector", "listener", "sound"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--camera", type=Path, action="append", required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--calm", type=float, default=CALM_S, help="Seconds between two changes.")
    options = parser.parse_args()
    if len(options.camera) != 2:
        parser.error("two cameras: give --camera twice")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = stack.enter_context(stage("external", Path(name), 1, servers=2))
        folder = Path(name) / "device"
        folder.mkdir()
        soak = Soak(place, folder, stack, options)
        soak.run()
        print(json.dumps(soak.finish(), indent=2))


if __name__ == "__main__":
    main()
