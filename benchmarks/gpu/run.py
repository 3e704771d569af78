"""Run a prepared folder on a GPU: results against the reference, memory errors, and times beside PyTorch.

First all results are checked and timed, then the small networks run under compute-sanitizer, then PyTorch is timed
beside, whose compiler takes minutes a network. Each case is a process of its own with a limit of time.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgec.benchmarks.gpu.outcomes import Outcome, Results
from edgec.benchmarks.gpu.plan import NO_SANITIZER, NO_TIME, NO_TORCH, SMALL, Case, Plan
from edgec.runtime.artifact.reader import Artifact
from edgec.runtime.errors import ArtifactError, IncompatibleDevice

_OPEN = """
from edgec.runtime.errors import EdgecError
from edgec.runtime.gpu.driver import shared_driver
try:
    gpu = shared_driver()
except EdgecError as error:
    raise SystemExit(str(error))
print(f"{gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]}, {gpu.memory_bytes / 1e9:.0f} GB)")
"""
_LIMITS_S = {"check": 60.0, "once": 60.0, "beside": 180.0}
_LEAST_S = 5.0  # what is left for a step to begin


@dataclass
class _Run:
    folder: Path
    plan: Plan
    results: Results
    out: Path | None
    report: Callable[[str], None]
    begin: float

    @property
    def left_s(self) -> float:
        return self.plan.seconds - (time.monotonic() - self.begin)

    def save(self) -> None:
        self.results.seconds = time.monotonic() - self.begin
        if self.out is not None:
            self.results.write(self.out)

    def child(self, stage: str, number: int, file: Path, prefix: list[str]) -> str:
        """Run a stage of a case; why it failed, or nothing."""
        command = [
            *prefix,
            sys.executable,
            "-m",
            "edgec.benchmarks.gpu",
            stage,
            str(self.folder),
            str(number),
        ]
        command += [str(file)] if stage != "once" else []
        limit = min(_LIMITS_S[stage], self.left_s)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return f"not finished within {limit:.0f} s"
        if done.returncode == 0:
            return ""
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return (lines[-1] if lines else f"ended with {done.returncode}")[-400:]


def run(folder: Path, report: Callable[[str], None], out: Path | None = None) -> Results:
    """Run all cases; those that no time is left for are left out, and said so.

    Args:
        folder: filled by `prepare`.
        report: told what each case gave.
        out: file of results, written after each step; what it has of a run before on the same GPU is kept.

    Raises:
        IncompatibleDevice: there is no GPU here, or its driver is too old.
    """
    plan = Plan.read(folder)
    device = _device(folder, plan)
    outcomes = _before(out, plan, device)
    one = _Run(folder, plan, Results(device, plan.target, 0.0, outcomes), out, report, time.monotonic())
    one.save()
    with tempfile.TemporaryDirectory() as scratch:
        for stage in (_check, _sanitize, _beside):
            for number, case in enumerate(plan.cases):
                name = stage.__name__.strip("_")
                if one.left_s < _LEAST_S:
                    _leave_out(one, number, case, name)
                    continue
                if _is_done(name, case, outcomes[number]):
                    continue
                stage(one, number, case, Path(scratch) / f"{number}.json")
                one.save()
    one.save()
    return one.results


def _before(out: Path | None, plan: Plan, device: str) -> list[Outcome]:
    """What a run before has found of each case, but for what it had no time for."""
    made = [Outcome(case.network, case.precision, case.batch) for case in plan.cases]
    if out is None or not out.exists():
        return made
    results = msgspec.json.decode(out.read_bytes(), type=Results)
    known = {(one.network, one.precision, one.batch): one for one in results.outcomes}
    if (results.device, results.target) != (device, plan.target):
        return made
    for number, fresh in enumerate(made):
        found = known.get((fresh.network, fresh.precision, fresh.batch), fresh)
        found.notes = [
            note for note in found.notes if not note.startswith((NO_TIME, NO_SANITIZER, *NO_TORCH))
        ]
        made[number] = found
    return made


def _leave_out(run: _Run, number: int, case: Case, stage: str) -> None:
    outcome = run.results.outcomes[number]
    if _is_done(stage, case, outcome):
        return
    told = f"{NO_TIME} the step '{stage}'"
    run.report(f"{case.label}: {told}")
    if outcome.error is None and not outcome.failed:
        outcome.failed = told
    elif stage == "beside":
        outcome.notes.append(told)


def _is_done(stage: str, case: Case, outcome: Outcome) -> bool:
    """Whether a run before did it, or it is not to be done."""
    if stage == "check":
        return outcome.error is not None and not outcome.failed
    if stage == "sanitize":
        return outcome.sanitizer is not None or case.network not in SMALL or case.batch > 1
    return "compiled" in outcome.median_ms or any(
        note.startswith(("beside", "compiled")) for note in outcome.notes
    )


def _check(run: _Run, number: int, case: Case, file: Path) -> None:
    failed = run.child("check", number, file, [])
    made = _read(file)
    if made is not None:
        run.results.outcomes[number] = made
    run.results.outcomes[number].failed = failed
    run.report(_line(case, run.results.outcomes[number]))


def _sanitize(run: _Run, number: int, case: Case, file: Path) -> None:
    tool = _sanitizer()
    outcome = run.results.outcomes[number]
    if outcome.failed:
        return
    if tool is None:
        outcome.notes = list(dict.fromkeys([*outcome.notes, NO_SANITIZER]))
        return
    outcome.sanitizer = run.child("once", number, file, [tool, "--error-exitcode", "9"]) or "no error"
    run.report(f"{case.label}: compute-sanitizer: {outcome.sanitizer}")


def _sanitizer() -> str | None:
    """NVIDIA's compute-sanitizer: of the machine, or of its wheel."""
    if (tool := shutil.which("compute-sanitizer")) is not None:
        return tool
    for folder in sys.path:  # a namespace that other packages of NVIDIA may have closed
        wheel = Path(folder) / "nvidia" / "cuda_sanitizer_api" / "bin" / "compute-sanitizer"
        if wheel.is_file():
            wheel.chmod(wheel.stat().st_mode | stat.S_IXUSR)
            return str(wheel)
    return None


def _beside(run: _Run, number: int, case: Case, file: Path) -> None:
    outcome = run.results.outcomes[number]
    if outcome.failed:
        return
    missing = next((note for one in run.results.outcomes for note in one.notes if note in NO_TORCH), None)
    if missing is not None:  # it would be so for every case
        outcome.notes = list(dict.fromkeys([*outcome.notes, missing]))
        return
    file.unlink(missing_ok=True)
    failed = run.child("beside", number, file, [])
    made = _read(file)
    if made is not None:
        outcome.median_ms |= made.median_ms
        outcome.resident_ms |= made.resident_ms
        outcome.notes += made.notes
    if failed:
        outcome.notes.append(f"beside PyTorch: {failed}")
    run.report(_line(case, outcome))


def _read(file: Path) -> Outcome | None:
    return msgspec.json.decode(file.read_bytes(), type=Outcome) if file.exists() else None


def _kind(folder: Path, plan: Plan) -> str:
    """The kind of device of the first case's artifact that can be read; a test of the proof itself may have another."""
    for case in plan.cases:
        with suppress(ArtifactError):
            return Artifact.open(folder / case.artifact).config.device_kind
    return "cuda"


def _device(folder: Path, plan: Plan) -> str:
    """The GPU, its driver and its clocks.

    It is opened in a process of its own: one that holds a context would take memory from the cases.

    Raises:
        IncompatibleDevice: it cannot be opened.
    """
    if _kind(folder, plan) != "cuda":
        return "this processor"
    done = subprocess.run(
        [sys.executable, "-c", _OPEN], capture_output=True, text=True, timeout=_LIMITS_S["check"], check=False
    )
    if done.returncode:
        why = done.stderr.strip().splitlines() or ["the GPU cannot be opened"]
        raise IncompatibleDevice("\n".join(why[-2:]))  # what is missing, and the way out
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return done.stdout.strip()
    query = [tool, "--query-gpu=driver_version,clocks.sm,power.limit", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except subprocess.TimeoutExpired:
        told = "nvidia-smi does not answer"
    return f"{done.stdout.strip()}; {told}"


def _line(case: Case, made: Outcome) -> str:
    if made.failed:
        return f"{case.label}: failed: {made.failed}"
    times = ", ".join(f"{side} {ms:.3f} ms" for side, ms in made.median_ms.items())
    verdict = "right" if made.right else "WRONG"
    told = f"{case.label}: {verdict} (error {made.error:.1e}); {times}"
    return "; ".join([told, *made.notes])
