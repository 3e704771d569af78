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


def run(source: Source, inputs: Path, outputs: Path) -> None:
    """Run the model as it is on arrays `i0` … of an .npz file; write `o0` … to another."""
    import tensorflow as tf

    with np.load(inputs) as file:
        values = [tf.constant(file[f"i{k}"], wanted.dtype) for k, wanted in enumerate(source.inputs)]
    made = {f"o{k}": np.asarray(value) for k, value in enumerate(source(*values))}
    np.savez(outputs, **made)  # type: ignore[arg-type]


def main(request_file: Path) -> None:
    """Serve a request.

    Its keys: `action` (`convert` or `run`), `model`, `scratch` (a folder), `answer` (the file to write),
    `shapes` by name and `tflite` to convert, `inputs` and `outputs` (.npz files) to run.
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
            run(source, Path(request["inputs"]), Path(request["outputs"]))
    except Refused as refusal:
        answer = {"error": refusal.kind, "message": str(refusal)}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
