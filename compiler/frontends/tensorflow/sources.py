"""Keras models and SavedModels as callables with named inputs and outputs, in the process with TensorFlow."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgec.compiler.frontends.tensorflow.refusals import MODEL, Refused

MOST_STEPS = 256  # of a recurrent layer; each becomes some 15 nodes (LSTM)
HDF5 = b"\x89HDF\r\n\x1a\n"
# Operators with which a SavedModel could read or change files, or run Python; none is needed to compute.
DANGEROUS = frozenset(
    {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "DebugIdentityV3"}
)


@dataclass(frozen=True)
class Wanted:
    """An input as the model declares it: free sizes are None; `shape` is None if even the rank is free."""

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
        named = scratch / f"model{suffix}"  # Keras decides by the suffix
        named.symlink_to(path)
        with _loading():
            model = keras.saving.load_model(named, compile=False, safe_mode=True)
        named.unlink()
        if not isinstance(model, keras.Model):
            raise Refused(MODEL, f"holds a {type(model).__name__}, which is not a model")
        if not getattr(model, "inputs", None):
            raise Refused(
                MODEL,
                "does not declare its inputs. Call the model once and export it in the Python that defines it, "
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
                "has no signature, so its inputs are not declared. Save it with one: tf.saved_model.save(model, "
                "FOLDER, signatures=model.f.get_concrete_function(tf.TensorSpec(SHAPE)))",
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
    """Report in one line why a model cannot be loaded: for damaged files the libraries raise errors of any class."""
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
    """A copy of a SavedModel that current TensorFlow loads: one graph, and no optimizer state.

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
        raise Refused(MODEL, f"is not loaded for safety: it accesses files or runs Python (by {told})")
    for node in kept.object_graph_def.nodes:
        node.ClearField("slot_variables")  # optimizer state, which needs the optimizer's class to be restored
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
