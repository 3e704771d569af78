"""Verify an artifact: run it in a clean process and compare every output with the reference's."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import edgec.runtime as rt
from edgec.compiler.backends.interface import Runner
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.errors import CompilerError, VerificationFailed
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.compare import QUANTISED_BUDGET, OutputError, compare
from edgec.compiler.verify.inputs import Arrays, generated
from edgec.compiler.verify.reference import Reference, is_quantised
from edgec.compiler.verify.sequences import compare_steps, initial_inputs, reference_steps, steps_of
from edgec.targets import Target

CHILD_LIMIT_S = 900
BEGIN = b"begin\n"  # the process waits for this line before it loads the artifact
MEASURE = b"measure\n"  # and before it measures


@dataclass(frozen=True)
class Verification:
    """What verifying found.

    Attributes:
        errors: one per output.
        budget: largest relative error that was accepted.
        where: `this machine`, or the emulator.
        latency: by side (`edgec`, `onnxruntime`), see `edgec.compiler.verify.timing.Latency`.
        layers: time per kernel, from the runtime's profile.
        golden: outputs for the input that devices check with, see `edgec.runtime.artifact.golden`.
        steps: runs one after the other in which a model with states was compared; 0 for one without.
    """

    errors: tuple[OutputError, ...]
    budget: float
    where: str
    reference: str
    threads: int
    latency: dict[str, dict[str, float]] = field(default_factory=dict)
    layers: tuple[dict[str, Any], ...] = ()
    golden: dict[str, Any] | None = None
    steps: int = 0

    @property
    def ok(self) -> bool:
        """Whether every output is within the budget, and has values to compare."""
        return all(error.ok and not error.undefined for error in self.errors)

    @property
    def undefined(self) -> bool:
        """Whether an output is NaN throughout, in the reference as well, so that nothing is shown about it."""
        return any(error.undefined for error in self.errors)

    def require(self) -> None:
        """Raise if an output exceeds the budget.

        Raises:
            VerificationFailed: naming the worst outputs, or those without a value to compare.
        """
        bad = [error for error in self.errors if not error.ok]
        if bad:
            shown = "; ".join(f"output {error.name!r}: {error.verdict}" for error in bad[:3])
            raise VerificationFailed(
                f"the compiled model does not match {self.reference} ({shown}; accepted {self.budget:g}), so no "
                "artifact was written. --no-verify writes one that is marked as unverified"
            )
        hollow = [repr(error.name) for error in self.errors if error.undefined]
        if hollow:
            raise VerificationFailed(
                f"every value of the output {', '.join(hollow[:3])} is NaN on the inputs to verify with, in "
                f"{self.reference} as well, which proves nothing, so no artifact was written. Give inputs of the "
                "model's real range with --verify-with FILE.npz; --no-verify writes one that says it is unproven"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self) | {"ok": self.ok}


@dataclass(frozen=True)
class Measure:
    """How much to measure beside the comparison: timed runs and their limit, profiled runs."""

    runs: int = 0
    limit_s: float = 3.0
    profile: int = 0
    beside_reference: bool = True


def verify(
    artifact: Path,
    source: SourceModel,
    target: Target,
    inputs: Arrays,
    *,
    threads: int,
    budget: float,
    measure: Measure | None = None,
    write: Callable[[], object] | None = None,
) -> Verification:
    """Run `artifact` on `inputs` in a clean process; compare it with its own framework or ONNX Runtime.

    A model with states is run several times in one session, from its initial state, whatever `inputs` holds for states.

    Args:
        inputs: for a sequence of one's own, arrays may have a first axis more, of as many runs.
        write: writes the artifact, if it does not exist yet: the process starts meanwhile.

    Raises:
        ToolMissing: its target can run neither on this machine nor in an emulator here.
        VerificationFailed: the artifact's process crashed or refused.
        ModelError: ONNX Runtime cannot run the source model.
    """
    runner = backend_of(target).runner()
    quantised = is_quantised(source.reference)
    if quantised:
        budget = max(budget, QUANTISED_BUDGET)
    steps: list[Arrays] = []
    if source.states:
        steps = steps_of(source, inputs)
        inputs = steps[0] | initial_inputs(source)
    with started(artifact, source, inputs, threads, measure or Measure(), runner, steps) as child:
        if write is not None:
            write()
        child.begin()
        reference = source.original or Reference(source, threads)
        expected = reference_steps(reference, source, steps) if steps else [reference.run(inputs)]
        spread = source.original.spread(inputs) if source.original and quantised else {}
        got, result = child.finish()
    if steps:
        errors = compare_steps(source, expected, child.by_step(got), budget, spread, stored=quantised)
    else:
        errors = tuple(
            compare(
                p.name,
                expected[0][p.name],
                got[p.name],
                budget,
                spread=spread.get(p.name, 0.0),
                stored=quantised,
            )
            for p in source.outputs
        )
    return Verification(
        errors=errors,
        budget=budget,
        where=runner.description,
        reference=reference.description,
        threads=threads,
        latency=result.get("latency", {}),
        layers=tuple(result.get("layers", [])),
        golden=result.get("golden"),
        steps=len(steps),
    )


def verify_on_generated(
    artifact: Path,
    source: SourceModel,
    target: Target,
    *,
    threads: int,
    budget: float,
    measure: Measure | None = None,
    write: Callable[[], object] | None = None,
) -> tuple[Verification, str]:
    """Verify as `verify` on generated inputs: on those of another range if an output is NaN throughout on the first.

    Returns:
        the result, and which inputs it is of.
    """
    tries = generated(source)
    described, inputs = next(tries)
    proof = verify(
        artifact, source, target, inputs, threads=threads, budget=budget, measure=measure, write=write
    )
    while proof.undefined and (following := next(tries, None)):
        described, inputs = following
        proof = verify(artifact, source, target, inputs, threads=threads, budget=budget, measure=measure)
    return proof, described


@dataclass(frozen=True)
class _Child:
    """A process that runs an artifact in three steps, so that its caller can work meanwhile."""

    process: subprocess.Popen[bytes]
    folder: Path
    outputs: list[str]
    steps: int = 0
    last: frozenset[str] = frozenset()
    """Outputs of which there is the value of the last run only."""

    def begin(self) -> None:
        """Let the process load and run the artifact, which is now complete."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended: finish() reports why
                self.process.stdin.write(BEGIN)

    def finish(self) -> tuple[Arrays, dict[str, Any]]:
        """Let the process measure while nothing else runs, and return the results of `run_child`."""
        try:
            _, told = self.process.communicate(MEASURE, timeout=CHILD_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise VerificationFailed(f"the compiled model did not finish within {CHILD_LIMIT_S} s") from error
        code = self.process.returncode
        if code < 0:
            raise VerificationFailed(
                f"the compiled model crashed when it was run ({signal.Signals(-code).name})"
            )
        if code:
            lines = [line for line in told.decode(errors="replace").splitlines() if line.strip()]
            raise CompilerError(f"running the artifact failed: {lines[-1] if lines else 'no message'}")
        with np.load(self.folder / "outputs.npz") as file:
            outputs = {name: file[f"o{k}"] for k, name in enumerate(self.outputs) if f"o{k}" in file}
        return outputs, json.loads((self.folder / "result.json").read_text(encoding="utf-8"))

    def by_step(self, outputs: Arrays) -> list[Arrays]:
        """The outputs of each run: those of states, of which there is one value, belong to the last."""
        runs = [
            {name: array[n] for name, array in outputs.items() if name not in self.last}
            for n in range(self.steps)
        ]
        runs[-1] |= {name: outputs[name] for name in self.last if name in outputs}
        return runs


def run_child(
    artifact: Path,
    source: SourceModel,
    inputs: Arrays,
    threads: int,
    measure: Measure,
    runner: Runner,
) -> tuple[Arrays, dict[str, Any]]:
    """The outputs of an artifact run in a process of its own, and what that process measured."""
    with started(artifact, source, inputs, threads, measure, runner) as child:
        child.begin()
        return child.finish()


@contextmanager
def started(
    artifact: Path,
    source: SourceModel,
    inputs: Arrays,
    threads: int,
    measure: Measure,
    runner: Runner,
    steps: Sequence[Arrays] = (),
) -> Iterator[_Child]:
    """Start a process for an artifact, which need not exist before `_Child.begin`.

    With `steps`, it runs them in one session, and `inputs` are those of the first with the states.

    The process is killed if the caller leaves without waiting for it.
    """
    last = frozenset(state.output for state in source.states) if steps else frozenset[str]()
    with tempfile.TemporaryDirectory(prefix="edgec-verify-") as scratch:
        folder = Path(scratch)
        request = _request(folder, artifact, source, inputs, threads, measure, runner, steps)
        # the emulator's Python knows edgec under this name, however it is installed here
        (folder / "edgec").symlink_to(Path(rt.__file__).parent.parent, target_is_directory=True)
        arguments = ["-m", "edgec.compiler.verify.child", str(request)]
        command, environment = runner.command(arguments, folder)
        pipe = subprocess.PIPE
        # unbuffered: data that a dead process did not read would raise at each flush
        with subprocess.Popen(
            command, bufsize=0, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
        ) as process:
            try:
                yield _Child(process, folder, [port.name for port in source.outputs], len(steps), last)
            finally:
                process.kill()  # does nothing to one that has ended


def _request(
    folder: Path,
    artifact: Path,
    source: SourceModel,
    inputs: Arrays,
    threads: int,
    measure: Measure,
    runner: Runner,
    steps: Sequence[Arrays],
) -> Path:
    """Write the request that `edgec.compiler.verify.child` carries out."""
    names = [port.name for port in source.inputs]
    arrays = {f"i{k}": inputs[name] for k, name in enumerate(names)}
    for n, step in enumerate(steps):
        arrays |= {f"s{n}.{k}": step[name] for k, name in enumerate(names) if name in step}
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
    request: dict[str, Any] = {
        "artifact": str(artifact),
        "threads": threads,
        "inputs": str(folder / "inputs.npz"),
        "input_names": names,
        "steps": len(steps),
        "states": {state.output: state.input for state in source.states},
        "outputs": str(folder / "outputs.npz"),
        "output_names": [port.name for port in source.outputs],
        "result": str(folder / "result.json"),
        "measure": measure.runs > 0 and runner.is_hardware,
        "runs": measure.runs,
        "limit_s": measure.limit_s,
        "profile": measure.profile if runner.is_hardware else 0,
        "reference": None,
    }
    by_onnxruntime = not isinstance(source.original, Standard)
    if request["measure"] and measure.beside_reference and by_onnxruntime:
        request["reference"] = str(folder / "reference.onnx")
        (folder / "reference.onnx").write_bytes(source.reference.SerializeToString())
    path = folder / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    return path
