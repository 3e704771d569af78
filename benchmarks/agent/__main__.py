"""The agent's overhead over a plain loop: latency from capture to the outbox, frame rate, shared models.

    python -m edgec.benchmarks.agent --artifact detector.edge [--onnx detector.onnx] [--video film.mp4]

Everything is measured in one run on one machine, in turns: the model alone in a loop, the model in a loop that reads
the video, an OpenCV and ONNX Runtime loop that does the same (with `--onnx`, an UltraFace), and the agent with one
stream and with four that share the model. The video should show objects that the model detects, so that there are
events to time. `edgec.benchmarks.agent.soak` is the long run that watches memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import msgspec
import numpy as np

import edgec.runtime as rt
from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.config.settings import AgentConfig
from edgec.device_agent.inference.messages import DetectionFound, PictureTaken, Report
from edgec.device_agent.inference.runner import Candidate, Inference, Settings
from edgec.device_agent.process.loop import Loop
from edgec.protocol.events import DetectionData


class Predictor(Protocol):
    """Frame in, results out."""

    def predict(self, frame: Any, /) -> Any: ...  # noqa: D102, ANN401


def rate(model: Predictor, frames: Iterator[Any], seconds: float) -> float:
    """Frames a second of `predict` alone in a loop."""
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        model.predict(next(frames))
        count += 1
    return count / (time.perf_counter() - begin)


def film(video: Path) -> Iterator[Any]:
    """The frames of a video, endlessly."""
    capture = cv2.VideoCapture(str(video))
    while True:
        arrived, frame = capture.read()
        if arrived:
            yield frame
        else:
            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)


class Plain:
    """UltraFace without edgec: OpenCV, ONNX Runtime, numpy, boxes in pixels of the frame.

    ONNX Runtime gets the simplified model, whose weights are not inputs: the published file takes three times as long.
    """

    def __init__(self, onnx: Path, threads: int) -> None:
        import onnxruntime

        from edgec.compiler.frontends import load_source
        from edgec.compiler.options import CompileOptions

        model = load_source(onnx, CompileOptions()).reference.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = self._session.get_inputs()[0]
        self._name, (self._height, self._width) = given.name, given.shape[2:]

    def predict(self, frame: Any) -> list[tuple[list[float], float]]:  # noqa: ANN401 - a picture
        """Boxes (left, top, width, height) of faces with their scores."""
        small = cv2.cvtColor(cv2.resize(frame, (self._width, self._height)), cv2.COLOR_BGR2RGB)
        values = ((small.astype(np.float32) - 127.0) / 128.0).transpose(2, 0, 1)[None]
        scores, corners = self._session.run(None, {self._name: values})
        sure = scores[0, :, 1] > 0.7
        scale = np.array([frame.shape[1], frame.shape[0]] * 2)
        found = corners[0, sure] * scale
        found[:, 2:] -= found[:, :2]
        chosen = scores[0, sure, 1]
        kept = cv2.dnn.NMSBoxes(found.tolist(), chosen.tolist(), 0.7, 0.3)
        return [(found[place].tolist(), float(chosen[place])) for place in np.asarray(kept).reshape(-1)]


class Rig:
    """The agent's own capture, inference and outbox, connected without a broker."""

    def __init__(
        self, artifact: Path, streams: dict[str, dict[str, Any]], threads: int, folder: Path
    ) -> None:
        self.loop = Loop()
        table = {"models": {"m": {"threads": threads}}, "streams": streams}
        config = AgentConfig.model_validate(table)
        self._waiting: list[tuple[float, float]] = []
        self.latencies_ms: list[float] = []
        self.outbox = Outbox(folder / "outbox.db", 1 << 30, 1e9, self._committed)
        start = Settings.of(config, "bench", "bench", folder)
        self.inference = Inference(
            self.loop,
            start,
            lambda _: [Candidate(str(artifact), None, threads)],
            lambda _: False,
            lambda: 10.0,
            self,
        )
        self.inference.add_slot("m")
        self.inference.start()
        self.runners = {}
        for name, settings in config.streams.items():
            runner = StreamRunner(name, settings, self.loop, lambda _: None)
            self.runners[name] = runner
            self.inference.add_stream(runner)
            runner.start()

    def detection(self, message: DetectionFound) -> None:
        """Put a detection into the outbox, as the agent does."""
        data = DetectionData.model_validate(message.data)
        self._waiting.append((data.frame.captured_at.timestamp(), 0.0))
        self.outbox.put_event("t", "/bench", message.stream, message.id, data, critical=True)

    def capture_kept(self) -> None:
        """No stream of the benchmark takes captures."""

    def picture_taken(self, message: PictureTaken) -> None:
        """Pictures are not measured."""

    def inference_died(self, suspect: int) -> None:
        """The benchmark's figures then show it."""

    def model_unloadable(self, slot: str) -> None:
        """Nothing to mend."""

    def inference_changed(self) -> None:
        """Discard it."""

    def _committed(self) -> None:
        now = time.time()
        done, self._waiting = self._waiting, []
        self.latencies_ms += [(now - captured) * 1000 for captured, _ in done]

    @property
    def processed(self) -> int:
        """Frames that all streams have processed."""
        return sum(runner.ring.counters().processed for runner in self.runners.values())

    def run(self, seconds: float) -> None:
        """Run for a number of seconds."""
        self.loop.run_until(lambda: False, seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the other processes, to pause or resume them."""
        for pid in (self.inference.pid, *(runner.pid for runner in self.runners.values())):
            if pid is not None:
                os.kill(pid, number)

    def report(self) -> Report:
        """The inference process's counters."""
        future = self.inference.report()
        self.loop.run_until(future.done, 10)
        return future.result(0)

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
    """A stream's configuration; with an event per frame, so that every frame's latency is measured, or the default."""
    source = {"kind": "file", "path": str(video), "pace": pace, "width": 320, "height": 240}
    table = {"source": source | ({"fps": fps} if fps else {}), "model": "m", "policy": policy}
    each = {"tracker": {"confirm": 1, "lost_s": 0.5}, "update_interval_s": 0.001}
    return table | (each if event_a_frame else {})


def shrink(video: Path, output: Path) -> list[Any]:
    """Write a 320×240 video as Motion JPEG, so that decoding costs little; returns some of its frames."""
    capture = cv2.VideoCapture(str(video))
    frames: list[Any] = []
    while len(frames) < 200 and (frame := capture.read()[1]) is not None:
        frames.append(cv2.resize(frame, (320, 240), interpolation=cv2.INTER_AREA))
    writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (320, 240))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return frames


def warm(artifact: Path, streams: dict[str, dict[str, Any]], threads: int, folder: str) -> Rig:
    """The agent's parts, after running for two seconds."""
    rig = Rig(artifact, streams, threads, Path(folder))
    while rig.processed <= 20:  # frames do not wake the loop
        rig.run(0.1)
    rig.run(2.0)
    return rig


def rates(options: argparse.Namespace, small: Path, frames: list[Any], streams: int) -> dict[str, Any]:
    """Frames per second of the agent and of loops, in turns, so that disturbances affect all of them.

    `bare` is the model in a loop over frames in memory, `reading` in one that reads the video, `plain` ONNX
    Runtime in that loop. While they run, the agent's processes are stopped. `of_…` is the agent's rate over a
    loop's, the median of all rounds.
    """
    # With `every` the capture processes read no more than the model processes: no core decodes dropped frames.
    tables = {name: stream(small, "fast", "every", event_a_frame=False) for name in "abcdefgh"[:streams]}
    memory, reading = itertools.cycle(frames), film(small)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, rt.load(options.artifact, threads=options.threads) as model:
        loops: dict[str, tuple[Predictor, Iterator[Any]]] = {
            "bare": (model, memory),
            "reading": (model, reading),
        }
        if options.onnx:
            loops["plain"] = (Plain(options.onnx, options.threads), reading)
        rate(model, memory, 0.5)
        rig = warm(options.artifact, tables, options.threads, folder)
        for _ in range(options.rounds):
            rig.signal(signal.SIGSTOP)
            row = {name: rate(one, given, options.seconds) for name, (one, given) in loops.items()}
            rig.signal(signal.SIGCONT)
            rig.run(0.2)
            before, begin = rig.processed, time.monotonic()
            rig.run(options.seconds)
            rows.append(row | {"agent": (rig.processed - before) / (time.monotonic() - begin)})
        rig.close()
    result: dict[str, Any] = {f"{name}_fps": [round(row[name]) for row in rows] for name in rows[0]}
    return result | {
        f"of_{name}": round(statistics.median(row["agent"] / row[name] for row in rows), 3) for name in loops
    }


def overhead(options: argparse.Namespace, small: Path) -> dict[str, Any]:
    """Latency from capture to the outbox beyond the model's, at ten frames per second and an event per frame."""
    with tempfile.TemporaryDirectory() as folder:
        table = {"a": stream(small, "real", "every", 10.0)}
        rig = warm(options.artifact, table, options.threads, folder)
        rig.latencies_ms.clear()
        rig.run(options.rounds * options.seconds)
        report = rig.report()
        model = report.slots["m"].active
        assert model is not None
        assert model.latency is not None
        inference_ms = model.latency.p50_ms
        beside = sorted(value - inference_ms for value in rig.latencies_ms)
        rig.close()
    result = {
        "events": len(beside),
        "inference_p50_ms": inference_ms,
        "stages": msgspec.to_builtins(report.streams["a"].latency),
    }
    if beside:
        result["p50_ms"] = round(statistics.median(beside), 2)
        result["p99_ms"] = round(beside[round((len(beside) - 1) * 0.99)], 2)
    return result


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement in a round")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.avi"
        frames = shrink(options.video, small)
        json.dump(compare(options, small, frames), sys.stdout, indent=2)


def compare(options: argparse.Namespace, small: Path, frames: list[Any]) -> dict[str, Any]:
    """Measure every side."""
    results: dict[str, Any] = {"threads": options.threads, "load": os.getloadavg()[0]}
    results["one stream"] = rates(options, small, frames, 1)
    results["four streams"] = rates(options, small, frames, 4)
    results["overhead"] = overhead(options, small)
    return results


if __name__ == "__main__":
    main()
