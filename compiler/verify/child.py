"""Run an artifact in a process of its own, as a device would: with the runtime alone.

Started as `python -m edgec.compiler.verify.child REQUEST`, REQUEST being a JSON file (see
`edgec.compiler.verify.run`). TVM's compiler cannot be imported here, which proves that a device does not
need it; and code that crashes takes only this process with it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(request_path: str) -> None:
    """Carry out a request and write its results beside it."""
    sys.modules["tvm"] = None  # type: ignore[assignment]  # importing it from here on is an error
    import edgec.runtime as rt
    from edgec.compiler.verify.timing import interleave

    request: dict[str, Any] = json.loads(Path(request_path).read_text(encoding="utf-8"))
    with np.load(request["inputs"]) as file:
        named = list(enumerate(request["input_names"]))
        inputs = {name: file[f"i{k}"] for k, name in named}
        steps = [
            {name: file[f"s{n}.{k}"] for k, name in named if f"s{n}.{k}" in file}
            for n in range(request["steps"])
        ]
    reference = _reference(request)
    _wait()  # until now the artifact was written
    with rt.load(request["artifact"], threads=request["threads"]) as model:
        outputs = _sequence(model, steps, request["states"]) if steps else model.run(inputs)
        arrays = {
            f"o{k}": np.array(outputs[name])
            for k, name in enumerate(request["output_names"])
            if name in outputs
        }
        np.savez(request["outputs"], **arrays)  # type: ignore[arg-type]
        result: dict[str, Any] = {"golden": _golden(model)}
        sides: dict[str, Any] = {"edgec": lambda: model.run(inputs)}
        if steps:
            session = model.session()
            sides["edgec"] = lambda: session.run(steps[0])
        if reference is not None:
            sides["onnxruntime"] = lambda: reference.run(None, inputs)
        _wait()  # until now the caller computed the reference; measurements must run alone
        if request["measure"]:
            measured = interleave(sides, runs=request["runs"], limit_s=request["limit_s"], warmup=1)
            result["latency"] = {name: latency.to_json() for name, latency in measured.items()}
        if request["profile"]:
            layers = model.profile(inputs, repeats=request["profile"])
            result["layers"] = [dataclasses.asdict(layer) for layer in layers]
        del outputs
    Path(request["result"]).write_text(json.dumps(result), encoding="utf-8")


def _sequence(model: Any, steps: list[dict[str, Any]], states: dict[str, str]) -> dict[str, Any]:  # noqa: ANN401
    """The outputs of runs in one session, each with a first axis of runs; of states the last value."""
    session = model.session()
    found = [session.run(step) for step in steps]
    left = session.states()
    return {name: np.stack([one[name] for one in found]) for name in found[0]} | {
        output: left[name] for output, name in states.items()
    }


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


def _reference(request: dict[str, Any]) -> Any:  # noqa: ANN401
    """The session of ONNX Runtime that the model is benchmarked against, if one is requested."""
    if not request["reference"]:
        return None
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 4
    return ort.InferenceSession(request["reference"], options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main(sys.argv[1])
