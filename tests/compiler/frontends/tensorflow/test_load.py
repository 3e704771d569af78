"""Keras files and SavedModels, beside TensorFlow itself; TensorFlow is never loaded into this process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgec.compiler.errors import InputShapeError, ModelError, ToolMissing
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.frontends.tensorflow import load as tensorflow_load
from edgec.compiler.frontends.tensorflow.conversion import static_shapes
from edgec.compiler.frontends.tensorflow.refusals import Refused
from edgec.compiler.frontends.tensorflow.sources import Wanted
from edgec.compiler.inspect import inspect_model
from edgec.compiler.options import CompileOptions

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="optional: pip install 'edgec[tensorflow]'"
)

MAKE_MODELS = """
import os, sys
os.environ.update(CUDA_VISIBLE_DEVICES="", KERAS_HOME=sys.argv[1], KERAS_BACKEND="tensorflow")
sys.modules["sklearn"] = None
import keras, tensorflow as tf
from keras import Input, Sequential, layers
os.chdir(sys.argv[1])
keras.utils.set_random_seed(0)

picture, kind = Input((None, None, 3), name="picture"), Input((2,), name="kind", dtype="int32")
x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, 2, padding="same")(picture)))
x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.Flatten()(layers.Embedding(9, 3)(kind))])
both = [layers.Dense(2, name="where", activation="gelu")(x), layers.Dense(3, name="what", activation="softmax")(x)]
keras.Model([kind, picture], both).save("net.keras")
recurrent = Sequential([
    Input((6, 5), name="steps"), layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.GRU(3),
    layers.Dense(2, name="next"),
])
recurrent.save("recurrent.h5")
Sequential([Input((3,)), layers.Lambda(lambda x: x * 2)]).save("lambda.h5")

class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(tf.random.normal((4, 3), seed=1))

    @tf.function(input_signature=[tf.TensorSpec((None, 4), name="samples")])
    def scores(self, samples):
        return {"scores": tf.nn.softmax(samples @ self.weight), "logits": samples @ self.weight}

    @tf.function(input_signature=[tf.TensorSpec((None, 4), name="samples")])
    def values(self, samples):
        return {"values": tf.linalg.svd(samples)[0]}

class Writer(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((), tf.string, name="text")])
    def write(self, text):
        tf.io.write_file("made-by-a-model", text)
        return {"done": tf.constant(1.0)}

module, writer = Module(), Writer()
tf.saved_model.save(module, "scores", signatures=module.scores)
tf.saved_model.save(module, "two", signatures={"scores": module.scores, "values": module.values})
tf.saved_model.save(module, "svd", signatures=module.values)
tf.saved_model.save(writer, "writer", signatures=writer.write)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorflow")
    command = [sys.executable, "-c", MAKE_MODELS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def same_as_tensorflow(path: Path, options: CompileOptions, *, inputs: list[str], outputs: list[str]) -> None:
    source = load_source(path, options)
    assert [port.name for port in source.inputs] == inputs
    assert [port.name for port in source.outputs] == outputs
    random = np.random.default_rng(1)
    given = {
        port.name: random.integers(0, 9, port.shape, "int32")
        if port.dtype == "int32"
        else random.standard_normal(port.shape).astype("float32")
        for port in source.inputs
    }
    assert source.original is not None
    assert source.original.description.startswith("TensorFlow 2.")
    expected = source.original.run(given)
    session = ort.InferenceSession(source.model.SerializeToString())
    for name, got in zip(outputs, session.run(None, given), strict=True):
        np.testing.assert_allclose(got, expected[name], atol=1e-5, err_msg=name)
    assert not to_relax(source).segments


@needs_tensorflow
def test_a_keras_file_of_two_inputs_and_outputs(models: Path, scratch: Path) -> None:
    options = CompileOptions(input_shapes={"picture": (1, 9, 12, 3)})
    names = {"inputs": ["kind", "picture"], "outputs": ["where", "what"]}
    same_as_tensorflow(models / "net.keras", options, **names)
    assert not list(scratch.iterdir())
    assert "tensorflow" not in sys.modules


@needs_tensorflow
def test_recurrent_layers_of_an_h5_file_are_unrolled(models: Path) -> None:
    same_as_tensorflow(models / "recurrent.h5", CompileOptions(), inputs=["steps"], outputs=["next"])


@needs_tensorflow
def test_a_saved_model_keeps_the_names_of_its_signature(models: Path) -> None:
    options = CompileOptions(input_shapes={"samples": (3, 4)})
    same_as_tensorflow(models / "scores", options, inputs=["samples"], outputs=["logits", "scores"])


@needs_tensorflow
def test_inspect_reads_a_saved_model(models: Path) -> None:
    summary = inspect_model(models / "scores", CompileOptions())
    assert summary.inputs == {"samples": "float32 1x4"}
    assert summary.parameters == 12
    assert not summary.unsupported


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lambda.h5", "a Lambda layer, that is Python code"),
        ("two", "the signatures scores, values and none of them is serving_default"),
        ("svd", "TensorFlow Lite lacks operators of this model: Svd"),
        ("writer", r"not loaded for safety: it accesses files or runs Python \(by WriteFile\)"),
    ],
)
def test_what_cannot_be_compiled_is_told(models: Path, scratch: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_source(models / name, CompileOptions())
    assert len(str(caught.value).splitlines()) == 1
    assert not list(scratch.iterdir())
    assert not (models / "made-by-a-model").exists()


@needs_tensorflow
def test_a_damaged_file_is_told_in_one_line(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.h5"
    path.write_bytes((models / "recurrent.h5").read_bytes()[:9000])
    with pytest.raises(ModelError, match=r"cut\.h5: cannot be loaded: .*truncated") as caught:
        load_source(path, CompileOptions())
    assert len(str(caught.value).splitlines()) == 1


@needs_tensorflow
def test_free_sizes_are_asked_for_by_name(models: Path) -> None:
    with pytest.raises(InputShapeError, match=r"--input picture:1x\?x\?x3 "):
        load_source(models / "net.keras", CompileOptions())


def test_shapes_fit_the_model() -> None:
    wanted = [
        Wanted("a", (None, None, 3), "float32"),
        Wanted("b", None, "float32"),
    ]

    def shapes(**asked: tuple[int, ...]) -> list[tuple[int, ...]]:
        return static_shapes(wanted, asked)

    assert shapes(a=(2, 5, 3), b=()) == [(2, 5, 3), ()]
    with pytest.raises(Refused, match=r"no input 'c'; its inputs are a \(1x\?x3\), b \(\?\)"):
        shapes(c=(1,))
    with pytest.raises(Refused, match=r"1x\?x3 in the model; 1x4 does not fit"):
        shapes(a=(1, 4), b=())
    with pytest.raises(Refused, match=r"--input a:1x\?x3 --input b:\?"):
        shapes()


def test_a_missing_tensorflow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ToolMissing, match=r"edgec\[tensorflow\].*from_keras_model"):
        load_source(tmp_path / "net.h5", CompileOptions())
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ToolMissing, match=r"edgec\[tensorflow\].*from_saved_model"):
        load_source(tmp_path, CompileOptions())


def test_a_crash_and_too_long_a_time_are_told(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    python = tmp_path / "python"
    for script, message in (
        ("echo one >&2; echo 'MemoryError: all gone' >&2; exit 1", "failed on it: MemoryError: all gone"),
        ("kill -SEGV $$", "its process ended with SIGSEGV"),
        ("exit 0", "ended with status 0 and no message"),
    ):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        with pytest.raises(ModelError, match=message):
            load_source(tmp_path / "net.h5", CompileOptions())
    python.write_text("#!/bin/sh\nexec cat /dev/zero >/dev/null\n")
    monkeypatch.setattr(tensorflow_load, "LIMIT_S", 0.2)
    with pytest.raises(ModelError, match=r"did not finish within 0\.2 s"):
        load_source(tmp_path / "net.h5", CompileOptions())
    assert not list(scratch.iterdir())
