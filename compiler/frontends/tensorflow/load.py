"""The front end of Keras files (.keras, .h5) and TensorFlow SavedModels, by way of TensorFlow Lite.

TensorFlow's own converter does the work, in a process of its own (see `child`);
TensorFlow itself is the reference.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compiler.errors import InputShapeError, ModelError
from edgec.compiler.frontends.interface import Loaded, read_file, require_unloaded
from edgec.compiler.frontends.tflite import flat
from edgec.compiler.frontends.tflite.load import converted
from edgec.compiler.options import CompileOptions

EXTRA = "tensorflow"
LIMIT_S = 900
OTHER_WAY = (
    ", or convert the model where TensorFlow is: tf.lite.TFLiteConverter.{} writes a .tflite file, which needs "
    "edgec[tflite] only"
)
QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
}
Arrays = Mapping[str, npt.NDArray[np.generic]]


def load(path: Path, options: CompileOptions) -> Loaded:
    """Read a Keras model or a SavedModel's signature as ONNX; inputs and outputs have the names given there.

    Raises:
        ModelError: damaged, with code in it, with operators that TensorFlow Lite lacks, or TensorFlow fails on it.
        UnsupportedModel: with operators that cannot be compiled.
        InputShapeError: sizes that the model leaves free and `input_shapes` does not give.
        ToolMissing: TensorFlow is not installed.
    """
    model = path.parent if path.name == "saved_model.pb" else path
    from_what = "from_saved_model(FOLDER)" if model.is_dir() else "from_keras_model(model)"
    require_unloaded("tensorflow", EXTRA, path, OTHER_WAY.format(from_what))
    digest = _folder_digest(model) if model.is_dir() else read_file(model)[1]
    with tempfile.TemporaryDirectory(prefix="edgec-tensorflow-") as scratch:
        target = Path(scratch) / "model.tflite"
        shapes = {name: list(shape) for name, shape in options.fixed_shapes().items()}
        answer = _ask(model, Path(scratch), {"action": "convert", "shapes": shapes, "tflite": str(target)})
        content = target.read_bytes()
    onnx_model, states = converted(_named(content, answer, path), path)
    taken, made = {state.input for state in states}, {state.output for state in states}
    inputs = [value.name for value in onnx_model.graph.input if value.name not in taken]
    outputs = [value.name for value in onnx_model.graph.output if value.name not in made]
    return Loaded(onnx_model, digest, _TensorFlow(model, answer, inputs, outputs), states)


def _ask(model: Path, scratch: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the process with TensorFlow, whose temporary files go to `scratch`, too.

    Raises:
        ModelError: the model is rejected, or the process crashes or exceeds its time limit.
        InputShapeError: shapes are missing or do not fit.
    """
    answer, file = scratch / "answer.json", scratch / "request.json"
    places = {"model": str(model.resolve()), "scratch": str(scratch), "answer": str(answer)}
    file.write_text(json.dumps({**places, **request}), encoding="utf-8")
    # -P: nothing is imported from the folder that edgec happens to be run in
    command = [sys.executable, "-P", "-m", "edgec.compiler.frontends.tensorflow.child", str(file)]
    environment = os.environ | QUIET | {"TMPDIR": str(scratch), "KERAS_HOME": str(scratch)}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{model}: TensorFlow did not finish within {LIMIT_S} s") from error
    if done.returncode or not answer.is_file():
        raise ModelError(f"{model}: TensorFlow failed on it: {_last(done)}")
    told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in told:
        raise (
            InputShapeError(told["message"])
            if told["error"] == "shape"
            else ModelError(f"{model}: {told['message']}")
        )
    return told


def _last(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"its process ended with {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"its process ended with status {done.returncode} and no message"


def _named(content: bytes, answer: Mapping[str, Any], path: Path) -> flat.Model:
    """The converted model with the source's order and names of inputs and outputs.

    Raises:
        ModelError: an input is not used, or two of them are the same.
    """
    converted = flat.read(content, path)
    graph = converted.main
    tensors = list(graph.tensors)
    order: dict[str, tuple[int, ...]] = {}
    for kind, letter, known in (
        ("inputs", "i", graph.signature_inputs),
        ("outputs", "o", graph.signature_outputs),
    ):
        indices = [known.get(f"{letter}{k}", -1) for k in range(len(answer[kind]))]
        for index, name in zip(indices, answer[kind], strict=True):
            if index < 0:
                raise ModelError(f"{path}: its {kind[:-1]} {name!r} is not used; export the model without it")
            if indices.count(index) > 1:
                raise ModelError(
                    f"{path}: its {kind[:-1]} {name!r} is the same as another one; export it once"
                )
            tensors[index] = replace(tensors[index], name=name)
        order[kind] = tuple(indices)
    main = replace(graph, tensors=tuple(tensors), inputs=order["inputs"], outputs=order["outputs"])
    return flat.Model((main, *converted.graphs[1:]))


def _folder_digest(folder: Path) -> str:
    """`sha256:…` of a SavedModel: the names, sizes and contents of the files that it is loaded from."""
    digest = hashlib.sha256()
    parts = [folder / "saved_model.pb", *(folder / "variables").rglob("*"), *(folder / "assets").rglob("*")]
    for file in sorted(part for part in parts if part.is_file()):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return f"sha256:{digest.hexdigest()}"


class _TensorFlow:
    """TensorFlow as the reference: each run is a process of its own."""

    def __init__(
        self, model: Path, answer: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self._model, self._inputs, self._outputs = model, inputs, outputs
        self.description = f"TensorFlow {answer['version']}"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs by name, of the model as it was before any conversion."""
        return self.run_steps([inputs], {})[0]

    def run_steps(
        self, steps: Sequence[Arrays], carried: Mapping[str, str]
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        """The outputs of runs one after the other; see `edgec.compiler.frontends.source.KeepsState`."""
        with tempfile.TemporaryDirectory(prefix="edgec-tensorflow-") as folder:
            scratch = Path(folder)
            given, made = scratch / "inputs.npz", scratch / "outputs.npz"
            named = list(enumerate(self._inputs))
            arrays = {
                f"{n}.i{k}": step[name] for n, step in enumerate(steps) for k, name in named if name in step
            }
            np.savez(given, **arrays)  # type: ignore[arg-type]
            places = {"inputs": str(given), "outputs": str(made)}
            back = {f"i{self._inputs.index(a)}": f"o{self._outputs.index(b)}" for a, b in carried.items()}
            _ask(self._model, scratch, {"action": "run", "steps": len(steps), "carried": back} | places)
            with np.load(made) as file:
                return [
                    {name: file[f"{n}.o{k}"] for k, name in enumerate(self._outputs)}
                    for n in range(len(steps))
                ]

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """Empty: none is known."""
        return {}
