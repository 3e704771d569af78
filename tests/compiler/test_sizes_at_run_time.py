"""Operators on tensors whose sizes are known only at run time: native, and right at several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.options import Bounds, CompileOptions
from tests.compiler.onnx_models import build, model_of, save

RNG = np.random.default_rng(3)
N, H, W = Bounds(1, 3), Bounds(4, 9), Bounds(4, 12)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    named = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, named, outputs.split(), **attributes)


def recurrent() -> tuple[ModelProto, dict[str, Any]]:
    nodes = [
        node("LSTM", "x w r b - h c", "y0 y1 y2", hidden_size=4, direction="bidirectional"),
        node("LSTM", "x w r b n", "y3", hidden_size=4, direction="bidirectional"),
        node("GRU", "x gw gr gb", "y4 y5", hidden_size=4, linear_before_reset=1),
        node("Transpose", "x", "first", perm=[1, 0, 2]),
        node("GRU", "first gw gr", "y6", hidden_size=4, direction="reverse", layout=0),
        node("RNN", "x rw rr", "y7", hidden_size=4),
    ]
    constants = {"w": real(2, 16, 3), "r": real(2, 16, 4), "b": real(2, 32)}
    constants |= {"gw": real(1, 12, 3), "gr": real(1, 12, 4), "gb": real(1, 24)}
    constants |= {"rw": real(1, 4, 3), "rr": real(1, 4, 4)}
    inputs: dict[str, Any] = {"x": ["t", "n", 3], "h": [2, "n", 4], "c": [2, "n", 4]}
    inputs["n"] = (TensorProto.INT32, ["n"])
    shapes = {"x": (H, N, 3), "h": (2, N, 4), "c": (2, N, 4), "n": (N,)}
    return model_of(nodes, inputs, [f"y{i}" for i in range(8)], constants), shapes


def indexed() -> tuple[ModelProto, dict[str, Any]]:
    nodes = [
        node("GatherElements", "x i", "y0", axis=1),
        node("ScatterElements", "x i u", "y1", axis=1),
        node("ScatterElements", "x i u", "y2", axis=1, reduction="add"),
        node("Unsqueeze", "i last", "wide"),
        node("GatherND", "x wide", "y3", batch_dims=1),
        node("ScatterND", "x pairs u2", "y4"),
        node("CumSum", "x one", "y5", reverse=1),
        node("CumSum", "x zero", "y6", exclusive=1),
        node("OneHot", "i depth values", "y7", axis=1),
        node("Mod", "i m", "y8"),
        node("Hardmax", "x", "y9", axis=1),
        node("ArgMax", "x", "y10", axis=1, select_last_index=1),
        node("PRelu", "x slope", "y11"),
        node("EyeLike", "x", "y12", k=1),
        node("Trilu", "x", "y13"),
    ]
    constants: dict[str, np.ndarray] = {"last": np.array([-1]), "pairs": np.array([[0, 1], [0, 3]])}
    constants |= {"u2": real(2), "one": np.array(1), "zero": np.array(0), "depth": np.array(5)}
    constants |= {"values": np.array([-1, 2], "float32"), "m": np.array([3]), "slope": real(1)}
    inputs: dict[str, Any] = {"x": ["n", "w"], "i": (TensorProto.INT64, ["n", "k"]), "u": ["n", "k"]}
    shapes = {"x": (N, W), "i": (N, Bounds(1, 4)), "u": (N, Bounds(1, 4))}
    return model_of(nodes, inputs, [f"y{i}" for i in range(14)], constants, opset=16), shapes


def images() -> tuple[ModelProto, dict[str, Any]]:
    cubic = {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}
    nodes = [
        node("Resize", "x - twice", "y0", **cubic),
        node("Resize", "x - shrunk", "y1", **{**cubic, "exclude_outside": 1, "cubic_coeff_a": -0.5}),
        node("Resize", "x - - to", "y2", mode="linear", coordinate_transformation_mode="align_corners"),
        node("PRelu", "x slope", "y3"),
        node("LpPool", "x", "y4", kernel_shape=[2, 2], strides=[2, 1], p=2),
        node("LayerNormalization", "x gain", "y5", axis=1),
        node("QuantizeLinear", "x scale point", "q"),
        node("QLinearConv", "q scale point qw ws wz scale point bias", "q1", pads=[1, 1, 1, 1]),
        node("DequantizeLinear", "q1 scale point", "y6"),
        node("ConvInteger", "q qw point wz", "y7"),
    ]
    constants = {"twice": np.array([1, 1, 2, 2], "float32"), "shrunk": np.array([1, 1, 0.7, 1.3], "float32")}
    constants |= {"to": np.array([1, 2, 6, 5]), "slope": real(2, 1, 1), "gain": np.float32([1.5])}
    constants |= {
        "scale": np.float32(0.05),
        "point": np.uint8(120),
        "ws": np.float32(0.1371),
        "wz": np.int8(0),
    }
    constants |= {
        "qw": RNG.integers(-9, 9, (3, 2, 3, 3)).astype("int8"),
        "bias": np.array([5, -7, 90], "int32"),
    }
    shapes = {"x": (1, 2, H, W)}
    return model_of(nodes, {"x": [1, 2, "h", "w"]}, [f"y{i}" for i in range(8)], constants), shapes


def signals() -> tuple[ModelProto, dict[str, Any]]:
    nodes = [
        node("STFT", "x step window", "y0"),
        node("STFT", "x step - length", "y1", onesided=0),
        node("DFT", "z", "y2", axis=1, onesided=1),
        node("Col2Im", "c image block", "y3"),
        node("QuantizeLinear", "z scale point", "q"),
        node("MatMulInteger", "q right point", "y4"),
    ]
    constants: dict[str, np.ndarray] = {"step": np.array(4), "window": np.hanning(8).astype("float32")}
    constants |= {"length": np.array(8), "image": np.array([4, 5]), "block": np.array([2, 2])}
    constants |= {"scale": np.float32(0.05), "point": np.uint8(120), "right": np.array([[3, -7, 5]], "int8")}
    inputs = {"x": ["n", "t", 1], "z": ["n", 6, 1], "c": ["n", 8, 12]}
    shapes = {"x": (N, Bounds(10, 30), 1), "z": (N, 6, 1), "c": (N, 8, 12)}
    return model_of(nodes, inputs, [f"y{i}" for i in range(5)], constants, opset=18), shapes


def normalised() -> tuple[ModelProto, dict[str, Any]]:
    """The number of channels is known only at run time, too."""
    nodes = [
        node("Abs", "raw", "variance"),
        node("BatchNormalization", "x gain shift mean variance", "y0"),
        node("BatchNormalization", "x gain shift mean variance", "y1 y2 y3", training_mode=1, momentum=0.75),
        node("InstanceNormalization", "x gain shift", "y4"),
    ]
    vectors = ("gain", "shift", "mean", "raw")
    inputs: dict[str, Any] = {"x": ["n", "h", 5, "w"], **{name: ["h"] for name in vectors}}
    return model_of(nodes, inputs, [f"y{i}" for i in range(5)], {}), {
        "x": (N, H, 5, W),
        **{name: (H,) for name in vectors},
    }


@pytest.mark.parametrize("family", [recurrent, indexed, images, signals, normalised])
def test_every_size_is_right_and_native(family: Any, tmp_path: Path) -> None:
    model, shapes = family()
    for output in model.graph.output:
        output.ClearField("type")
    options = CompileOptions(tune="none", threads=1, input_shapes=shapes)
    imported, artifact = build(save(model, tmp_path), tmp_path, options)
    assert not imported.segments, [segment.nodes for segment in imported.segments]
    session = ort.InferenceSession(model.SerializeToString())
    with rt.load(artifact, threads=1) as loaded:
        for pick in ((1, 4, 4), (3, 9, 12), (2, 5, 7)):
            inputs = {port.name: given(port, pick) for port in model.graph.input}
            got = loaded.run(inputs)
            for port, wanted in zip(model.graph.output, session.run(None, inputs), strict=True):
                assert got[port.name].dtype == wanted.dtype, port.name
                np.testing.assert_allclose(got[port.name], wanted, rtol=1e-4, atol=1e-4, err_msg=port.name)


def given(port: Any, pick: tuple[int, int, int]) -> np.ndarray:
    """Random values of the sizes that are picked for the names of axes."""
    n, h, w = pick
    sizes = {"n": n, "h": h, "w": w, "k": n + 1, "t": 6 + 2 * w if port.name == "x" else h}
    if len(port.type.tensor_type.shape.dim) == 3 and port.type.tensor_type.shape.dim[0].dim_param == "t":
        sizes["t"] = h
    shape = [d.dim_value or sizes[d.dim_param] for d in port.type.tensor_type.shape.dim]
    kind = port.type.tensor_type.elem_type
    if kind == TensorProto.INT32:
        return np.minimum(np.arange(1, shape[0] + 1), h).astype("int32")
    if kind == TensorProto.INT64:  # each row without repetitions
        return np.stack([RNG.permutation(4)[: shape[1]] for _ in range(shape[0])]).astype("int64")
    return real(*shape)
