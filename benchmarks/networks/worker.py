"""Measurements of one network, each in a process of its own: `python -m edgec.benchmarks.networks.worker JOB`.

A job is a JSON object; the answer is one JSON line on standard output. `latency` times all sides in blocks,
`footprint` loads one side alone: time to the first result, and resident memory; `layers` profiles the artifact.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
PROFILED, FURTHEST = 15, 5  # runs; layers that are kept


def main() -> None:
    """Run the job in the command line."""
    job = json.loads(sys.argv[1])
    if job.get("restricted"):
        from edgec.benchmarks.restricted.wheels import use

        use(Path(job["restricted"]))
    done = {"latency": latency, "footprint": footprint, "layers": layers}[job["kind"]](job)
    sys.stdout.write("\n" + json.dumps(done) + "\n")
    sys.stdout.flush()


def latency(job: dict[str, Any]) -> dict[str, Any]:
    """Latency of every side in milliseconds, and the largest error against ONNX Runtime."""
    from edgec.compiler.verify.timing import time_in_blocks

    feeds = _feeds(Path(job["inputs"]))
    named = job.get("reference", "onnxruntime")
    sides, first = _running(job, feeds, needed=("edgec", named))
    measured = time_in_blocks(sides, runs=job["runs"], limit_s=job["limit_s"], warmup=3)
    errors = [
        float(
            np.max(np.abs(np.asarray(made, np.float64) - wanted), initial=0)
            / max(1e-6, np.max(np.abs(wanted)))
        )
        for made, wanted in zip(first["edgec"], first[named], strict=True)
        if np.asarray(wanted).size
    ]
    return {
        "latency": {n: t.to_json() for n, t in measured.items()},
        "error": max(errors, default=0.0),
        "sampled": _sampled(job, sides),
    }


def _sampled(job: dict[str, Any], sides: dict[str, Callable[[], list[Any]]]) -> dict[str, tuple[int, int]]:
    """Whether restricted runtimes keep to it: interruptions while they ran, and those at AVX-512 instructions."""
    if not job.get("restricted"):
        return {}
    from edgec.benchmarks.restricted.wheels import sampled

    return {side: sampled(Path(job["restricted"]), call) for side, call in sides.items()}


def _running(
    job: dict[str, Any], feeds: Arrays, needed: tuple[str, ...]
) -> tuple[dict[str, Callable[[], list[Any]]], dict[str, list[Any]]]:
    """The sides that can run the model, and their first results; one that is not needed is left out if it cannot."""
    found, first = dict[str, Callable[[], list[Any]]](), dict[str, list[Any]]()
    for name in job["sides"]:
        try:
            call = _SIDES[name](job, feeds)
            first[name] = [np.array(one) for one in call()]  # a runtime may use the memory again
            found[name] = call
        except Exception:  # each runtime has errors of its own, and only edgec has to support every model
            if name in needed:
                raise
    return found, first


def footprint(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds from the file to the first result, and resident bytes after it beyond those before."""
    feeds = _feeds(Path(job["inputs"]))
    before = _resident()
    start = time.perf_counter()
    call = _SIDES[job["side"]](job, feeds)
    call()
    elapsed = time.perf_counter() - start
    # `call` still holds the model, so this is the resident memory of a process that runs it
    return {"first_ms": elapsed * 1e3, "resident": _resident(), "resident_before": before}


def layers(job: dict[str, Any]) -> dict[str, Any]:
    """What all layers would take at the machine's limits, and the layers that lose most beside them."""
    from dataclasses import asdict

    import edgec.runtime as rt
    from edgec.compiler.report.certificate import layers_of
    from edgec.targets.machine_rates import MachineRates

    with rt.load(job["artifact"], threads=job["threads"]) as model:
        profiled = [asdict(layer) for layer in model.profile(_feeds(Path(job["inputs"])), repeats=PROFILED)]
    made = layers_of(profiled, MachineRates.from_json(job["rates"]), job["threads"])
    lost = sorted(made, key=lambda one: (one.floor_ms or 0.0) - one.ms)
    floor = sum(one.floor_ms or 0.0 for one in made)
    return {"layers": [asdict(one) for one in lost[:FURTHEST]], "floor_ms": round(floor, 5)}


def _feeds(path: Path) -> Arrays:
    with np.load(path) as content:
        return {name: content[name] for name in content.files}


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not report resident memory")


def _edgec(job: dict[str, Any], feeds: Arrays) -> Callable[[], list[Any]]:
    import edgec.runtime as rt

    model = rt.load(job["artifact"], threads=job["threads"])
    if job.get("reference") != "litert" or not model.config.states:
        return lambda: list(model.run(feeds).values())
    session, own = model.session(), _visible(job, feeds)  # LiteRT keeps the states of a model, too
    return lambda: list(session.run(own).values())


def _visible(job: dict[str, Any], feeds: Arrays) -> Arrays:
    """The inputs that are no states."""
    import edgec.runtime as rt

    names = [spec.name for spec in rt.Artifact.open(job["artifact"]).config.visible().inputs]
    return {name: feeds[name] for name in names}


def _onnxruntime(job: dict[str, Any], feeds: Arrays) -> Callable[[], list[Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    return lambda: list(session.run(None, feeds))


def _litert(job: dict[str, Any], feeds: Arrays) -> Callable[[], list[Any]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=job["source"], num_threads=job["threads"])
    interpreter.allocate_tensors()
    places = [detail["index"] for detail in interpreter.get_input_details()]
    results = [detail["index"] for detail in interpreter.get_output_details()]
    feeds = _visible(job, feeds)

    def call() -> list[Any]:
        for place, array in zip(places, feeds.values(), strict=True):
            interpreter.set_tensor(place, array)
        interpreter.invoke()
        return [interpreter.get_tensor(place) for place in results]

    return call


def _openvino(job: dict[str, Any], feeds: Arrays) -> Callable[[], list[Any]]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": job["threads"], "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    own = job.get("source", "").endswith(".tflite")  # it has a front end for these
    model = core.read_model(job["source"] if own else job["model"])
    # names of TensorFlow Lite's tensors are not those of its signature, which others use: there the order counts
    inputs: Any = list(feeds.values()) if own else feeds
    if not own:
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: list(request.infer(inputs, share_inputs=True, share_outputs=True).values())


_SIDES: dict[str, Callable[[dict[str, Any], Arrays], Callable[[], list[Any]]]] = {
    "edgec": _edgec,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
}

if __name__ == "__main__":
    main()
