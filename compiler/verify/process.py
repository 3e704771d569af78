"""The process that runs an artifact as a device would."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgec.runtime as rt
from edgec.compiler.backends.interface import Runner
from edgec.compiler.errors import CompilerError, VerificationFailed
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.inputs import Arrays

CHILD_LIMIT_S = 900
PROBES_S = 4.0  # for the comparison on further inputs
BEGIN = b"begin\n"  # the process waits for this line before it loads the artifact
MEASURE = b"measure\n"  # and before it measures


class ArtifactCrashed(VerificationFailed):
    """A signal ended the process of a compiled model; `probe` is the number of the inputs it was running
    on."""

    def __init__(self, how: signal.Signals, probe: int) -> None:
        self.probe, self.how = probe, how
        super().__init__(f"the compiled model crashed when it was run ({how.name})")


@dataclass(frozen=True)
class Measure:
    """How much to measure beside the comparison: timed runs and rounds, their limit, profiled runs."""

    runs: int = 0
    limit_s: float = 3.0
    rounds: int = 1
    profile: int = 0
    beside_reference: bool = True


@dataclass(frozen=True)
class Child:
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

    def finish(self) -> tuple[dict[int, Arrays], dict[str, Any]]:
        """Let the process measure while nothing else runs.

        Returns:
            the outputs by the number of the inputs, where the artifact ran on them, and what was measured.

        Raises:
            ArtifactCrashed: the process was ended by a signal.
            VerificationFailed: it takes too long.
            CompilerError: it failed.
        """
        try:
            _, told = self.process.communicate(MEASURE, timeout=CHILD_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise VerificationFailed(f"the compiled model did not finish within {CHILD_LIMIT_S} s") from error
        code = self.process.returncode
        if code < 0:
            raise ArtifactCrashed(signal.Signals(-code), self._at())
        if code:
            lines = [line for line in told.decode(errors="replace").splitlines() if line.strip()]
            why = lines[-1] if lines else "no message"
            why = re.sub(r"^edgec\.[\w.]+: ", "", why)  # the error's class
            raise CompilerError(f"running the artifact failed: {why}")
        with np.load(self.folder / "outputs.npz") as file:
            ran = {int(key[1:].partition("o")[0]) for key in file.files}
            outputs = {
                number: {
                    name: file[f"p{number}o{k}"]
                    for k, name in enumerate(self.outputs)
                    if f"p{number}o{k}" in file
                }
                for number in ran
            }
        return outputs, json.loads((self.folder / "result.json").read_text(encoding="utf-8"))

    def by_step(self, outputs: Arrays) -> list[Arrays]:
        """The outputs of each run: those of states, of which there is one value, belong to the last."""
        runs = [
            {name: array[n] for name, array in outputs.items() if name not in self.last}
            for n in range(self.steps)
        ]
        runs[-1] |= {name: outputs[name] for name in self.last if name in outputs}
        return runs

    def _at(self) -> int:
        """The number of the inputs that the artifact was running on."""
        try:
            return int((self.folder / "at").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0


def run_child(
    artifact: Path,
    source: SourceModel,
    inputs: Arrays,
    threads: int,
    measure: Measure,
    runner: Runner,
) -> tuple[Arrays, dict[str, Any]]:
    """The outputs of an artifact run in a process of its own, and what that process measured."""
    with started(artifact, source, [inputs], threads, measure, runner) as child:
        child.begin()
        outputs, result = child.finish()
        return outputs[0], result


@contextmanager
def started(
    artifact: Path,
    source: SourceModel,
    inputs: Sequence[Arrays],
    threads: int,
    measure: Measure,
    runner: Runner,
    steps: Sequence[Arrays] = (),
) -> Iterator[Child]:
    """Start a process for an artifact, which need not exist before `Child.begin`.

    It runs the artifact on each of `inputs` and measures on the first. With `steps`, it runs them in one session, and
    `inputs` are those of the first with the states.
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
                yield Child(process, folder, [port.name for port in source.outputs], len(steps), last)
            finally:
                process.kill()  # does nothing to one that has ended


def _request(
    folder: Path,
    artifact: Path,
    source: SourceModel,
    inputs: Sequence[Arrays],
    threads: int,
    measure: Measure,
    runner: Runner,
    steps: Sequence[Arrays],
) -> Path:
    """Write the request that `edgec.compiler.verify.child` carries out."""
    names = [port.name for port in source.inputs]
    arrays = {f"p{n}i{k}": one[name] for n, one in enumerate(inputs) for k, name in enumerate(names)}
    for n, step in enumerate(steps):
        arrays |= {f"s{n}.{k}": step[name] for k, name in enumerate(names) if name in step}
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
    request: dict[str, Any] = {
        "artifact": str(artifact),
        "threads": threads,
        "inputs": str(folder / "inputs.npz"),
        "input_names": names,
        "outputs": str(folder / "outputs.npz"),
        "steps": len(steps),
        "states": {state.output: state.input for state in source.states},
        "probes": len(inputs),
        "probes_s": PROBES_S,
        "at": str(folder / "at"),
        "output_names": [port.name for port in source.outputs],
        "result": str(folder / "result.json"),
        "measure": measure.runs > 0 and runner.is_hardware,
        "runs": measure.runs,
        "limit_s": measure.limit_s,
        "rounds": measure.rounds,
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
