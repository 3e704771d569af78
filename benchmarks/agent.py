"""What the agent costs beside a plain loop: latency from capture to the outbox, frame rate, shared models, memory.

    python -m edgec.benchmarks.agent --artifact detector.edge [--onnx detector.onnx] [--video film.mp4]

Everything is measured in one run on one machine: the model alone in a loop, an OpenCV and ONNX Runtime loop (when
``--onnx`` is given), the agent with one stream, and the agent with four streams that share the model. ``--soak
SECONDS`` adds a long run that writes memory and rate as CSV.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

import edgec.runtime as rt
from edgec.device_agent.channel import Body
from edgec.device_agent.config import AgentConfig
from edgec.device_agent.inference import Candidate, Inference
from edgec.device_agent.loop import Loop
from edgec.device_agent.outbox import Outbox
from edgec.device_agent.stream_runner import StreamRunner
from edgec.protocol.events import DetectionData


def bare_model(artifact: Path, frames: list[Any], seconds: float, threads: int) -> dict[str, float]:
    """The model alone: ``predict`` on frames that are in memory."""
    model = rt.load(artifact, threads=threads)
    for frame in frames[:5]:
        model.predict(frame)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        model.predict(frames[len(times) % len(frames)])
        times.append((time.perf_counter() - begin) * 1000)
    model.close()
    return {"fps": 1000 * len(times) / sum(times), "p50_ms": statistics.median(times)}


def plain_loop(onnx: Path, video: Path, seconds: float, threads: int) -> dict[str, float]:
    """What one writes without an agent: VideoCapture, resize, ONNX Runtime; nothing is sent or kept."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    height, width = given.shape[2:]
    capture = cv2.VideoCapture(str(video))
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        good, frame = capture.read()
        if not good:
            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            continue
        small = cv2.resize(frame, (width, height)).astype(np.float32)
        session.run(None, {given.name: ((small - 127.0) / 128.0).transpose(2, 0, 1)[None]})
        count += 1
    return {"fps": count / (time.perf_counter() - begin)}


class Rig:
    """The agent's own capture, inference and outbox, joined without a broker."""

    def __init__(
        self, artifact: Path, streams: dict[str, dict[str, Any]], threads: int, folder: Path
    ) -> None:
        self.loop = Loop()
        table = {"models": {"m": {"threads": threads}}, "streams": streams}
        config = AgentConfig.model_validate(table)
        self._waiting: list[tuple[float, float]] = []
        self.latencies_ms: list[float] = []
        self.outbox = Outbox(folder / "outbox.db", 1 << 30, 1e9, self._committed)
        samples = {"folder": str(folder / "samples"), **config.capture.model_dump()}
        media = {
            "folder": str(folder / "media"), "device": "bench", "samples": samples, **config.media.model_dump()
        }  # fmt: skip
        self.inference = Inference(
            self.loop, "bench", media, lambda _: [Candidate(str(artifact), None, threads)], self._event,
            lambda: None, lambda: None,
        )  # fmt: skip
        self.inference.add_slot("m")
        self.inference.start()
        self.runners = {}
        for name, settings in config.streams.items():
            runner = StreamRunner(name, settings, self.loop, lambda _: None)
            self.runners[name] = runner
            self.inference.add_stream(runner)
            runner.start()

    def _event(self, body: Body) -> None:
        data = DetectionData.model_validate(body["data"])
        self._waiting.append((data.frame.captured_at.timestamp(), 0.0))
        self.outbox.put_event("t", "/bench", body["stream"], body["id"], data, critical=True)

    def _committed(self) -> None:
        now = time.time()
        done, self._waiting = self._waiting, []
        self.latencies_ms += [(now - captured) * 1000 for captured, _ in done]

    @property
    def processed(self) -> int:
        """Frames that all streams have taken through."""
        return sum(runner.ring.counters().processed for runner in self.runners.values())

    def run(self, seconds: float, each_second: Callable[[], None] = lambda: None) -> None:
        """Let it work."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.loop.run_until(lambda: False, min(1.0, left))
            each_second()

    def report(self) -> Body:
        """The inference process's counters."""
        future = self.inference.ask({"op": "report"})
        self.loop.run_until(future.done, 10)
        return future.result(0)

    def pids(self) -> list[int]:
        """Capture and inference processes."""
        return [pid for pid in (self.inference.pid, *(r.pid for r in self.runners.values())) if pid]

    def close(self) -> None:
        """End everything."""
        self.inference.close()
        self.loop.run_until(lambda: self.inference.stopped, 10)
        for runner in self.runners.values():
            runner.close()
        self.outbox.close()


def stream(
    video: Path, pace: str, policy: str, fps: float | None = None, *, event_a_frame: bool = True
) -> dict[str, Any]:
    """One stream's table; with an event a frame, so that every frame's latency is seen, or as by default."""
    source = {"kind": "file", "path": str(video), "pace": pace, "width": 320, "height": 240}
    table = {"source": source | ({"fps": fps} if fps else {}), "model": "m", "policy": policy}
    each = {"tracker": {"confirm": 1, "lost_s": 0.5}, "update_interval_s": 0.001}
    return table | (each if event_a_frame else {})


def shrink(video: Path, output: Path) -> list[Any]:
    """Write a film of 320×240 as Motion JPEG, so that no decoder is measured; returns some of its frames."""
    capture = cv2.VideoCapture(str(video))
    frames: list[Any] = []
    while len(frames) < 200 and (frame := capture.read()[1]) is not None:
        frames.append(cv2.resize(frame, (320, 240), interpolation=cv2.INTER_AREA))
    writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (320, 240))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return frames


def measure(
    artifact: Path, streams: dict[str, dict[str, Any]], threads: int, seconds: float
) -> dict[str, Any]:
    """Run the agent's parts for some seconds after a warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(artifact, streams, threads, Path(folder))
        rig.loop.run_until(lambda: rig.processed > 20, 60)
        rig.run(2.0)
        rig.latencies_ms.clear()
        before, begin = rig.processed, time.monotonic()
        rig.run(seconds)
        fps = (rig.processed - before) / (time.monotonic() - begin)
        report = rig.report()
        inference_ms = report["slots"]["m"]["latency"]["p50_ms"]
        latencies = sorted(rig.latencies_ms)
        stages = next(iter(report["streams"].values()))["latency"]
        rig.close()
    result: dict[str, Any] = {"fps": round(fps, 1), "inference_p50_ms": inference_ms, "stages": stages}
    if latencies:
        overhead = [value - inference_ms for value in latencies]
        result |= {
            "events": len(latencies),
            "overhead_p50_ms": round(statistics.median(overhead), 2),
            "overhead_p99_ms": round(overhead[round((len(overhead) - 1) * 0.99)], 2),
        }
    return result


def soak(
    artifact: Path, video: Path, threads: int, seconds: float, fps: float, output: Path
) -> dict[str, Any]:
    """Run for long and write memory, rate and latency of every second; returns the slope of memory.

    Memory is what the three processes have for themselves (their proportional size would move with every other
    Python on the machine); what the outbox holds is acknowledged each second, as by a broker. The slope is a line
    through all but the first fifth.
    """
    rows: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as folder, output.open("w", encoding="utf-8") as file:
        rig = Rig(artifact, {"a": stream(video, "real", "newest", fps)}, threads, Path(folder))
        rig.loop.run_until(lambda: rig.processed > 20, 60)
        begin, last = time.monotonic(), rig.processed
        file.write("seconds,memory_mb,fps,p50_ms,p99_ms\n")

        def look() -> None:
            nonlocal last
            pids = [os.getpid(), *rig.pids()]
            memory = sum(psutil.Process(pid).memory_full_info().uss for pid in pids) / 1e6
            seen = sorted(rig.latencies_ms) or [float("nan")]
            rig.latencies_ms.clear()
            middle, late = seen[len(seen) // 2], seen[round((len(seen) - 1) * 0.99)]
            row = (time.monotonic() - begin, memory, rig.processed - last, middle, late)
            last = rig.processed
            rows.append(row)
            file.write(",".join(f"{value:.2f}" for value in row) + "\n")
            file.flush()
            for entry in rig.outbox.peek(1000, set()):
                rig.outbox.acknowledge(entry.key)

        rig.run(seconds, look)
        rig.close()
    steady = np.array(rows[len(rows) // 5 :])
    slope = float(np.polyfit(steady[:, 0], steady[:, 1], 1)[0]) * 3600
    return {
        "seconds": seconds,
        "memory_mb": {"first": round(float(steady[0, 1]), 1), "last": round(rows[-1][1], 1)},
        "slope_mb_per_hour": round(slope, 2),
        "fps": round(float(np.mean(steady[:, 2])), 2),
        "p50_ms": round(float(np.nanmedian(steady[:, 3])), 2),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--soak", type=float, default=0.0)
    parser.add_argument("--soak-fps", type=float, default=12.0)
    parser.add_argument("--soak-csv", type=Path, default=Path("soak.csv"))
    options = parser.parse_args()
    if options.soak:
        json.dump(
            soak(
                options.artifact,
                options.video,
                options.threads,
                options.soak,
                options.soak_fps,
                options.soak_csv,
            ),
            sys.stdout,
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.avi"
        frames = shrink(options.video, small)
        json.dump(compare(options, small, frames), sys.stdout, indent=2)


def compare(options: argparse.Namespace, small: Path, frames: list[Any]) -> dict[str, Any]:
    """Measure every side, the model alone once before and once after the others."""
    artifact, threads, seconds = options.artifact, options.threads, options.seconds
    results: dict[str, Any] = {"threads": threads, "load": os.getloadavg()[0]}
    results["bare model"] = bare_model(artifact, frames, seconds, threads)
    if options.onnx:
        results["plain loop"] = plain_loop(options.onnx, small, seconds, threads)
    # `every` lets the capture processes read no more than the model takes: no core decodes what is dropped.
    one = {"a": stream(small, "fast", "every", event_a_frame=False)}
    results["agent, one stream"] = measure(artifact, one, threads, seconds)
    four = {name: stream(small, "fast", "every", event_a_frame=False) for name in "abcd"}
    results["agent, four streams"] = measure(artifact, four, threads, seconds)
    slow = {"a": stream(small, "real", "every", 10.0)}
    results["agent, 10 frames a second"] = measure(artifact, slow, threads, seconds)
    results["bare model, again"] = bare_model(artifact, frames, seconds, threads)
    bare = (results["bare model"]["fps"] + results["bare model, again"]["fps"]) / 2
    for name in ("one stream", "four streams"):
        results[f"{name} of the bare model's rate"] = round(results[f"agent, {name}"]["fps"] / bare, 3)
    return results


if __name__ == "__main__":
    main()
