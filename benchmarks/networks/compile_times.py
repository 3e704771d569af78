"""How long networks of the suite take to compile, with and without tuning.

`python -m edgec.benchmarks.networks.compile_times NAME… [--tune none --tune fast]` compiles networks for this machine,
each in a process of its own with an empty cache, and writes `docs/compile-times.json` and `.md`. Beside the
seconds that passed stand those that all cores computed; other programs raise these by up to a half (shared caches).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgec.benchmarks.networks.catalogue import Network, networks
from edgec.benchmarks.networks.compiled import cpu_seconds
from edgec.compiler.options import CompileOptions, Tune
from edgec.targets import usable_cores
from edgec.targets.microarchitecture import this_processor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compile-times.md"
NONE, FAST = "none", "fast"
QUIET = 0.05  # of the cores' time: what others may take while a compile counts as alone
LIMITS_S = {NONE: 15.0, FAST: 30.0}  # of `fast`: beyond `none`


@dataclass(frozen=True)
class CompileTime:
    """One compile.

    Attributes:
        seconds: that passed, from the model's file to the verified artifact.
        cpu_s: that all cores computed.
        stages_s: seconds by stage.
        tuning_s: of them, for timing candidates.
        timed: candidates that were timed.
        left: kinds of layers that there was no time for.
        gained_ms: what a run takes less by that.
        cores: that the process could use.
        machine: the processor.
        others: part of the cores' time that other programs took meanwhile; None where that was not recorded.
        failure: why there is no artifact; empty when there is.
    """

    network: str
    tune: str
    seconds: float = 0.0
    cpu_s: float = 0.0
    stages_s: dict[str, float] | None = None
    tuning_s: float = 0.0
    timed: int = 0
    left: int = 0
    gained_ms: float = 0.0
    cores: int = 1
    machine: str = ""
    failure: str = ""
    others: float | None = None


def compile_once(network: Network, tune: Tune, threads: int, folder: Path) -> CompileTime:
    """Compile a network for this machine in this process, with an empty cache."""
    from edgec.compiler.pipeline import compile_model
    from edgec.targets import load_target
    from edgec.targets.errors import EdgecError

    model = network.model(folder)
    with tempfile.TemporaryDirectory(prefix="edgec-compile-") as name:
        empty = Path(name)
        options = CompileOptions(
            threads=threads, tune=tune, cache_dir=empty / "cache", input_shapes=network.shapes
        )
        start, cpu, busy = time.perf_counter(), cpu_seconds(), busy_seconds()
        try:
            made = compile_model(model, load_target("host"), options, output=empty / "made.edge")
        except EdgecError as error:
            return CompileTime(network.name, tune, failure=str(error).splitlines()[0])
        seconds, cpu, busy = time.perf_counter() - start, cpu_seconds() - cpu, busy_seconds() - busy
    tuning = made.lowered.tuning
    return CompileTime(
        network.name,
        tune,
        round(seconds, 2),
        round(cpu, 2),
        {stage: round(s, 2) for stage, s in made.stages_s.items()},
        round(tuning.seconds, 2),
        tuning.timed,
        tuning.left,
        round(tuning.gained_ms, 3),
        usable_cores(),
        this_processor()[0],
        others=round(max(0.0, busy - cpu) / (seconds * usable_cores()), 3),
    )


def busy_seconds() -> float:
    """Seconds for which cores of this machine, all together, have worked for anybody since it started."""
    first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def page(times: dict[str, dict[str, CompileTime]]) -> str:
    """The page, with the networks that take longest first."""
    lines = [
        "# Compile times",
        "",
        "Written by `python -m edgec.benchmarks.networks.compile_times`; nothing here is edited by hand. Each network "
        "was compiled from its file to the verified artifact, in a process of its own with an empty cache. In "
        "brackets: the seconds that all cores computed: where other programs keep a machine busy these count, though "
        "they are up to a half higher then, as caches are shared; alone on two cores a compile takes little more than "
        "half of them. "
        "*Gained* is what the kernels that `--tune fast` found take less than the first guesses, in a run; *left* "
        "are kinds of layers that there was no time to try. *Others*: the part of the cores' time that other programs "
        f"took during a compile without and with tuning. A row is of a quiet machine if that is at most {QUIET:.0%}; "
        "elsewhere the seconds tell of the load, and with tuning all of the row does: the 26 s in which batches may "
        "begin are over after one of them, and times before and after do not compare.",
        "",
        f"The aim: `--tune none` takes at most {LIMITS_S[NONE]:.0f} s, and `--tune fast` at most {LIMITS_S[FAST]:.0f} "
        "s more on two cores.",
        "",
        "| network | `none` s (cores) | `fast` s (cores) | of it tuning s | timed | gained ms | left | others |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    absent = CompileTime("", "")
    order = sorted(times, key=lambda name: (-times[name].get(NONE, absent).cpu_s, name))
    for name in order:
        none, fast = times[name].get(NONE, absent), times[name].get(FAST, absent)
        if not none.seconds and not fast.seconds:
            lines.append(f"| {name} | {none.failure or fast.failure} |  |  |  |  |  |  |")
            continue
        tuned = (
            f"{fast.tuning_s:.0f} | {fast.timed} | {fast.gained_ms:.2f} | {fast.left}"
            if fast.seconds
            else "– | – | – | –"
        )
        others = ", ".join(_others(one) for one in (none, fast) if one.seconds)
        lines.append(f"| {name} | {_told(none)} | {_told(fast)} | {tuned} | {others} |")
    machines = sorted(
        {f"{one.machine}, {one.cores} cores" for row in times.values() for one in row.values() if one.machine}
    )
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}.", ""])


def _told(one: CompileTime) -> str:
    return f"{one.seconds:.1f} ({one.cpu_s:.1f})" if one.seconds else "–"


def _others(one: CompileTime) -> str:
    if one.others is None:
        return "not recorded"
    return f"quiet ({one.others:.0%})" if one.others <= QUIET else f"{one.others:.0%}"


def _stored(file: Path) -> dict[str, dict[str, CompileTime]]:
    content: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    found: dict[str, dict[str, CompileTime]] = {}
    for fields in content:
        one = CompileTime(**fields)
        found.setdefault(one.network, {})[one.tune] = one
    return found


def _store(times: dict[str, dict[str, CompileTime]], output: Path) -> None:
    content = [asdict(one) for name in sorted(times) for _, one in sorted(times[name].items())]
    output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    output.write_text(page(times), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of names, or groups; all networks when left out")
    parser.add_argument("--tune", action="append", choices=[NONE, FAST])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    wanted = networks(only=tuple(chosen.names), strangers=True)
    if chosen.child:
        network = next(one for one in wanted if one.name == chosen.names[0])
        with tempfile.TemporaryDirectory(prefix="edgec-model-") as folder:
            made = compile_once(network, chosen.tune[0], chosen.threads, Path(folder))
        sys.stdout.write(json.dumps(asdict(made)) + "\n")
        return
    for network in wanted:
        for tune in chosen.tune or (NONE, FAST):
            command = [sys.executable, "-m", __spec__.name, "--child", "--tune", tune]
            run = subprocess.run(
                [*command, "--threads", str(chosen.threads), network.name],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ,
                check=True,
            )
            made = CompileTime(**json.loads(run.stdout.splitlines()[-1]))
            times = _stored(chosen.output.with_suffix(".json"))
            times.setdefault(network.name, {})[tune] = made
            _store(times, chosen.output)
            sys.stdout.write(f"{network.name} {tune}: {_told(made)} {made.failure}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
