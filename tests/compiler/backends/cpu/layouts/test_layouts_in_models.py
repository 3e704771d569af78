"""Operators between convolutions keep the blocked layout, and cost what they should."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect

UNTUNED = CompileOptions(threads=1, tune="none")


class Chain:
    """A model of nodes one after the other, on `[1, channels, height, width]`."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.rng = shape, np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, kind: str, *arrays: np.ndarray, **attributes: object) -> None:
        names = [f"w{len(self.weights) + i}" for i in range(len(arrays))]
        self.weights += [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]
        given = self.nodes[-1].output[0] if self.nodes else "x"
        number = len(self.nodes)
        self.nodes.append(
            helper.make_node(kind, [given, *names], [f"v{number}"], f"{kind}{number}", **attributes)
        )

    def random(self, *shape: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def kernels(self, folder: Path, opset: int = 17) -> list[str]:
        """The operators of the compiled kernels, the model having been found to match ONNX Runtime."""
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        made = helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "chain", [given], [made], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.save(model, folder / "m.onnx")
        compile_model(folder / "m.onnx", detect(), UNTUNED, output=folder / "m.edge")
        config = rt.Artifact.open(folder / "m.edge").config
        return sorted(kernel.op for kernel in config.kernels.values() for _ in kernel.calls)


def test_slopes_a_channel_are_the_tail_of_their_convolution(tmp_path: Path) -> None:
    net = Chain(1, 16, 12, 10)
    for _ in range(3):
        net.add("Conv", net.random(32, 16 if not net.nodes else 32, 3, 3), pads=[1] * 4)
        net.add("PRelu", net.random(32, 1, 1))
    ops = net.kernels(tmp_path)
    assert ops.count("conv2d") == 3
    assert len(ops) <= 5, ops  # beside them the first value's way into blocks and the last one's out of them


def test_the_first_convolution_reads_channels_last(tmp_path: Path) -> None:
    net = Chain(1, 19, 22, 3)
    net.add("Pad", np.array([0, 0, 0, 0, 0, 1, 1, 0]))
    net.add("Transpose", perm=[0, 3, 1, 2])
    net.add("Conv", net.random(24, 3, 3, 3), strides=[2, 2])
    net.add("Relu")
    net.add("Conv", net.random(16, 24, 1, 1))
    net.add("GlobalAveragePool")
    ops = net.kernels(tmp_path)
    assert not {"pad", "transpose"} & set(ops), ops
    assert len(ops) <= 4, ops  # two convolutions, the average, and the way out of its block


@pytest.mark.parametrize("size", [33, 48])
def test_a_factor_that_float32_rounds_still_resizes_in_vectors(tmp_path: Path, size: int) -> None:
    net = Chain(1, 16, size, size)
    net.add("Conv", net.random(21, 16, 1, 1))
    factor = np.float32(257 / size)
    net.add("Upsample", np.array([1, 1, factor, factor], np.float32), mode="linear")
    net.add("Transpose", perm=[0, 2, 3, 1])
    ops = net.kernels(tmp_path, opset=9)
    assert "resize" in ops, (
        ops
    )  # a kernel of its own: gathered channel by channel it would take thrice as long
    assert not {"matmul", "dense"} & set(ops), ops


def test_channels_move_in_blocks(tmp_path: Path) -> None:
    """A shuffle of groups, a slice of channels and channels of zeros between convolutions need no plain tensor."""
    net = Chain(1, 16, 12, 36)
    net.add("Conv", net.random(24, 16, 3, 3), pads=[1] * 4)
    net.add("Reshape", np.array([1, 2, 12, 12, 36]))
    net.add("Transpose", perm=[0, 2, 1, 3, 4])
    net.add("Reshape", np.array([1, 24, 12, 36]))
    net.add("Conv", net.random(40, 24, 1, 1))
    net.add("Slice", np.array([3]), np.array([40]), np.array([1]), np.array([2]))
    net.add("Conv", net.random(20, 19, 1, 1))
    net.add("Pad", np.array([0, 0, 0, 0, 0, 6, 0, 0]), np.array(0, np.float32))
    net.add("Relu")
    net.add("Conv", net.random(32, 26, 1, 1))
    ops = net.kernels(tmp_path)
    assert ops.count("channels") == 3
    assert len(ops) <= 3 + 4 + 2, ops  # beside the convolutions, the ways into blocks and out of them


def test_few_output_channels_are_computed_in_rows(tmp_path: Path) -> None:
    net = Chain(1, 16, 40, 53)
    net.add("Conv", net.random(16, 16, 3, 3), pads=[1] * 4)
    net.add("Conv", net.random(2, 16, 3, 3), net.random(2, 1)[:, 0], pads=[1, 0, 1, 2])
    net.add("Sigmoid")
    ops = net.kernels(tmp_path)
    assert "planar" in ops
    assert len(ops) <= 4, ops  # the way into blocks, a convolution, the way out with its padding, the rows


@pytest.mark.skipif(detect().fp32_lanes != 16, reason="eight channels leave no lanes of this processor idle")
def test_rows_compete_with_winograds_tiles_as_well(tmp_path: Path) -> None:
    """For 24 channels to 8, Winograd's tiles with half of their lanes idle are faster than a change of layout."""
    net = Chain(1, 16, 160, 224)
    net.add("Conv", net.random(24, 16, 3, 3), pads=[1] * 4)
    net.add("Conv", net.random(8, 24, 3, 3), pads=[1] * 4)
    net.add("Conv", net.random(4, 8, 3, 3), pads=[1] * 4)
    ops = net.kernels(tmp_path)
    assert ops.count("conv2d") == 2, ops
    assert ops.count("planar") == 1, ops
