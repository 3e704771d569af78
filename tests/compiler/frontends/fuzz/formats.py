"""Samples of each format, how they are damaged, and the loader that gets them."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import random
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgec.compiler.frontends import formats, load_source
from edgec.compiler.frontends.load import read_any
from edgec.compiler.frontends.sklearn import load as sklearn_load
from edgec.compiler.options import CompileOptions
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.oci import tar_header, tar_padding
from edgec.runtime.errors import ArtifactError
from tests.compiler.frontends.fuzz import mutators
from tests.compiler.frontends.fuzz.harness import Load, Mutate, apart

OPTIONS = CompileOptions()


@functools.cache
def onnx_samples() -> list[bytes]:
    """Small models with a bit of everything: sub-graphs, functions, quantisation, shapes, sparse tensors."""
    rng = np.random.default_rng(0)

    def made(
        nodes: list[Any], inputs: dict[str, Any], constants: dict[str, np.ndarray], **more: Any
    ) -> bytes:
        values = [
            helper.make_tensor_value_info(
                name, *(kind if isinstance(kind, tuple) else (TensorProto.FLOAT, kind))
            )
            for name, kind in inputs.items()
        ]
        stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", values, [out], stored)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9, **more).SerializeToString())

    node = helper.make_node
    conv = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        node("Shape", ["p"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Concat", ["n", "minus"], ["t"], axis=0),
        node("Reshape", ["p", "t"], ["f"]),
        node("Gemm", ["f", "w2"], ["y"], transB=1),
    ]
    weights = {
        "w": rng.random((4, 3, 3, 3)).astype("float32"),
        "b": rng.random(4).astype("float32"),
        "w2": rng.random((5, 36)).astype("float32"),
        "zero": np.array([0]),
        "minus": np.array([-1]),
    }
    branch = helper.make_graph(
        [node("Mul", ["x", "x"], ["o"])], "t", [], [helper.make_empty_tensor_value_info("o")]
    )
    other = helper.make_graph(
        [node("Neg", ["x"], ["o"])], "e", [], [helper.make_empty_tensor_value_info("o")]
    )
    choice = [node("If", ["c"], ["y"], then_branch=branch, else_branch=other)]
    body = helper.make_function(
        "own", "F", ["a"], ["z"], [node("Add", ["a", "a"], ["z"])], [helper.make_opsetid("", 17)]
    )
    quantised = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Cast", ["d"], ["h"], to=TensorProto.FLOAT16),
        node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    lstm = [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2, direction="forward")]
    return [
        made(conv, {"x": [1, 3, 8, 8]}, weights),
        made(choice, {"x": [2, 2], "c": (TensorProto.BOOL, [])}, {}),
        made([node("F", ["x"], ["y"], domain="own")], {"x": ["n", 4]}, {}, functions=[body]),
        made(quantised, {"x": [4]}, {"s": np.array(0.1, "float32"), "z": np.array(3, "uint8")}),
        made(
            lstm, {"x": [3, 1, 2]}, {"w": np.ones((1, 8, 2), "float32"), "r": np.ones((1, 8, 2), "float32")}
        ),
        made(
            [node("Resize", ["x", "", "k"], ["y"], mode="linear")],
            {"x": [1, 1, 4, 4]},
            {"k": np.array([1, 1, 2, 2], "float32")},
        ),
    ]


def damaged_onnx(rng: random.Random, folder: Path) -> Path:
    model = ModelProto.FromString(rng.choice(onnx_samples()))
    mutators.protobuf(model, rng)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@dataclass(frozen=True)
class FlatSample:
    """A TensorFlow Lite file, prepared to be damaged.

    Attributes:
        content: the file.
        stored: its objects, pickled.
        places: the way to each of their entries.
        reads: what a reader of the file reads, as positions and types.
    """

    content: bytes
    stored: bytes
    places: list[mutators.Way]
    reads: list[mutators.Read]


@functools.cache
def tflite_samples() -> tuple[Any, list[FlatSample]]:
    """Small real models; the more they cost, the less often they are taken."""
    from ai_edge_litert import schema_py_generated as schema

    place = shared() / "tflite"
    names = {
        "tflm/hello_world_int8": 4,
        "tflm/hello_world_float": 4,
        "tflm/micro_speech_int8": 4,
        "tflm/mnist_lstm_int8": 1,
    }
    made = []
    for name, weight in names.items():
        content = (place / f"{name}.tflite").read_bytes()
        reads: list[mutators.Read] = []
        with mutators.recorded(reads):
            model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
        one = FlatSample(content, pickle.dumps(model), list(mutators.ways(model)), sorted(set(reads)))
        made += [one] * weight
    return schema, made


def damaged_tflite(rng: random.Random, folder: Path) -> Path:
    import flatbuffers

    sample = rng.choice(tflite_samples()[1])
    path, kind = folder / "m.tflite", rng.random()
    if kind < 0.4:
        content = mutators.in_place(sample.content, sample.reads, rng)
    else:
        model = pickle.loads(sample.stored)
        mutators.at_ways(model, sample.places, rng)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        content = bytes(builder.Output())
    path.write_bytes(mutators.numbers(content, rng) if kind > 0.95 else content)
    return path


def shared() -> Path:
    """The folder of real models."""
    import os

    return Path(os.environ.get("EDGEC_DATA", Path(__file__).resolve().parents[5] / "shared" / "data"))


@functools.cache
def trees() -> dict[str, bytes]:
    """See `_trees`."""
    return apart(_trees)


def _trees() -> dict[str, bytes]:
    """Small forests as XGBoost (JSON, UBJSON, binary) and LightGBM write them, and a pickle of scikit-learn."""
    import lightgbm
    import xgboost
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, y = rng.random((60, 4)), rng.integers(0, 3, 60)
    boosted = xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(x, y).get_booster()
    parameters = {
        "objective": "multiclass",
        "num_class": 3,
        "num_leaves": 4,
        "verbose": -1,
        "min_data_in_leaf": 2,
    }
    light = lightgbm.train(parameters, lightgbm.Dataset(x, y), 2)
    return {
        "json": bytes(boosted.save_raw("json")),
        "ubj": bytes(boosted.save_raw("ubj")),
        "lightgbm": light.model_to_string().encode(),
        "forest": pickle.dumps(RandomForestClassifier(2, max_depth=2).fit(x, y)),
        "pipeline": pickle.dumps(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)),
        "binary": (shared() / "xgboost" / "mushroom.model").read_bytes(),
    }


def damaged_xgboost(rng: random.Random, folder: Path) -> Path:
    kind = rng.choice(("json", "json", "ubj", "binary"))
    content = trees()[kind]
    path = folder / {"json": "m.json", "ubj": "m.ubj", "binary": "m.model"}[kind]
    path.write_bytes(mutators.json_text(content, rng) if kind == "json" else mutators.numbers(content, rng))
    return path


def damaged_lightgbm(rng: random.Random, folder: Path) -> Path:
    path = folder / "m.txt"
    path.write_bytes(mutators.lines(trees()["lightgbm"], rng))
    return path


def damaged_pickle(rng: random.Random, folder: Path) -> Path:
    path = folder / "m.pkl"
    path.write_bytes(mutators.pickled(trees()[rng.choice(("forest", "pipeline"))], rng))
    return path


@functools.cache
def archives() -> dict[str, bytes]:
    """See `_archives`."""
    return apart(_archives)


def _archives() -> dict[str, bytes]:
    """A program and a script of PyTorch, and a model of Keras: the members that are looked at."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.one(x))

    program, script, keras = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.export.save(torch.export.export(Net().eval(), (torch.ones(1, 4),)), program)
    torch.jit.save(torch.jit.trace(Net().eval(), torch.ones(1, 4)), script)
    import zipfile

    with zipfile.ZipFile(keras, "w") as file:
        layer = {"class_name": "Dense", "config": {"name": "d", "units": 2}}
        file.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}}))
        file.writestr("metadata.json", json.dumps({"keras_version": "3.12"}))
        file.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(100))
    return {"m.pt2": program.getvalue(), "m.pt": script.getvalue(), "m.keras": keras.getvalue()}


def damaged_archive(rng: random.Random, folder: Path) -> Path:
    name = rng.choice(list(archives()))
    path = folder / name
    path.write_bytes(mutators.archive(archives()[name], rng))
    return path


def damaged_program(rng: random.Random, folder: Path) -> Path:
    path = folder / "m.pt2"
    path.write_bytes(mutators.archive(archives()["m.pt2"], rng))
    return path


@functools.cache
def artifact(folder: str) -> bytes:
    """A compiled model."""
    return apart(lambda: _artifact(folder))


def _artifact(folder: str) -> bytes:
    from edgec.compiler.pipeline import compile_model
    from edgec.targets import detect

    model = Path(folder) / "m.onnx"
    model.write_bytes(onnx_samples()[0])
    done = compile_model(
        model, detect(), CompileOptions(tune="none", threads=1, verify=False), output=Path(folder) / "m.edge"
    )
    return done.artifact.read_bytes()


def damaged_artifact(content: Callable[[], bytes]) -> Mutate:
    """Damage to the JSON of an artifact, with the digests brought up to date, or to its tar."""

    def mutate(rng: random.Random, folder: Path) -> Path:
        with tarfile.open(fileobj=io.BytesIO(content())) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr]
        index = json.loads(files.pop(oci.INDEX_FILE))
        place = "blobs/sha256/" + index["manifests"][0]["digest"].partition(":")[2]
        manifest = json.loads(files.pop(place))
        kind = rng.random()
        if kind < 0.6:
            inner = [manifest["config"], *[m for m in manifest["layers"] if "json" in m["mediaType"]]]
            described = manifest["config"] if rng.random() < 0.8 else rng.choice(inner)
            changed = mutators.json_text(files["blobs/sha256/" + described["digest"].partition(":")[2]], rng)
            described["digest"], described["size"] = _store(files, changed), len(changed)
        elif kind < 0.85:
            manifest = mutators.tree(manifest, rng)
        stored = json.dumps(manifest).encode("utf-8", "surrogatepass")
        index["manifests"][0] |= {"digest": _store(files, stored), "size": len(stored)}
        listed = json.dumps(mutators.tree(index, rng) if 0.85 <= kind < 0.95 else index).encode()
        if kind < 0.8:
            with suppress(ArtifactError):
                files, listed = _in_order(files, stored)
        rows = [(oci.LAYOUT_FILE, files.pop(oci.LAYOUT_FILE)), (oci.INDEX_FILE, listed), *files.items()]
        made = b"".join(tar_header(n, len(inside)) + inside + tar_padding(len(inside)) for n, inside in rows)
        made += bytes(1024)
        path = folder / "m.edge"
        path.write_bytes(mutators.numbers(made, rng) if kind >= 0.95 else made)
        return path

    return mutate


def _in_order(files: dict[str, bytes], stored: bytes) -> tuple[dict[str, bytes], bytes]:
    """The files of an artifact in the order of its manifest, and its index, as the reader requires both.

    Raises:
        ArtifactError: the manifest does not say.
    """
    manifest = oci.parse_manifest(stored)
    digests = [oci.digest_of(stored), *(blob.digest for blob in manifest.all_blobs())]
    ordered = {oci.LAYOUT_FILE: files[oci.LAYOUT_FILE]}
    ordered |= {place: files[place] for place in map(oci.blob_path, digests) if place in files}
    return ordered, oci.index_bytes(manifest, stored)


def _store(files: dict[str, bytes], content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    files[f"blobs/sha256/{digest}"] = content
    return f"sha256:{digest}"


def open_artifact(path: Path) -> None:
    """All that is read of an artifact before its code is loaded."""
    from edgec.runtime import Artifact

    opened = Artifact.open(path)
    opened.verify_digests()
    for _ in opened.config.variants():
        pass
    _ = (opened.weights(), opened.labels(), opened.card(), opened.evidence(), opened.report(), opened.code())


def read(path: Path) -> object:
    return read_any(path, OPTIONS)


def read_unguarded(path: Path) -> object:
    """Read a pickle without the trial in a process of its own."""
    with mock.patch.object(sklearn_load, "_crash_of", return_value=""):
        return read(path)


def read_without_litert(path: Path) -> object:
    """Read a TensorFlow Lite file with a LiteRT that rejects everything."""
    from ai_edge_litert import interpreter

    with mock.patch.object(interpreter, "Interpreter", side_effect=ValueError("left out")):
        return read(path)


def prepare(path: Path) -> object:
    return load_source(path, OPTIONS)


FORMATS: dict[str, tuple[Mutate, Load]] = {
    "onnx": (damaged_onnx, prepare),
    "tflite": (damaged_tflite, read),
    "xgboost": (damaged_xgboost, read),
    "lightgbm": (damaged_lightgbm, read),
    "sklearn": (damaged_pickle, read_unguarded),
    "archives": (damaged_archive, formats.detect),
    "pt2": (damaged_program, read),
}
GUARDED: dict[str, Load] = {"sklearn": read}
WITHOUT_PEER: dict[str, Load] = {"tflite": read_without_litert}
