"""Run the zoo, and real models where there are any, against ONNX Runtime and OpenVINO; write the results page."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec.benchmarks.networks.catalogue import Network
from edgec.compiler.options import CompileOptions
from edgec.targets.target import Target

RUNS, LIMIT_S, REPEATS = 100, 1.2, 3
RESULTS = "benchmarks.json"  # measurements so far, in the folder of the page


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
    tune: str = ""  # how its kernels were chosen
    quantised: bool = False  # the model comes with int8 products, which the other sides compute as such

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


@dataclass(frozen=True)
class Plan:
    """What a run of the suite does.

    Attributes:
        target: what to compile for; this machine has to run it.
        threads: how many threads to measure with, each in turn.
        file: where measurements are kept as soon as they are made, so that a later run can add to them.
        resume: keep what `file` holds and measure only what it lacks; otherwise networks are measured anew, and
            those of `file` that are not among them are kept only when `partial`.
        partial: the networks are a part of the suite.
        seconds: no measurement begins later than this; None for all of them.
        compiled: a folder that keeps the compiled networks: what it holds is measured as it is, what it lacks is
            compiled into it. None compiles everything anew and keeps nothing.
        measure: False compiles only, into `compiled`: the machine need not be quiet for that.
    """

    target: Target
    threads: tuple[int, ...]
    file: Path
    resume: bool = False
    partial: bool = False
    seconds: float | None = None
    compiled: Path | None = None
    measure: bool = True


@dataclass(frozen=True)
class _Compiled:
    """A compiled network, and what its measurement needs beside the artifact."""

    artifact: Path
    reference: Path  # the model as the other sides get it
    inputs: Path
    seconds: float = 0.0
    tune: str = ""
    failure: str = ""
    quantised: bool = False

    @staticmethod
    def of(folder: Path, name: str, threads: int) -> _Compiled:
        """What `folder` knows of a network; `tune` is empty when it does not know it."""
        found = _Compiled(folder / f"{name}-{threads}.edge", folder / f"{name}.onnx", folder / f"{name}.npz")
        try:
            return replace(found, **json.loads(found.note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return found

    @property
    def note(self) -> Path:
        """The file with what the artifact does not say."""
        return self.artifact.with_suffix(".json")


def run_suite(
    chosen: Sequence[Network], plan: Plan, options: CompileOptions, note: Callable[[str], None]
) -> Results:
    """Measure each network at each number of threads, every measurement in processes of its own.

    Raises:
        EdgecError: the file of an earlier run cannot be read.
    """
    from edgec.benchmarks.machine import describe_machine

    kept = _kept(plan, {n.name for n in chosen})
    known = {(m.network, m.threads) for m in kept}
    jobs = [(n, t) for n in chosen for t in plan.threads if (n.name, t) not in known]
    counts = sorted({*plan.threads, *(m.threads for m in kept)})
    machine = describe_machine(plan.target, counts)
    machine |= {"date": datetime.date.today().isoformat(), "tune": options.tune}
    if kept:  # a peak is the highest rate seen: this run may have begun on a busier machine
        for count, rate in json.loads(plan.file.read_text(encoding="utf-8"))["machine"][
            "fp32_peak_gflops"
        ].items():
            machine["fp32_peak_gflops"][count] = max(rate, machine["fp32_peak_gflops"].get(count, 0.0))
    results = Results(machine, kept)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as temporary:
        folder = plan.compiled or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for done, (network, count) in enumerate(jobs):
            spent = time.perf_counter() - begin
            if plan.seconds is not None and spent > plan.seconds:
                note(f"{len(jobs) - done} of {len(jobs)} measurements are left for a run with --resume")
                break
            made = _compile(network, plan.target, replace(options, threads=count, verify=False), folder)
            line = f"{network.name}, {count} threads: compiled in {made.seconds:.1f} s {made.failure}"
            if plan.measure:
                measured = _measure(network, count, made, folder / "bytecode")
                results.measurements.append(measured)
                results.measurements.sort(key=lambda m: (m.threads, m.group != "zoo", m.network))
                _keep(results, plan.file)
                line = _line(measured)
            spent = time.perf_counter() - begin
            left = spent / (done + 1) * (len(jobs) - done - 1)
            note(f"[{done + 1}/{len(jobs)}, about {left / 60:.0f} min left] {line}")
    measured_now = {(m.network, m.threads) for m in results.measurements}
    machine["left"] = [f"{n.name} ({t})" for n, t in jobs if (n.name, t) not in measured_now]
    if plan.measure and results.measurements:
        _keep(results, plan.file)
    return results


def _kept(plan: Plan, names: set[str]) -> list[Measurement]:
    """What an earlier run measured and this one leaves as it is."""
    from edgec.targets.errors import EdgecError

    if not (plan.resume or plan.partial) or not plan.file.exists():
        return []
    try:
        content = json.loads(plan.file.read_text(encoding="utf-8"))
        found = [Measurement(**entry) for entry in content["measurements"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{plan.file} holds no results of this suite: remove it to begin anew ({error})"
        raise EdgecError(message) from error
    if content["machine"].get("target") != plan.target.name:
        raise EdgecError(f"{plan.file} was measured for another target; name another folder with --output")
    if plan.resume:
        return found
    return [m for m in found if m.network not in names or m.threads not in plan.threads]


def _keep(results: Results, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(results.to_json(), indent=1) + "\n", encoding="utf-8")
    new.replace(file)


def _line(m: Measurement) -> str:
    if m.failure:
        return f"{m.network}, {m.threads} threads: {m.failure}"
    times = ", ".join(f"{side} {sorted(t)[len(t) // 2]:.3f} ms" for side, t in m.latency_ms.items())
    return f"{m.network}, {m.threads} threads: {times}"


def _compile(network: Network, target: Target, options: CompileOptions, folder: Path) -> _Compiled:
    """The network's artifact with its inputs and reference in `folder`, made unless they are there."""
    from edgec.compiler.frontends import load_source
    from edgec.compiler.pipeline import compile_model
    from edgec.compiler.verify.reference import is_quantised
    from edgec.targets.errors import EdgecError

    made = _Compiled.of(folder, network.name, options.threads or 1)
    if made.tune:
        return made
    made = replace(made, tune=options.tune)
    options = replace(options, input_shapes=network.shapes)
    try:
        model = network.model(folder)
        start = time.perf_counter()
        compile_model(model, target, options, output=made.artifact)
        made = replace(made, seconds=time.perf_counter() - start)
        source = load_source(model, options)
    except EdgecError as error:
        made = replace(made, failure=str(error))
    else:
        np.savez(made.inputs, **_inputs(network, source))
        made.reference.write_bytes(source.reference.SerializeToString())
        made = replace(made, quantised=is_quantised(source.reference))
    known = {
        "seconds": made.seconds,
        "tune": made.tune,
        "failure": made.failure,
        "quantised": made.quantised,
    }
    made.note.write_text(json.dumps(known), encoding="utf-8")
    return made


def _measure(network: Network, threads: int, made: _Compiled, bytecode: Path) -> Measurement:
    empty = Measurement(
        network.name, network.group, threads, failure=made.failure, tune=made.tune, quantised=made.quantised
    )
    if made.failure:
        return empty
    job = {
        "inputs": str(made.inputs), "artifact": str(made.artifact), "model": str(made.reference),
        "threads": threads, "runs": RUNS, "limit_s": LIMIT_S, "sides": sides(),
    }  # fmt: skip
    latency: dict[str, list[float]] = {}
    worst = 0.0
    for _ in range(REPEATS):
        done = _worker({**job, "kind": "latency"}, bytecode)
        if "failure" in done:
            return replace(empty, failure=done["failure"])
        worst = max(worst, done["error"])
        for side, times in done["latency"].items():
            latency.setdefault(side, []).append(times["median_ms"])
    first = {s: _footprint({**job, "kind": "footprint", "side": s}, bytecode) for s in sides()}
    failed = next((d["failure"] for d in first.values() if "failure" in d), "")
    if failed:
        return replace(empty, failure=failed)
    return replace(
        empty,
        latency_ms=latency,
        error=worst,
        first_ms={s: d["first_ms"] for s, d in first.items()},
        resident={s: d["resident"] for s, d in first.items()},
        size={"edgec": made.artifact.stat().st_size, "onnxruntime": made.reference.stat().st_size},
        compile_s=made.seconds,
    )


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


def _footprint(job: dict[str, Any], bytecode: Path) -> dict[str, Any]:
    """One side alone; the very first run of a side, which compiles its bytecode, is thrown away."""
    mark = bytecode / f"{job['side']}.made"
    if not mark.exists():
        _worker(job, bytecode)
        bytecode.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return _worker(job, bytecode)


def _worker(job: dict[str, Any], bytecode: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgec.benchmarks.networks.worker", json.dumps(job)]
    # Installed packages have their bytecode beside them; an editable one of ours may not, so all sides' is kept here.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode.resolve())
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"failure": lines[-1][:200]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
