"""Variables of Keras models and SavedModels that change from run to run, beside TensorFlow itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.source import KeepsState
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="optional: pip install 'edgec[tensorflow]'"
)

MAKE_MODELS = """
import os, sys
os.environ.update(CUDA_VISIBLE_DEVICES="", KERAS_HOME=sys.argv[1], KERAS_BACKEND="tensorflow")
sys.modules["sklearn"] = None
import keras, tensorflow as tf
from keras import Input, Model, layers
os.chdir(sys.argv[1])
keras.utils.set_random_seed(0)

steps = Input(batch_shape=(1, 2, 6), name="steps")
x = layers.GRU(5, stateful=True, return_sequences=True, name="first")(steps)
x = layers.LSTM(3, stateful=True, name="second")(x)
Model(steps, layers.Dense(2, name="out")(x)).save("stateful.keras")

class Ring(tf.Module):
    def __init__(self):
        super().__init__()
        self.rows = tf.Variable(tf.random.stateless_normal((1, 3, 8), (1, 2)), name="rows")
        self.weight = tf.Variable(tf.random.stateless_normal((8, 2), (3, 4)))
        self.count = tf.Variable(2.0, name="count")

    def __call__(self, x):
        kept = tf.concat([self.rows[:, 1:], x], 1)
        self.rows.assign(kept)
        self.count.assign_add(1.0)
        return {"y": tf.reduce_mean(kept, 1) @ self.weight * self.count}

ring = Ring()
shape = tf.TensorSpec((1, 1, 8), tf.float32, name="x")
tf.saved_model.save(ring, "ring", signatures=tf.function(ring.__call__).get_concrete_function(shape))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorflow")
    command = [sys.executable, "-c", MAKE_MODELS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
def test_a_saved_model_keeps_its_variables(models: Path, tmp_path: Path) -> None:
    source = load_source(models / "ring", CompileOptions())
    assert {state.input for state in source.states} == {"rows", "count"}, "its weight is a constant"
    assert isinstance(source.original, KeepsState)
    steps = [{"x": np.full((1, 1, 8), n, np.float32)} for n in range(3)]
    first, second, _ = (run["y"] for run in source.original.run_steps(steps, {}))
    assert not np.allclose(first, second)


@pytest.mark.long
@pytest.mark.parametrize("name", ["stateful.keras", "ring"])
def test_a_session_is_tensorflow_run_by_run(name: str, models: Path, tmp_path: Path) -> None:
    quick = CompileOptions(tune="none", threads=1)
    result = compile_model(models / name, detect(), quick, output=tmp_path / "a.edge")
    assert result.evidence["steps"] == 8
    assert result.evidence["reference"].startswith("TensorFlow")
    assert len(result.config.states) == (3 if name == "stateful.keras" else 2)
    assert all(error["max_rel"] < 1e-5 for error in result.evidence["outputs"])
