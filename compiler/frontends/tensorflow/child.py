"""The part of the front end of Keras and TensorFlow that has TensorFlow in it; a process of its own.

    python -m edgec.compiler.frontends.tensorflow.child REQUEST.json

TensorFlow brings an LLVM of its own and prints a lot, so it never meets TVM in one process. The request
names what to do (:func:`main`); the answer is a JSON file. What the user can mend is in the answer as
``{"error": kind, "message": …}``; anything else ends the process with a traceback.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgec.compiler.errors import opening

SHAPE, MODEL = "shape", "model"
MOST_STEPS = 256  # of a recurrent layer; each becomes some 15 nodes (LSTM)
HDF5 = b"\x89HDF\r\n\x1a\n"

# Operators with which a SavedModel could read or change files, or run Python; none is for computing.
DANGEROUS = frozenset(
    {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "DebugIdentityV3"}
)


class Refused(Exception):
    """What the user can mend."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Wanted:
    """An input as the model declares it: sizes that are free are None, all of them where `shape` is None."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: Any


class Source(Protocol):
    """A loaded model."""

    inputs: list[Wanted]
    outputs: list[str]

    def __call__(self, *values: Any) -> list[Any]:  # noqa: ANN401 - tensors
        """The outputs for the inputs, both in order."""

    def prepare(self) -> Any:  # noqa: ANN401
        """Make the model ready for conversion; returns what holds its variables."""


class KerasModel:
    """A model from a .keras or .h5 file."""

    def __init__(self, path: Path, scratch: Path) -> None:
        import keras

        with path.open("rb") as file:
            suffix = ".h5" if file.read(len(HDF5)) == HDF5 else ".keras"
        named = scratch / f"model{suffix}"  # Keras goes by the suffix
        named.symlink_to(path)
        with _loading():
            model = keras.saving.load_model(named, compile=False, safe_mode=True)
        named.unlink()
        if not isinstance(model, keras.Model):
            raise Refused(MODEL, f"holds a {type(model).__name__}, which is no model")
        if not getattr(model, "inputs", None):
            raise Refused(
                MODEL,
                "does not say what it takes. Call the model once and export it in the Python that defines it, "
                "model.export('FOLDER'), and compile that",
            )
        self._keras, self._model = keras, model
        self.inputs = [Wanted(x.name, tuple(x.shape), _numeric(x.name, x.dtype)) for x in model.inputs]
        self.outputs = self._output_names()

    def _output_names(self) -> list[str]:
        """The keys of what the model returns, or the names of the layers that make it."""
        if isinstance(self._model, self._keras.Sequential):
            return [self._model.layers[-1].name]
        made = self._model.output
        if isinstance(made, dict) and len(made) == len(self._keras.tree.flatten(made)):
            return list(made)
        return list(self._model.output_names)

    def __call__(self, *values: Any) -> list[Any]:  # noqa: ANN401
        """The outputs for the inputs, both in order."""
        tree, model = self._keras.tree, self._model
        alone = isinstance(model, self._keras.Sequential)
        made = model(values[0] if alone else tree.pack_sequence_as(model.input, list(values)), training=False)
        if isinstance(made, dict) and set(made) == set(self.outputs):
            return [made[name] for name in self.outputs]
        return list(tree.flatten(made))

    def prepare(self) -> Any:  # noqa: ANN401
        """Unroll recurrent layers: TensorFlow Lite would have loops over them."""
        import tensorflow as tf

        for layer in self._model._flatten_layers():
            if isinstance(layer, self._keras.layers.RNN):
                _unroll(layer)
        holder = tf.Module()
        holder.variables_of_model = [variable.value for variable in self._model.variables]
        return holder


class SavedModel:
    """A signature of a SavedModel."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        import tensorflow as tf

        with _loading():
            self._loaded = tf.saved_model.load(str(_cleaned(folder, scratch)))
        signatures = dict(self._loaded.signatures)
        names = list(signatures)
        if "serving_default" in names:
            name = "serving_default"
        elif len(names) == 1:
            (name,) = names
        elif names:
            raise Refused(
                MODEL,
                f"has the signatures {', '.join(sorted(names))} and none of them is serving_default. Save the one to "
                "compile as such: tf.saved_model.save(model, FOLDER, signatures=model.signatures[NAME])",
            )
        else:
            raise Refused(
                MODEL,
                "has no signature, so nothing says what it takes. Save it with one: tf.saved_model.save(model, FOLDER, "
                "signatures=model.f.get_concrete_function(tf.TensorSpec(SHAPE)))",
            )
        self._call = signatures[name]
        given = self._call.structured_input_signature[1]
        self.inputs = [
            Wanted(
                key, None if spec.shape.rank is None else tuple(spec.shape), _numeric(key, spec.dtype.name)
            )
            for key, spec in sorted(given.items())
        ]
        self.outputs = sorted(self._call.structured_outputs)  # the file has them in no order

    def __call__(self, *values: Any) -> list[Any]:  # noqa: ANN401
        """The outputs for the inputs, both in order."""
        made = self._call(**{wanted.name: value for wanted, value in zip(self.inputs, values, strict=True)})
        return [made[name] for name in self.outputs]

    def prepare(self) -> Any:  # noqa: ANN401
        """Nothing to prepare."""
        return self._loaded


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Say in one line why a model cannot be loaded: the libraries raise errors of any class for damaged files."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "ambda" in text and ("unsafe" in text or "arbitrary code" in text or "safe_mode" in text):
            raise Refused(
                MODEL,
                "has a Lambda layer, that is Python code in the file, which is not run for safety. Use layers of Keras "
                "in its place (Rescaling, say), or export the model to a SavedModel, model.export('FOLDER')",
            ) from error
        if "No model config found" in text or "is a weights" in text:
            raise Refused(
                MODEL,
                "holds weights without the model: load them into it and save that, model.save('model.keras')",
            ) from error
        unknown = re.search(r"ould not locate (?:class|function) '[^']+'", text)
        if unknown:
            raise Refused(
                MODEL,
                f"has code of its own (c{unknown[0]}). Export it in the Python that defines that, "
                "model.export('FOLDER'), and compile the SavedModel",
            ) from error
        raise Refused(MODEL, f"cannot be loaded: {text[:300] or type(error).__name__}") from error


def _cleaned(folder: Path, scratch: Path) -> Path:
    """A copy of a SavedModel that today's TensorFlow loads: one graph, and nothing of an optimizer.

    Raises:
        Refused: damaged, or with operators that do more than compute.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise Refused(MODEL, "its saved_model.pb is damaged or cut short; export or copy it again") from error
    serving = [g for g in stored.meta_graphs if "serve" in g.meta_info_def.tags] or list(stored.meta_graphs)
    if not serving:
        raise Refused(MODEL, "its saved_model.pb holds no graph; export or copy it again")
    kept = type(serving[0])()
    kept.CopyFrom(min(serving, key=lambda graph: len(graph.meta_info_def.tags)))
    nodes = [*kept.graph_def.node, *(n for f in kept.graph_def.library.function for n in f.node_def)]
    found = sorted({node.op for node in nodes} & DANGEROUS)
    if found:
        told = ", ".join(found)
        raise Refused(MODEL, f"is not loaded for safety: it reaches for files or runs Python (by {told})")
    for node in kept.object_graph_def.nodes:
        node.ClearField("slot_variables")  # moments of training; restoring them needs the optimizer's class
    del stored.meta_graphs[:]
    stored.meta_graphs.add().CopyFrom(kept)
    copy = scratch / "saved_model"
    copy.mkdir()
    (copy / "saved_model.pb").write_bytes(stored.SerializeToString())
    for part in ("variables", "assets"):
        if (folder / part).is_dir():
            (copy / part).symlink_to(folder / part, target_is_directory=True)
    return copy


def _numeric(name: str, dtype: str) -> str:
    if dtype in ("string", "resource", "variant"):
        raise Refused(MODEL, f"its input {name!r} takes {dtype}, not numbers, so it cannot be compiled")
    return dtype


def _unroll(layer: Any) -> None:  # noqa: ANN401 - a layer of Keras
    call = layer.call

    def unrolled(sequences: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401
        if (sequences.shape[1] or 0) > MOST_STEPS:
            raise Refused(
                MODEL,
                f"its layer {layer.name!r} takes {sequences.shape[1]} steps, and at most {MOST_STEPS} are unrolled. "
                "Give it fewer, or export the model to ONNX (tf2onnx), which keeps the loop",
            )
        return call(sequences, *rest, **more)

    layer.unroll, layer.call = True, unrolled


def static_shapes(inputs: list[Wanted], asked: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A shape for each input: what is asked, else what the model says, with the batch 1.

    Raises:
        Refused: an unknown name, a shape that does not fit, or sizes that have to be given.
    """
    listing = ", ".join(f"{wanted.name} ({_text(wanted)})" for wanted in inputs)
    for name in asked:
        if name not in {wanted.name for wanted in inputs}:
            raise Refused(SHAPE, f"the model has no input {name!r}; its inputs are {listing}")
    shapes, missing = [], []
    for wanted in inputs:
        shape, declared = asked.get(wanted.name), wanted.shape
        if shape is None:
            sizes = declared and (declared[0] or 1, *declared[1:])
            if declared is None or None in (sizes or ()):
                missing.append(f"--input {wanted.name}:{_text(wanted)}")
            shape = tuple(size or 1 for size in sizes or ())
        elif declared is not None and not (
            len(shape) == len(declared)
            and all(want in (None, size) for want, size in zip(declared, shape, strict=True))
        ):
            told = "x".join(map(str, shape))
            raise Refused(
                SHAPE, f"the input {wanted.name!r} is {_text(wanted)} in the model; {told} does not fit it"
            )
        shapes.append(shape)
    if missing:
        raise Refused(
            SHAPE,
            f"sizes of the input{'s' if len(missing) > 1 else ''} are free: give them with {' '.join(missing)} "
            "(numbers in place of ?)",
        )
    return shapes


def _text(wanted: Wanted) -> str:
    if wanted.shape is None:
        return "?"
    free_batch = [
        "1" if axis == 0 and size is None else str(size or "?") for axis, size in enumerate(wanted.shape)
    ]
    return "x".join(free_batch)


def convert(source: Source, shapes: list[tuple[int, ...]], target: Path) -> None:
    """Write the model as TensorFlow Lite with inputs ``i0``, ``i1`` … and outputs ``o0``, ``o1`` … in order.

    Raises:
        Refused: it has operators that TensorFlow Lite lacks.
    """
    import tensorflow as tf

    def call(*values: Any) -> dict[str, Any]:  # noqa: ANN401
        return {f"o{k}": tf.identity(made) for k, made in enumerate(source(*values))}

    holder = source.prepare()
    specs = [
        tf.TensorSpec(shape, wanted.dtype, name=f"i{k}")
        for k, (wanted, shape) in enumerate(zip(source.inputs, shapes, strict=True))
    ]
    try:
        traced = tf.function(call, input_signature=specs).get_concrete_function()
    except Exception as error:  # of whichever class, the process ends with it
        told = f"the model does not take these shapes: {opening(error)}"
        raise _refusal_within(error) or Refused(SHAPE, told) from error
    try:
        content = tf.lite.TFLiteConverter.from_concrete_functions([traced], holder).convert()
    except Exception as error:
        raise Refused(
            MODEL, _lacking(str(error)) or f"TFLiteConverter cannot convert it: {opening(error)}"
        ) from error
    target.write_bytes(content)


def _refusal_within(error: BaseException | None) -> Refused | None:
    """A refusal of ours that Keras has wrapped into an error of its own."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__ or error.__context__
    return error


def _lacking(text: str) -> str:
    """A message that names the operators which the converter's error says are not in TensorFlow Lite."""
    listed = re.findall(r"^\s*(?:TF Select|Flex|Custom) ops: (.+)$", text, re.MULTILINE)
    names = {name.strip() for line in listed for name in line.split(",")}
    names |= set(re.findall(r"'tf\.(\w+)' op is neither", text))
    if not names and "TensorList" in text:
        return (
            "has a loop over lists of tensors, as recurrent layers have, and TensorFlow Lite cannot tell their sizes. "
            "Compile the .keras or .h5 file, whose recurrent layers are unrolled, or convert it to ONNX (tf2onnx)"
        )
    if not names:
        return ""
    return (
        f"TensorFlow Lite lacks operators of this model: {', '.join(sorted(names))}. Build it without them, or convert "
        "it to ONNX (tf2onnx), where what cannot be compiled runs through ONNX Runtime"
    )


def run(source: Source, inputs: Path, outputs: Path) -> None:
    """Run the model as it is on arrays ``i0`` … of an .npz file; write ``o0`` … to another."""
    import tensorflow as tf

    with np.load(inputs) as file:
        values = [tf.constant(file[f"i{k}"], wanted.dtype) for k, wanted in enumerate(source.inputs)]
    made = {f"o{k}": np.asarray(value) for k, value in enumerate(source(*values))}
    np.savez(outputs, **made)  # type: ignore[arg-type]


def main(request_file: Path) -> None:
    """Do what a request asks.

    Its keys: ``action`` (``convert`` or ``run``), ``model``, ``scratch`` (a folder), ``answer`` (the file to write),
    ``shapes`` by name and ``tflite`` to convert, ``inputs`` and ``outputs`` (.npz files) to run.
    """
    request = json.loads(request_file.read_text(encoding="utf-8"))
    # Keras would load scikit-learn for wrappers that nothing here uses: a quarter of the time to start
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
