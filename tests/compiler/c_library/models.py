"""Small models for C libraries."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.compiler.small_models import model_of


def classifier(batch: int | str = 1) -> ModelProto:
    """A picture to classes; the picture comes out, too."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["classes"]),
        helper.make_node("Identity", ["image"], ["same"]),
    ]
    constants = {
        "w1": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "b1": rng.standard_normal(16).astype(np.float32),
        "w2": rng.standard_normal((32, 16, 3, 3)).astype(np.float32) / 12,
        "w3": rng.standard_normal((32, 10)).astype(np.float32),
    }
    return model_of(nodes, {"image": [batch, 3, 32, 32]}, ["classes", "same"], constants)


def stream() -> ModelProto:
    """Frames to scores, with a state of sums and one that counts frames."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("MatMul", ["frame", "w"], ["a"]),
        helper.make_node("MatMul", ["state", "u"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["stateN"]),
        helper.make_node("MatMul", ["stateN", "v"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["score"]),
    ]
    constants = {
        "w": rng.standard_normal((40, 24)).astype(np.float32) / 6,
        "u": rng.standard_normal((24, 24)).astype(np.float32) / 5,
        "v": rng.standard_normal((24, 3)).astype(np.float32),
    }
    return model_of(nodes, {"frame": [1, 40], "state": [1, 24]}, ["score", "stateN"], constants)


def repeating() -> ModelProto:
    """A model that repeats a step as often as an input says."""
    value = helper.make_tensor_value_info
    kinds = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["s", "s"], ["t"])],
        "body",
        [value("i", kinds[1], []), value("go", kinds[2], []), value("s", kinds[0], [4])],
        [value("on", kinds[2], []), value("t", kinds[0], [4])],
    )
    node = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body, name="again")
    return model_of([node], {"x": [4], "times": (TensorProto.INT64, [])}, ["y"])
