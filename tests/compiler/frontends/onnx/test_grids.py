"""Models with impossible grids are refused in a sentence that names the node and the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper, save

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.read import read_model

X = np.zeros((1, 2, 4, 4), "uint8")
W = np.arange(18).reshape(1, 2, 3, 3).astype("int8")


def written(nodes: list[NodeProto], constants: dict[str, np.ndarray], path: Path) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def quantised_conv(folder: Path, **changed: np.ndarray) -> Path:
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    one = np.array(0.5, "float32")
    constants = {
        "sx": one, "zx": np.array(3, "uint8"), "w": W, "sw": np.array([0.5], "float32"), "zw": np.array([0], "int8"),
        "sy": one, "zy": np.array(0, "uint8"),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", names, ["y"], name="layer1/conv")
    return written([node], constants | changed, folder / "m.onnx")


def test_a_usual_grid_passes(tmp_path: Path) -> None:
    assert read_model(quantised_conv(tmp_path))[0].graph.node


@pytest.mark.parametrize("value", [0.0, -0.5, np.nan, np.inf])
@pytest.mark.parametrize("scale", ["sx", "sw", "sy"])
def test_scales_that_are_no_positive_numbers(value: float, scale: str, tmp_path: Path) -> None:
    changed = np.full((1,) if scale == "sw" else (), value, "float32")
    with pytest.raises(
        ModelError, match=r"QLinearConv .layer1/conv. has a scale of .*leave this layer in float32"
    ):
        read_model(quantised_conv(tmp_path, **{scale: changed}))


def test_a_channel_without_weights_may_have_no_scale(tmp_path: Path) -> None:
    empty = np.zeros((2, 2, 3, 3), "int8")
    empty[1] = 5
    scales = np.array([0.0, 0.5], "float32")
    read_model(quantised_conv(tmp_path, w=empty, sw=scales, zw=np.zeros(2, "int8")))


def test_mixed_signedness(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="zero point of type int8 for data of type uint8"):
        read_model(quantised_conv(tmp_path, zx=np.array(3, "int8")))
    constants = {"s": np.array(0.5, "float32"), "zu": np.array(1, "uint8"), "zi": np.array(1, "int8")}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "zu"], ["r"], name="a"),
        helper.make_node("QuantizeLinear", ["r", "s", "zu"], ["q"], name="b"),
        helper.make_node("DequantizeLinear", ["q", "s", "zi"], ["y"], name="c"),
    ]
    with pytest.raises(ModelError, match="DequantizeLinear 'c' has a zero point"):
        read_model(written(nodes, constants, tmp_path / "n.onnx"))


@pytest.mark.parametrize("blocks", [True, False])
def test_blocks_of_weights_may_have_scales_of_either_sign(blocks: bool, tmp_path: Path) -> None:
    """As NNCF writes symmetric 4-bit weights."""
    scales = np.array([[-0.5, 0.25]], "float32") if blocks else np.array([-0.5, 0.25], "float32")
    attrs = {"axis": 1, "block_size": 2} if blocks else {"axis": 1}
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], **attrs)
    weights = np.ones((1, 4 if blocks else 2), "int8")
    path = written([node], {"w": weights, "s": scales}, tmp_path / "m.onnx")
    if blocks:
        read_model(path)
        return
    with pytest.raises(ModelError, match=r"has a scale of -0\.5"):
        read_model(path)


def test_a_node_without_outputs_is_no_traceback(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], []),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    constants = {"s": np.array(0.5, "float32"), "z": np.array(0, "uint8")}
    assert read_model(written(nodes, constants, tmp_path / "m.onnx"))[0].graph.node
