"""Try to compile and verify a model in a process that may crash, and say how it failed.

`python -m edgec.compiler.verify.trial` reads requests, one in a line of JSON, and answers each with a line. It imports
the compiler once and forks for every request, so that a try of a small model takes little more than its compile.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.e+-]*|/\S+|\[[^\]]*\]")
READY = "ready"


@dataclass(frozen=True)
class Failure:
    """How a model fails.

    Attributes:
        kind: the class of the error, or the signal.
        message: what a user reads.
        signature: what stays the same when the model gets smaller.
    """

    kind: str
    message: str
    signature: str


@dataclass(frozen=True)
class Request:
    """A model to try.

    Attributes:
        model: its file.
        target: the hardware.
        inputs: an `.npz` file; empty generates them.
        shapes: of its inputs, where the file leaves them open.
        budget: the error budget.
        fallback: whether ONNX Runtime may run operators.
        limit_s: seconds after which the try counts as hanging.
        values: instead of compiling, write the model as ONNX and all its values into this folder.
    """

    model: str
    target: str
    inputs: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    budget: float = 1e-3
    fallback: bool = False
    limit_s: float = 120.0
    values: str = ""


class Trials:
    """The process that tries models; a context."""

    def __enter__(self) -> Trials:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "edgec.compiler.verify.trial"]
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, request: Request) -> Failure | None:
        """How the model fails; None if it compiles and matches."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return None if answer is None else Failure(**answer)

    def _answer(self) -> Any:  # noqa: ANN401 - as JSON has it
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that tries models has ended")
        return json.loads(line)


def serve() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import edgec.compiler.lower
    import edgec.compiler.pipeline
    import edgec.compiler.verify.run  # noqa: F401 - loaded before the forks

    answers.write(json.dumps(READY) + "\n")
    answers.flush()
    for line in sys.stdin:
        given = json.loads(line)
        given["shapes"] = {name: tuple(shape) for name, shape in given["shapes"].items()}
        failure = forked(lambda r=Request(**given): attempt(r), given["limit_s"])  # type: ignore[misc]
        answers.write(json.dumps(failure and asdict(failure)) + "\n")
        answers.flush()


def forked(work: Callable[[], Failure | None], limit_s: float) -> Failure | None:
    """The result of `work` in a forked process; a crash or a hang is a failure like others."""
    with tempfile.TemporaryFile() as result:
        child = os.fork()
        if child == 0:
            _work(work, result.fileno(), limit_s)
        status = os.waitpid(child, 0)[1]
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it started and left behind
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            if name == "SIGALRM":
                return Failure("hang", f"is not done after {limit_s:g} s", "hang")
            return Failure("crash", f"the compiler crashed ({name})", f"crash {name}")
        result.seek(0)
        answer = json.loads(result.read())
    return None if answer is None else Failure(**answer)


def _work(work: Callable[[], Failure | None], result: int, limit_s: float) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    code = 1
    try:
        failure = work()
        os.write(result, json.dumps(failure and asdict(failure)).encode())
        code = 0
    finally:
        os._exit(code)


def attempt(request: Request) -> Failure | None:
    """Compile and verify a model; how it fails, or None."""
    from edgec.compiler.errors import UnsupportedModel
    from edgec.targets import EdgecError

    try:
        _values(request) if request.values else _compile(request)
    except UnsupportedModel as error:
        first = error.nodes[0]
        return Failure(
            "UnsupportedModel", str(error), f"UnsupportedModel {first.op_type} {_plain(first.reason)}"
        )
    except EdgecError as error:
        kind = type(error).__name__
        said = _said(kind, str(error).replace(request.model, ""))  # smaller models have other names
        return Failure(kind, str(error), f"{kind} {said}")
    except Exception as error:  # noqa: BLE001 - a traceback is a failure to be reduced like any other
        told = traceback.format_exception_only(error)[-1].strip()
        cause = error.__traceback__
        while cause is not None and cause.tb_next is not None:
            cause = cause.tb_next
        where = f"{cause.tb_frame.f_code.co_filename}:{cause.tb_lineno}" if cause is not None else ""
        return Failure(type(error).__name__, f"{told} ({where})", f"{type(error).__name__} {where}")
    return None


def _said(kind: str, message: str) -> str:
    if kind == "VerificationFailed":
        crashed = re.search(r"crashed when it was run \((\w+)\)", message)
        return f"crashed {crashed[1]}" if crashed else "NaN" if "is NaN" in message else "differs"
    return _plain(message.splitlines()[0])


def _plain(message: str) -> str:
    """A message without names, numbers and paths."""
    return re.sub(r"\s+", " ", QUOTED.sub("", message))[:80]


def _compile(request: Request) -> None:
    from edgec.compiler import pack
    from edgec.compiler.frontends import load_source, to_relax
    from edgec.compiler.lower import lower
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.progress import Silent
    from edgec.compiler.verify.inputs import read_inputs
    from edgec.compiler.verify.run import verify, verify_on_generated
    from edgec.targets import detect, load_target

    target = detect() if request.target == "host" else load_target(request.target)
    options = CompileOptions(
        tune="none",
        threads=1,
        error_budget=request.budget,
        fallback=request.fallback,
        input_shapes=request.shapes,
        states=(),
    )
    imported = to_relax(load_source(Path(request.model), options), fallback_allowed=options.fallback)
    lowered = lower(imported.mod, target, options, Silent(), parts=imported.parts)
    source, target = imported.source, target.without(lowered.unused)
    config = pack.make_config(
        source, lowered, target, options, name="trial", version="1", card=None, segments=imported.segments
    )
    with tempfile.TemporaryDirectory(prefix="edgec-trial-") as folder:
        artifact = Path(folder) / "trial.edge"
        pack.write(artifact, config, lowered, segments=imported.segments)
        how: dict[str, Any] = {"threads": 1, "budget": request.budget}
        if request.inputs:
            inputs = read_inputs(Path(request.inputs), source)
            verify(artifact, source, target, inputs, **how).require()
        else:
            verify_on_generated(artifact, source, target, **how)[0].require()


def _values(request: Request) -> None:
    """Write `model.onnx`, the model as it was read with static shapes, and `values.npz`, as far as it runs."""
    import numpy as np
    from onnx import ModelProto, ValueInfoProto

    from edgec.compiler.frontends import load_source
    from edgec.compiler.frontends.onnx.ort_session import open_session
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.verify.inputs import make_inputs, read_inputs

    folder, options = Path(request.values), CompileOptions(input_shapes=request.shapes, states=())
    source = load_source(Path(request.model), options)
    (folder / "model.onnx").write_bytes(source.reference.SerializeToString())
    inputs = read_inputs(Path(request.inputs), source) if request.inputs else make_inputs(source)
    opened = ModelProto()
    opened.CopyFrom(source.reference)
    shown = {value.name for value in opened.graph.output}
    made = [name for node in opened.graph.node for name in node.output if name and name not in shown]
    opened.graph.output.extend(ValueInfoProto(name=name) for name in made)
    values = {name: np.asarray(array) for name, array in inputs.items()}
    with suppress(Exception):  # a model that it does not run is cut without values
        session = open_session(opened.SerializeToString(), threads=0)
        names = [value.name for value in session.get_outputs()]
        found = dict(zip(names, session.run(names, inputs), strict=True))
        values |= {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    (folder / "names.json").write_text(json.dumps(list(values)), encoding="utf-8")
    np.savez(folder / "values.npz", **{str(k): array for k, array in enumerate(values.values())})  # type: ignore[arg-type]


if __name__ == "__main__":
    serve()
