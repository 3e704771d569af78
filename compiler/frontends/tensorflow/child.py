"""The part of the front end of Keras and TensorFlow that runs in a process of its own.

    python -m edgec.compiler.frontends.tensorflow.child REQUEST.json

TensorFlow contains its own LLVM and prints a lot, so it never shares a process with TVM. The request names the action
(see `main`); the answer is a JSON file. An error that the user can fix is in the answer as `{"error": kind, "message":
…}`; anything else ends the process with a traceback.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgec.compiler.frontends.tensorflow.conversion import convert, static_shapes
from edgec.compiler.frontends.tensorflow.refusals import Refused
from edgec.compiler.frontends.tensorflow.sources import KerasModel, SavedModel, Source


def run(source: Source, steps: int, carried: dict[str, str], inputs: Path, outputs: Path) -> None:
    """Run the model as it is, several times in a row.

    Args:
        source: the model, whose variables change from run to run.
        steps: number of runs.
        carried: inputs that take an output of the run before (`i1` to `o2`).
        inputs: .npz file of the arrays `0.i0` … of each run.
        outputs: the file to write, with `0.o0` ….
    """
    import tensorflow as tf

    made: dict[str, Any] = {}
    with np.load(inputs) as file:
        for n in range(steps):
            names = [f"i{k}" for k in range(len(source.inputs))]
            given = [
                made[f"{n - 1}.{carried[name]}"] if n and name in carried else file[f"{n}.{name}"]
                for name in names
            ]
            values = [
                tf.constant(array, wanted.dtype) for array, wanted in zip(given, source.inputs, strict=True)
            ]
            made |= {f"{n}.o{k}": np.array(value) for k, value in enumerate(source(*values))}
    np.savez(outputs, **made)


def main(request_file: Path) -> None:
    """Serve a request.

    Its keys: `action` (`convert` or `run`), `model`, `scratch` (a folder), `answer` (the file to write),
    `shapes` by name and `tflite` to convert; `steps`, `carried`, `inputs` and `outputs` to run (see `run`).
    """
    request = json.loads(request_file.read_text(encoding="utf-8"))
    # Keras would import scikit-learn for wrappers that nothing here uses: a quarter of the start-up time
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    answer: dict[str, Any] = {}
    try:
        import tensorflow as tf

        path, scratch = Path(request["model"]), Path(request["scratch"])
        source: Source = SavedModel(path, scratch) if path.is_dir() else KerasModel(path, scratch)
        answer = {
            "version": tf.__version__,
            "inputs": [x.name for x in source.inputs],
            "outputs": source.outputs,
        }
        if request["action"] == "convert":
            asked = {name: tuple(shape) for name, shape in request["shapes"].items()}
            convert(source, static_shapes(source.inputs, asked), Path(request["tflite"]))
        else:
            places = Path(request["inputs"]), Path(request["outputs"])
            run(source, request["steps"], request["carried"], *places)
    except Refused as refusal:
        answer = {"error": refusal.kind, "message": str(refusal)}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
