"""Run the zoo, and real models where there are any, against ONNX Runtime and OpenVINO; write the results page."""

from __future__ import annotations

import datetime
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec.benchmarks.networks import Network
from edgec.compiler.options import CompileOptions
from edgec.targets.target import Target

RUNS, LIMIT_S, REPEATS = 100, 6.0, 3


@dataclass(frozen=True)
class Measurement:
    """One network at one number of threads; latencies are medians in milliseconds, one per repeat."""

    network: str
    group: str
    threads: int
    latency_ms: dict[str, list[float]] = field(default_factory=dict)
    error: float = 0.0
    first_ms: dict[str, float] = field(default_factory=dict)
    resident: dict[str, int] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    compile_s: float = 0.0
    failure: str = ""

    def ratio(self, side: str) -> tuple[float, float, float]:
        """How many times as fast as `side`: median over the repeats, lowest, highest."""
        ratios = sorted(b / a for a, b in zip(self.latency_ms["edgec"], self.latency_ms[side], strict=True))
        return ratios[len(ratios) // 2], ratios[0], ratios[-1]


@dataclass(frozen=True)
class Results:
    """A run of the suite."""

    machine: dict[str, Any]
    measurements: list[Measurement]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-serialisable values."""
        return {"machine": self.machine, "measurements": [asdict(m) for m in self.measurements]}


def sides() -> list[str]:
    """What is measured: OpenVINO only where it is installed."""
    found = ["edgec", "onnxruntime"]
    return [*found, "openvino"] if importlib.util.find_spec("openvino") else found


def run_suite(
    chosen: Sequence[Network],
    target: Target,
    threads: Sequence[int],
    options: CompileOptions,
    note: Callable[[str], None],
) -> Results:
    """Measure each network at each number of threads, every measurement in a process of its own."""
    from edgec.benchmarks.machine import describe_machine

    measurements = []
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as folder:
        for network in chosen:
            for count in threads:
                made = _measure(
                    network, target, replace(options, threads=count, verify=False), Path(folder), note
                )
                measurements.append(made)
                note(_line(made))
    machine = describe_machine(target, threads) | {"date": datetime.date.today().isoformat()}
    return Results(machine, measurements)


def _line(m: Measurement) -> str:
    if m.failure:
        return f"{m.network}, {m.threads} threads: {m.failure}"
    times = ", ".join(f"{side} {sorted(t)[len(t) // 2]:.3f} ms" for side, t in m.latency_ms.items())
    return f"{m.network}, {m.threads} threads: {times}"


def _measure(
    network: Network, target: Target, options: CompileOptions, folder: Path, note: Callable[[str], None]
) -> Measurement:
    from edgec.compiler.frontends import load_source
    from edgec.compiler.pipeline import compile_model
    from edgec.targets.errors import EdgecError

    threads = options.threads or 1
    empty = Measurement(network.name, network.group, threads)
    try:
        model = network.model(folder)
        start = time.perf_counter()
        made = compile_model(model, target, options, output=folder / f"{network.name}-{threads}.edge")
        seconds = time.perf_counter() - start
        source = load_source(model, options)
    except EdgecError as error:
        return replace(empty, failure=str(error))
    inputs = folder / "inputs.npz"
    np.savez(inputs, **_inputs(network, source))
    reference = folder / "reference.onnx"
    reference.write_bytes(source.reference.SerializeToString())
    job = {
        "inputs": str(inputs), "artifact": str(made.artifact), "model": str(reference), "threads": threads,
        "runs": RUNS, "limit_s": LIMIT_S, "sides": sides(),
    }  # fmt: skip
    latency: dict[str, list[float]] = {}
    worst = 0.0
    for _ in range(REPEATS):
        done = _worker({**job, "kind": "latency"})
        if "failure" in done:
            return replace(empty, failure=done["failure"])
        worst = max(worst, done["error"])
        for side, times in done["latency"].items():
            latency.setdefault(side, []).append(times["median_ms"])
    first = {s: _worker({**job, "kind": "footprint", "side": s}) for s in sides()}
    sizes = {"edgec": made.artifact.stat().st_size, "onnxruntime": reference.stat().st_size}
    return Measurement(
        network.name, network.group, threads, latency, worst,
        {s: d["first_ms"] for s, d in first.items()}, {s: d["resident"] for s, d in first.items()},
        sizes, seconds,
    )  # fmt: skip


def _inputs(network: Network, source: Any) -> dict[str, Any]:  # noqa: ANN401  (a SourceModel; importing it loads onnx)
    """The zoo's own sample inputs; for other models normal numbers, and ones where integers are wanted."""
    from edgec.models import sample_inputs

    if network.path is None:
        return dict(sample_inputs(network.name))
    rng = np.random.default_rng(0)
    return {
        port.name: rng.standard_normal(port.shape).astype(port.dtype)
        if port.dtype.startswith("float")
        else np.ones(port.shape, port.dtype)
        for port in source.inputs
    }


def _worker(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgec.benchmarks.worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"failure": lines[-1][:200]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
