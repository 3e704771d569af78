"""Run an artifact in a process of its own, as a device would: with the runtime alone.

Started as `python -m edgec.compiler.verify.child REQUEST`, REQUEST being a JSON file (see
`edgec.compiler.verify.run`). TVM's compiler cannot be imported here, which proves that a device does not
need it; and code that crashes takes only this process with it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BESIDE_BYTES = 256 << 20  # of a model, for which two sessions of ONNX Runtime are open at once


def main(request_path: str) -> None:
    """Carry out a request and write its results beside it."""
    sys.modules["tvm"] = None  # type: ignore[assignment]  # importing it from here on is an error
    import edgec.runtime as rt
    from edgec.compiler.verify.timing import time_in_blocks

    request: dict[str, Any] = json.loads(Path(request_path).read_text(encoding="utf-8"))
    inputs, steps = _inputs(request, 0), _steps(request)
    reference = _reference(request, inputs)
    _wait()  # until now the artifact was written
    with rt.load(request["artifact"], threads=request["threads"]) as model:
        run = (lambda: _sequence(model, steps, request["states"])) if steps else (lambda: model.run(inputs))
        result: dict[str, Any] = {"probes": _run_all(model, run, request), "golden": _golden(model)}
        sides: dict[str, Any] = {"edgec": run}
        if steps:
            session = model.session()
            sides["edgec"] = lambda: session.run(steps[0])
        if reference is not None:
            sides["onnxruntime"] = lambda: reference.run(None, inputs)
        profiling = None
        if reference is not None and request["profile"]:
            profiling = _profiling(request, inputs)
        _wait()  # until now the caller computed the reference; measurements must run alone
        if request["measure"]:
            measured = time_in_blocks(
                sides, runs=request["runs"], limit_s=request["limit_s"], warmup=1, rounds=request["rounds"]
            )
            result["latency"] = {name: latency.to_json() for name, latency in measured.items()}
        if request["profile"]:
            layers = model.profile(inputs, repeats=request["profile"])
            result["layers"] = [dataclasses.asdict(layer) for layer in layers]
            if reference is not None:
                del sides, reference
                result["reference_layers"] = _reference_layers(request, inputs, profiling)
    Path(request["result"]).write_text(json.dumps(result), encoding="utf-8")


def _inputs(request: dict[str, Any], number: int) -> dict[str, Any]:
    with np.load(request["inputs"]) as file:
        return {name: file[f"p{number}i{k}"] for k, name in enumerate(request["input_names"])}


def _steps(request: dict[str, Any]) -> list[dict[str, Any]]:
    with np.load(request["inputs"]) as file:
        named = list(enumerate(request["input_names"]))
        return [
            {name: file[f"s{n}.{k}"] for k, name in named if f"s{n}.{k}" in file}
            for n in range(request["steps"])
        ]


def _sequence(model: Any, steps: list[dict[str, Any]], states: dict[str, str]) -> dict[str, Any]:  # noqa: ANN401
    """The outputs of runs in one session, each with a first axis of runs; of states the last value."""
    session = model.session()
    found = [session.run(step) for step in steps]
    left = session.states()
    return {name: np.stack([one[name] for one in found]) for name in found[0]} | {
        output: left[name] for output, name in states.items()
    }


def _run_all(
    model: Any,  # noqa: ANN401
    first: Callable[[], dict[str, Any]],
    request: dict[str, Any],
) -> list[str]:
    """Run the model on all inputs, as far as there is time, and store its outputs.

    Args:
        first: runs it on the main inputs.

    Returns:
        for each set of inputs but the first: what went wrong, or an empty text.
    """
    from edgec.runtime.errors import EdgecError

    at, told, arrays, begin = Path(request["at"]), list[str](), dict[str, Any](), time.monotonic()
    for number in range(request["probes"]):
        at.write_text(str(number), encoding="utf-8")  # for whoever looks after a crash
        if number and time.monotonic() - begin > request["probes_s"]:
            break
        try:
            outputs = model.run(_inputs(request, number)) if number else first()
        except (EdgecError, RuntimeError, ValueError) as error:
            if not number:
                raise
            told.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            continue
        names = enumerate(request["output_names"])
        arrays |= {f"p{number}o{k}": np.array(outputs[name]) for k, name in names if name in outputs}
        told += [""] if number else []
    np.savez(request["outputs"], **arrays)
    at.unlink()
    return told


def _golden(model: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """The model's outputs for the golden input; None if the model rejects that input."""
    from edgec.runtime.artifact import golden
    from edgec.runtime.errors import EdgecError

    try:
        return golden.describe(model.run(golden.golden_inputs(model.inputs)))
    except (EdgecError, RuntimeError, ValueError):
        # Kernels check indices at run time, and a ramp may be out of their range: such a model has no golden outputs.
        return None


def _wait() -> None:
    if not sys.stdin.readline():
        sys.exit("the process that started this one has ended")


def _profiling(request: dict[str, Any], inputs: dict[str, Any]) -> Any:  # noqa: ANN401
    """The session for ONNX Runtime's profile, made before anything is timed, if there is memory for two."""
    small = Path(request["reference"]).stat().st_size <= BESIDE_BYTES
    return _reference(request, inputs, profile=True) if small else None


def _reference_layers(
    request: dict[str, Any],
    inputs: dict[str, Any],
    session: Any,  # noqa: ANN401
) -> list[dict[str, Any]]:
    """ONNX Runtime's profile of some runs."""
    from edgec.compiler.verify.reference_layers import profiled

    session = session or _reference(request, inputs, profile=True)
    return profiled(session, lambda: session.run(None, inputs), request["profile"])


def _reference(request: dict[str, Any], inputs: dict[str, Any], *, profile: bool = False) -> Any:  # noqa: ANN401
    """The session of ONNX Runtime that the model is benchmarked against, if one is requested and it can run it."""
    if not request["reference"]:
        return None
    import onnxruntime as ort

    options = ort.SessionOptions()
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = request["reference"]
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            request["reference"],
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["QDQPropagationTransformer"],  # see `onnx.ort_session`
        )
        session.run(None, inputs)
    except Exception:  # noqa: BLE001 - its errors have no common base, and who compares outputs reports them
        return None
    return session


if __name__ == "__main__":
    main(sys.argv[1])
