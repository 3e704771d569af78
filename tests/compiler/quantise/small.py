"""A small network with every kind of node that quantisation knows, and data for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, helper

from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import CompileOptions
from tests.compiler.small_models import model_of, save

CLASSES = 5


def network(seed: int = 0, sensitive: float = 1.0) -> ModelProto:
    """Convolutions, a depthwise one, an addition, pooling, a concatenation and a product.

    `sensitive` stretches one weight of the second convolution's filters: its channels then need more than 8 bits.
    """
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype("f4")

    constants = {
        "w0": weights(8, 3, 3, 3), "b0": rng.normal(size=8).astype("f4"),
        "w1": weights(8, 1, 3, 3), "b1": rng.normal(size=8).astype("f4"),
        "w2": weights(8, 8, 1, 1), "w3": weights(8, 16, 1, 1),
        "m": (rng.standard_normal((8, CLASSES)) / 2).astype("f4"), "c": rng.normal(size=CLASSES).astype("f4"),
    }  # fmt: skip
    constants["w1"][:, 0, 0, 0] *= sensitive
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], pads=[1] * 4, name="first"),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("Conv", ["ar", "w1", "b1"], ["d"], pads=[1] * 4, group=8, name="depthwise"),
        helper.make_node("Relu", ["d"], ["dr"]),
        helper.make_node("Conv", ["dr", "w2"], ["e"], name="pointwise"),
        helper.make_node("Add", ["e", "ar"], ["s"]),
        helper.make_node("Relu", ["s"], ["sr"]),
        helper.make_node("MaxPool", ["sr"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AveragePool", ["ar"], ["q"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p", "q"], ["j"], axis=1),
        helper.make_node("Conv", ["j", "w3"], ["k"], name="join"),
        helper.make_node("GlobalAveragePool", ["k"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "m", "c"], ["y"], name="classes"),
    ]
    return model_of(nodes, {"x": [1, 3, 16, 16]}, ["y"], constants)


def pictures(count: int, seed: int = 1) -> np.ndarray:
    """Smooth random pictures `[count, 1, 3, 16, 16]`."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 1, 3, 4, 4)).repeat(4, axis=3).repeat(4, axis=4)
    return (coarse + rng.normal(0, 0.1, (count, 1, 3, 16, 16))).astype("f4")


def source_in(folder: Path, model: ModelProto | None = None) -> SourceModel:
    """The prepared network."""
    return load_source(save(model or network(), folder), CompileOptions())


def npz(folder: Path, arrays: np.ndarray, **more: np.ndarray) -> Path:
    """An `.npz` file of examples for the network."""
    path = folder / "examples.npz"
    np.savez(path, x=arrays, **more)
    return path
