"""What follows a product of rank 3 is part of its kernel: bias, GELU and residual, whatever shapes stand between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

import edgec.runtime as rt
from tests.compiler.onnx_models import both, build, model_of, save


def feed_forward() -> object:
    rng = np.random.default_rng(0)
    constants = {
        "up": (rng.standard_normal((24, 40)) / 5).astype("f4"),
        "b1": rng.standard_normal(40).astype("f4"),
        "root": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.array([0.5], "f4"),
        "down": (rng.standard_normal((40, 24)) / 6).astype("f4"),
        "b2": rng.standard_normal((1, 1, 24)).astype("f4"),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["m"]),
        helper.make_node("Add", ["b1", "m"], ["h"]),
        helper.make_node("Div", ["h", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["p"]),
        helper.make_node("Mul", ["h", "p"], ["q"]),
        helper.make_node("Mul", ["q", "half"], ["g"]),
        helper.make_node("MatMul", ["g", "down"], ["n"]),
        helper.make_node("Add", ["n", "b2"], ["o"]),
        helper.make_node("Add", ["x", "o"], ["y"]),
    ]
    return model_of(nodes, {"x": [2, 7, 24]}, ["y"], constants)


def test_two_kernels_are_left_of_ten_operators(tmp_path: Path) -> None:
    model = feed_forward()
    x = np.random.default_rng(1).standard_normal((2, 7, 24)).astype("f4")
    wanted, made = both(model, {"x": x}, tmp_path)
    np.testing.assert_allclose(made[0], wanted[0], rtol=0, atol=1e-5)
    _, artifact = build(save(model, tmp_path), tmp_path)
    kernels = rt.Artifact.open(artifact).config.kernels.values()
    assert [kernel.op for kernel in kernels if kernel.op != "reshape"] == ["dense", "dense"]


def test_operands_that_vary_along_other_axes_still_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": (rng.standard_normal((6, 5)) / 3).astype("f4"),
        "per_row": rng.standard_normal((1, 4, 1)).astype("f4"),
        "per_batch": rng.standard_normal((3, 1, 1)).astype("f4"),
        "wider": rng.standard_normal((2, 3, 4, 5)).astype("f4"),
        "shape": np.array([3, 2, 10], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Mul", ["m", "per_row"], ["a"]),
        helper.make_node("Add", ["m", "per_batch"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["c"]),
        helper.make_node("Add", ["m", "wider"], ["y"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["r", "shape"], ["s"]),
    ]
    model = model_of(nodes, {"x": [3, 4, 6]}, ["y", "c", "t", "s"], constants)
    x = rng.standard_normal((3, 4, 6)).astype("f4")
    wanted, made = both(model, {"x": x}, tmp_path)
    for ours, theirs in zip(made, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
