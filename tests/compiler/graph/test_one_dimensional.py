"""Convolutions over one axis: through the templates for images, and what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.compiler.onnx_models import both, build, model_of, save

CASES = [  # channels in, out, length, kernel, stride, dilation, pads, groups
    (1, 6, 64, 16, 8, 1, (0, 0), 1),
    (5, 21, 19, 3, 2, 1, (1, 1), 1),
    (16, 32, 33, 3, 1, 4, (8, 0), 1),
    (12, 12, 17, 5, 1, 1, (2, 2), 12),
    (512, 48, 1, 1, 1, 1, (0, 0), 1),
]


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_with_what_follows_it(case: tuple, tmp_path: Path) -> None:
    ic, oc, length, kernel, stride, dilation, pads, groups = case
    rng = np.random.default_rng(0)
    constants = {
        "w": (rng.standard_normal((oc, ic // groups, kernel)) / np.sqrt(ic // groups * kernel)).astype("f4"),
        "b": rng.standard_normal(oc).astype("f4"),
        "v": (rng.standard_normal((7, oc, 1)) / np.sqrt(oc)).astype("f4"),
        "s": rng.standard_normal((oc, 1)).astype("f4"),
    }
    nodes = [
        helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["c"],
            strides=[stride],
            dilations=[dilation],
            pads=list(pads),
            group=groups,
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Mul", ["r", "s"], ["m"]),
        helper.make_node("Add", ["m", "c"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=1),
        helper.make_node("ReduceMean", ["a"], ["z"], axes=[2]),
    ]
    model = model_of(nodes, {"x": [2, ic, length]}, ["y", "z"], constants)
    x = rng.standard_normal((2, ic, length)).astype("f4")
    wanted, made = both(model, {"x": x}, tmp_path)
    for ours, theirs in zip(made, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * max(1.0, float(np.abs(theirs).max())))


def test_pooling_and_an_input_that_is_also_a_result_of_other_ranks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((8, 4, 3)).astype("f4")}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[3], strides=[2], pads=[1, 1]),
        helper.make_node("AveragePool", ["p"], ["q"], kernel_shape=[2], strides=[1], pads=[0, 1]),
        helper.make_node("Conv", ["q", "w"], ["c"]),
        helper.make_node("Transpose", ["q"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["c", "c"], ["y"], axis=1),
    ]
    model = model_of(nodes, {"x": [1, 4, 21]}, ["y", "t"], constants)
    x = rng.standard_normal((1, 4, 21)).astype("f4")
    wanted, made = both(model, {"x": x}, tmp_path)
    for ours, theirs in zip(made, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_no_kernel_is_left_to_the_general_schedule(tmp_path: Path) -> None:
    constants = {"w": np.ones((32, 16, 3), "f4")}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    _, artifact = build(save(model_of(nodes, {"x": [1, 16, 40]}, ["y"], constants), tmp_path), tmp_path)
    import edgec.runtime as rt

    kinds = {kernel.op for kernel in rt.Artifact.open(artifact).config.kernels.values()}
    assert "conv2d" in kinds
    assert not kinds & {"conv1d", "relu"}
