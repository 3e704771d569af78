"""Measure the zoo, and real models where available, against ONNX Runtime and OpenVINO."""

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgec.benchmarks.machine import code_digest
from edgec.benchmarks.networks.catalogue import GROUPS, LITERT, Network
from edgec.benchmarks.networks.compiled import Compiled, compile_network
from edgec.benchmarks.networks.results import Measurement, Results
from edgec.benchmarks.networks.state import MachineState, states
from edgec.benchmarks.restricted import wheels
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.options import CompileOptions
from edgec.compiler.this_machine import known_rates
from edgec.targets.machine_rates import MachineRates
from edgec.targets.target import Target

RUNS, LIMIT_S, REPEATS = 100, 1.2, 3  # of a process; processes


def sides(network: Network) -> list[str]:
    """The runtimes to measure, as far as they are installed: LiteRT for its own models, alone for those in int8."""
    if network.group == LITERT:
        return ["edgec", "litert"]
    own = network.path is not None and network.path.suffix == ".tflite"
    others = {"openvino": "openvino", **({"litert": "ai_edge_litert"} if own else {})}
    return [
        "edgec",
        "onnxruntime",
        *(side for side, name in others.items() if importlib.util.find_spec(name)),
    ]


@dataclass(frozen=True)
class Plan:
    """Settings of a run of the suite.

    Attributes:
        target: the target to compile for; this machine has to run it.
        threads: numbers of threads to measure with.
        file: the file to which each measurement is saved at once, so that a later run can add to them.
        resume: retain the measurements in `file` and measure only missing ones; otherwise networks are measured anew,
            and measurements of other networks in `file` are retained only when `partial`.
        partial: the chosen networks are a part of the suite.
        seconds: no measurement begins later than this; None for no limit.
        compiled: folder of compiled networks: those in it are measured as they are, others are compiled into it. None
            compiles everything anew into a temporary folder.
        measure: False only compiles, into `compiled`, for which the machine need not be quiet.
        repeats: processes in which each network is measured.
        restricted: folder of copies of the other runtimes that see no more than AVX2; None measures the installed ones.
    """

    target: Target
    threads: tuple[int, ...]
    file: Path
    resume: bool = False
    partial: bool = False
    seconds: float | None = None
    compiled: Path | None = None
    measure: bool = True
    repeats: int = REPEATS
    restricted: Path | None = None


def run_suite(
    chosen: Sequence[Network], plan: Plan, options: CompileOptions, report: Callable[[str], None]
) -> Results:
    """Measure each network at each number of threads, every measurement in processes of its own.

    Raises:
        EdgecError: the file of an earlier run cannot be read.
    """
    from edgec.benchmarks.machine import describe_machine

    kept = _earlier(plan, {n.name for n in chosen})
    known = {(m.network, m.threads) for m in kept}
    jobs = [(n, t) for n in chosen for t in plan.threads if (n.name, t) not in known]
    counts = sorted({*plan.threads, *(m.threads for m in kept)})
    machine = describe_machine(plan.target, counts)
    machine |= {"date": datetime.date.today().isoformat(), "tune": options.tune}
    if (
        kept and "fp32_peak_gflops" in machine
    ):  # a peak is the highest rate seen: this run may have begun on a busier machine
        for count, rate in json.loads(plan.file.read_text(encoding="utf-8"))["machine"][
            "fp32_peak_gflops"
        ].items():
            machine["fp32_peak_gflops"][count] = max(rate, machine["fp32_peak_gflops"].get(count, 0.0))
    results = Results(machine, kept)
    if plan.restricted is not None:
        machine["restricted"] = wheels.RESTRICTED
    rates = known_rates(backend_of(plan.target)) if plan.measure else None
    if rates is not None:
        machine["rates"] = rates.to_json()
    watched = states(backend_of(plan.target), sorted({t for _, t in jobs})) if plan.measure else {}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as temporary:
        folder = plan.compiled or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for done, (network, count) in enumerate(jobs):
            spent = time.perf_counter() - begin
            if plan.seconds is not None and spent > plan.seconds:
                report(f"{len(jobs) - done} of {len(jobs)} measurements remain for a run with --resume")
                break
            made = compile_network(
                network, plan.target, replace(options, threads=count, verify=False), folder
            )
            line = f"{network.name}, {count} threads: compiled in {made.seconds:.1f} s {made.failure}"
            if plan.measure:
                measured = _measure(
                    network, count, made, folder / "bytecode", rates, watched.get(count), plan
                )
                results.measurements.append(measured)
                results.measurements.sort(key=lambda m: (m.threads, GROUPS.index(m.group), m.network))
                results.save(plan.file)
                line = _line(measured)
            spent = time.perf_counter() - begin
            left = spent / (done + 1) * (len(jobs) - done - 1)
            report(f"[{done + 1}/{len(jobs)}, about {left / 60:.0f} min left] {line}")
    measured_now = {(m.network, m.threads) for m in results.measurements}
    machine["left"] = [f"{n.name} ({t})" for n, t in jobs if (n.name, t) not in measured_now]
    if plan.measure and results.measurements:
        results.save(plan.file)
    return results


def _earlier(plan: Plan, names: set[str]) -> list[Measurement]:
    """Measurements of an earlier run that this one retains."""
    from edgec.targets.errors import EdgecError

    if not (plan.resume or plan.partial) or not plan.file.exists():
        return []
    earlier = Results.load(plan.file)
    if earlier.machine.get("target") != plan.target.name:
        raise EdgecError(f"{plan.file} was measured for another target; name another folder with --output")
    if earlier.machine.get("code") != code_digest():
        return []  # measured with other code: that is another result
    found = earlier.measurements
    if plan.resume:
        return found
    return [m for m in found if m.network not in names or m.threads not in plan.threads]


def _line(m: Measurement) -> str:
    if m.failure:
        return f"{m.network}, {m.threads} threads: {m.failure}"
    times = ", ".join(f"{side} {sorted(t)[len(t) // 2]:.3f} ms" for side, t in m.latency_ms.items())
    return f"{m.network}, {m.threads} threads: {times}"


def _measure(
    network: Network,
    threads: int,
    made: Compiled,
    bytecode: Path,
    rates: MachineRates | None,
    state: MachineState | None,
    plan: Plan,
) -> Measurement:
    empty = Measurement(
        network.name, network.group, threads, failure=made.failure, tune=made.tune, quantised=made.quantised
    )
    if made.failure:
        return empty
    job: dict[str, Any] = {
        "inputs": str(made.inputs), "artifact": str(made.artifact), "model": str(made.reference),
        "threads": threads, "runs": RUNS, "limit_s": LIMIT_S, "sides": sides(network),
        "reference": network.reference, "source": str(made.source or ""),
        "restricted": str(plan.restricted or ""),
    }  # fmt: skip
    latency: dict[str, list[float]] = {}
    worst, sampled, shares = 0.0, dict[str, list[int]](), list[float]()

    def latencies() -> dict[str, Any]:
        return _worker({**job, "kind": "latency"}, bytecode)

    for _ in range(plan.repeats):
        if state is None:
            done = latencies()
        else:
            judged = state.judged(latencies)
            done = judged.made
            shares.append(round(judged.share, 3))
        if "failure" in done:
            return replace(empty, failure=done["failure"])
        worst = max(worst, done["error"])
        for side, times in done["latency"].items():
            latency.setdefault(side, []).append(times["median_ms"])
        for side, counts in done["sampled"].items():
            sampled[side] = [a + b for a, b in zip(sampled.get(side, (0, 0)), counts, strict=True)]
    first = {s: _footprint({**job, "kind": "footprint", "side": s}, bytecode) for s in latency}
    failed = next((d["failure"] for d in first.values() if "failure" in d), "")
    if failed:
        return replace(empty, failure=failed)
    layers = _worker({**job, "kind": "layers", "rates": rates.to_json()}, bytecode) if rates else {}
    model = made.source if network.group == LITERT and made.source else made.reference
    return replace(
        empty,
        latency_ms=latency,
        layers=layers.get("layers", []),
        floor_ms=layers.get("floor_ms", 0.0),
        error=worst,
        first_ms={s: d["first_ms"] for s, d in first.items()},
        resident={s: d["resident"] for s, d in first.items()},
        size={"edgec": made.artifact.stat().st_size, network.reference: model.stat().st_size},
        compile_s=made.seconds,
        compile_cpu_s=made.cpu_s,
        sampled=sampled,
        speed_shares=shares,
    )


def _footprint(job: dict[str, Any], bytecode: Path) -> dict[str, Any]:
    """Measure one side alone; the first run of a side, which compiles its bytecode, is discarded."""
    mark = bytecode / f"{job['side']}.made"
    if not mark.exists():
        _worker(job, bytecode)
        bytecode.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return _worker(job, bytecode)


def _worker(job: dict[str, Any], bytecode: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgec.benchmarks.networks.worker", json.dumps(job)]
    # Installed packages come with bytecode, an editable edgec may not: give all sides the same bytecode cache.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode.resolve())
    if job["restricted"]:
        environment |= wheels.environment()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"failure": lines[-1][:200]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
