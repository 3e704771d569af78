"""Sizes within bounds: one artifact is right for each of them, and refuses others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper

import edgec.runtime as rt
from edgec.cli.arguments import parse_shapes
from edgec.compiler.options import Bounds, CompileOptions
from edgec.runtime import InputError
from edgec.targets import UsageError
from tests.compiler.onnx_models import build, model_of, save

RNG = np.random.default_rng(5)
SHAPE = (Bounds(1, 4), 3, Bounds(8, 20), Bounds(8, 24))


def net() -> ModelProto:
    """Convolutions, pools, an upsampled branch and a flattened one, whose sizes all follow from the input's."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["c", "", "twice"], ["d"], mode="linear"),
        helper.make_node("Shape", ["d"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "ends"], ["plane"]),
        helper.make_node("Concat", ["batch", "plane"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["d", "wanted"], ["e"]),
        helper.make_node("Softmax", ["e"], ["y"], axis=-1),
        helper.make_node("GlobalAveragePool", ["b"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "bias"], ["z"]),
    ]
    constants = {
        "w": RNG.standard_normal((8, 3, 3, 3)).astype("float32"),
        "v": RNG.standard_normal((8, 5)).astype("float32"),
        "bias": RNG.standard_normal(5).astype("float32"),
        "twice": np.array([1, 1, 2, 2], "float32"),
        "ends": np.array([2, 3]),
        "batch": np.array([0, -1]),
    }
    return model_of(nodes, {"x": ["n", 3, "h", "w_"]}, ["y", "z"], constants)


def test_every_size_within_the_bounds_is_right_and_others_are_refused(tmp_path: Path) -> None:
    model = net()
    options = CompileOptions(tune="none", threads=1, input_shapes={"x": SHAPE})
    imported, artifact = build(save(model, tmp_path), tmp_path, options)
    assert not imported.segments
    session = ort.InferenceSession(model.SerializeToString())
    with rt.load(artifact, threads=1) as loaded:
        assert loaded.inputs[0].sizes() == ["1..4", "3", "8..20", "8..24"]
        for shape in ((1, 3, 8, 8), (4, 3, 20, 24), (3, 3, 13, 17), (1, 3, 9, 24), (2, 3, 16, 8)):
            x = RNG.standard_normal(shape).astype("float32")
            expected = session.run(["y", "z"], {"x": x})
            got = loaded.run({"x": x})
            for name, value in zip(("y", "z"), expected, strict=True):
                np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
        for shape in ((5, 3, 8, 8), (1, 3, 7, 8), (1, 3, 8, 25), (1, 4, 8, 8)):
            with pytest.raises(InputError, match=r"\[1\.\.4, 3, 8\.\.20, 8\.\.24\] was given as"):
                loaded.run({"x": np.zeros(shape, "float32")})


def test_sizes_of_one_name_are_the_same(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    model = model_of(nodes, {"x": ["n", 3], "z": ["n", 3]}, ["y"])
    shapes = {"x": (Bounds(2, 6), 3), "z": (Bounds(2, 6), 3)}
    options = CompileOptions(tune="none", threads=1, input_shapes=shapes)
    _, artifact = build(save(model, tmp_path), tmp_path, options)
    with rt.load(artifact, threads=1) as loaded:
        one = np.ones((4, 3), "float32")
        np.testing.assert_array_equal(loaded.run({"x": one, "z": one})["y"], 2 * one)
        with pytest.raises(InputError, match="do not fit"):
            loaded.run({"x": one, "z": np.ones((5, 3), "float32")})


def test_bounds_on_the_command_line() -> None:
    assert parse_shapes(["x:1..8x3x240..1080x5"]) == {"x": (Bounds(1, 8), 3, Bounds(240, 1080), 5)}
    assert parse_shapes(["a:b:2..2x0", "r:scalar"]) == {"a:b": (2, 0), "r": ()}
    for wrong in ("x:8..1", "x:0..4", "x:1..", "x:1...4"):
        with pytest.raises(UsageError):
            parse_shapes([wrong])


def test_the_largest_along_one_axis_of_three_free_ones_on_two_threads(tmp_path: Path) -> None:
    nodes = [helper.make_node("Hardmax", ["x"], ["y"], axis=0)]
    model = model_of(nodes, {"x": ["a", "b", "c"]}, ["y"])
    options = CompileOptions(tune="none", threads=2, input_shapes={"x": (Bounds(1, 4),) * 3})
    _, artifact = build(save(model, tmp_path), tmp_path, options)
    x = RNG.standard_normal((3, 2, 4)).astype("float32")
    with rt.load(artifact, threads=2) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x})["y"].argmax(0), x.argmax(0))


def test_products_of_rows_within_bounds_have_tiles_and_are_right(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["bias", "a"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["d"]),
        helper.make_node("Add", ["d", "c0"], ["e"]),
        helper.make_node("Tanh", ["e"], ["y"]),
        helper.make_node("Add", ["d", "bias"], ["z"]),
    ]
    constants = {
        "w": RNG.standard_normal((24, 40)).astype("float32"),
        "bias": RNG.standard_normal(40).astype("float32"),
        "v": RNG.standard_normal((40, 40)).astype("float32"),
        "c0": RNG.standard_normal((1, 1)).astype("float32"),
    }
    model = model_of(nodes, {"x": ["n", "t", 24]}, ["y", "z"], constants)
    shapes = {"x": (Bounds(1, 3), Bounds(1, 30), 24)}
    options = CompileOptions(tune="none", threads=2, input_shapes=shapes)
    _, artifact = build(save(model, tmp_path), tmp_path, options)
    session = ort.InferenceSession(model.SerializeToString())
    with rt.load(artifact, threads=2) as loaded:
        schedules = [kernel.schedule for kernel in loaded.config.kernels.values() if kernel.op == "matmul"]
        assert len(schedules) == 2
        assert all("of free rows" in schedule for schedule in schedules)
        for batch, steps in ((1, 1), (3, 30), (2, 13), (1, 12), (3, 5)):
            x = RNG.standard_normal((batch, steps, 24)).astype("float32")
            got = loaded.run({"x": x})
            for name, value in zip(("y", "z"), session.run(["y", "z"], {"x": x}), strict=True):
                np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-4)
