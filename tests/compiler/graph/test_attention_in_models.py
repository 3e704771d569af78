"""Attention as exporters write it becomes one kernel, and computes what ONNX Runtime does."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect

TOKENS, HEADS, WIDTH = 21, 3, 24


class Net:
    """An ONNX graph over `x` of `[1, TOKENS, HEADS * WIDTH]`, node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.rng = np.random.default_rng(0)

    def const(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, value: float) -> str:
        return self.const(np.float32(value))

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], f"{kind}{len(self.nodes)}", **attributes))
        return name

    def linear(self, x: str, width: int) -> str:
        scale = 2 / math.sqrt(HEADS * WIDTH)
        weight = self.rng.standard_normal((HEADS * WIDTH, width)).astype(np.float32) * np.float32(scale)
        return self.op("MatMul", x, self.const(weight))

    def heads(self, x: str, order: tuple[int, ...] = (0, 2, 1, 3)) -> str:
        shape = self.const(np.array([1, TOKENS, HEADS, WIDTH]))
        return self.op("Transpose", self.op("Reshape", x, shape), perm=list(order))

    def joined(self, x: str) -> str:
        back = self.op("Transpose", x, perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", back, self.const(np.array([1, TOKENS, HEADS * WIDTH]))), WIDTH)

    def compiled(
        self, folder: Path, outputs: list[str], *inputs: tuple[str, tuple[int, ...]]
    ) -> rt.ArtifactConfig:
        """The artifact's config, its results having been found to match ONNX Runtime's."""
        given = [("x", (1, TOKENS, HEADS * WIDTH)), *inputs]
        takes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in given]
        gives = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "attention", takes, gives, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "m.onnx")
        options = CompileOptions(threads=1, tune="none")
        compile_model(folder / "m.onnx", detect(), options, output=folder / "m.edge")
        return rt.Artifact.open(folder / "m.edge").config


def ops(config: rt.ArtifactConfig) -> list[str]:
    """The kernels, but for the copy of the last rows into the result's shape."""
    found = sorted(kernel.op for kernel in config.kernels.values() for _ in kernel.calls)
    return [op for op in found if op != "reshape"]


def separate(net: Net) -> tuple[str, str, str]:
    return tuple(net.heads(net.linear("x", HEADS * WIDTH)) for _ in range(3))  # type: ignore[return-value]


def test_bert_with_a_mask_that_comes_in(tmp_path: Path) -> None:
    net = Net()
    q, k, v = separate(net)
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Div", scores, net.number(math.sqrt(WIDTH)))
    weights = net.op("Softmax", net.op("Add", scores, "mask"), axis=-1)
    out = net.joined(net.op("MatMul", weights, v))
    config = net.compiled(tmp_path, [out], ("mask", (1, 1, 1, TOKENS)))
    assert ops(config) == ["attention", *["dense"] * 4]
    (kernel,) = (kernel for kernel in config.kernels.values() if kernel.op == "attention")
    for node in ("MatMul10", "Div11", "Add12", "Softmax13", "MatMul14", "Transpose15"):
        assert node in kernel.nodes, kernel.nodes


def test_vit_with_one_projection_split_in_three(tmp_path: Path) -> None:
    net = Net()
    rows = net.linear("x", 3 * HEADS * WIDTH)
    parts = net.op("Reshape", rows, net.const(np.array([1, TOKENS, 3, HEADS, WIDTH])))
    parts = net.op("Transpose", parts, perm=[2, 0, 3, 1, 4])
    names = ["a", "b", "c"]
    net.nodes.append(
        helper.make_node("Split", [parts, net.const(np.array([1, 1, 1]))], names, "split", axis=0)
    )
    q, k, v = (net.op("Squeeze", name, net.const(np.array([0]))) for name in names)
    scaled = net.op("Mul", q, net.number(WIDTH**-0.5))
    weights = net.op("Softmax", net.op("MatMul", scaled, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    config = net.compiled(tmp_path, [net.joined(net.op("MatMul", weights, v))])
    assert ops(config) == ["attention", "dense", "dense"]


def test_pytorch_s_own_with_a_causal_mask_and_a_scale_on_both_sides(tmp_path: Path) -> None:
    net = Net()
    q, v = (net.heads(net.linear("x", HEADS * WIDTH)) for _ in range(2))
    k = net.heads(net.linear("x", HEADS * WIDTH), (0, 2, 3, 1))
    root = net.number(WIDTH**-0.25)
    scores = net.op("MatMul", net.op("Mul", q, root), net.op("Mul", k, root))
    causal = np.triu(np.full((TOKENS, TOKENS), -np.inf, np.float32), 1)
    weights = net.op("Softmax", net.op("Add", scores, net.const(causal)), axis=-1)
    config = net.compiled(tmp_path, [net.joined(net.op("MatMul", weights, v))])
    assert ops(config) == ["attention", *["dense"] * 4]


def test_two_masks_and_a_bias_for_each_head(tmp_path: Path) -> None:
    net = Net()
    q, k, v = separate(net)
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    bias = net.rng.standard_normal((HEADS, TOKENS, TOKENS)).astype(np.float32)
    scores = net.op("Add", net.op("Add", net.const(bias), scores), "mask")
    out = net.joined(net.op("MatMul", net.op("Softmax", scores, axis=-1), v))
    config = net.compiled(tmp_path, [out], ("mask", (1, 1, TOKENS, TOKENS)))
    assert "attention" in ops(config)
    assert "softmax" not in ops(config)


@pytest.mark.parametrize(
    "heads", [HEADS, TOKENS]
)  # with as many as tokens, a wrong order of the axes would fit
def test_one_attention_reads_the_transposed_result_of_another(tmp_path: Path, heads: int) -> None:
    net = Net()
    x = net.op("Reshape", net.linear("x", heads * 8), net.const(np.array([1, TOKENS, heads, 8])))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3])
    for _ in range(2):
        weights = net.op("Softmax", net.op("MatMul", x, net.op("Transpose", x, perm=[0, 1, 3, 2])), axis=-1)
        once = net.op("Transpose", net.op("MatMul", weights, x), perm=[0, 2, 1, 3])
        x = net.op("Transpose", once, perm=[0, 2, 1, 3])
    assert ops(net.compiled(tmp_path, [x])).count("attention") == 2


@pytest.mark.parametrize(
    "why", ["weights are an output", "scores are an output", "another axis", "mask is scaled"]
)
def test_what_is_not_one_attention_stays_apart_and_matches(tmp_path: Path, why: str) -> None:
    net = Net()
    q, k, v = separate(net)
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    shown = net.op("Add", scores, net.const(net.rng.standard_normal(TOKENS).astype(np.float32)))
    if why == "mask is scaled":
        shown = net.op("Mul", shown, net.number(0.5))
    weights = net.op("Softmax", shown, axis=2 if why == "another axis" else -1)
    out = net.joined(net.op("MatMul", weights, v))
    more = {"weights are an output": [weights], "scores are an output": [shown]}.get(why, [])
    found = ops(net.compiled(tmp_path, [out, *more]))
    assert "attention" not in found
    assert "softmax" in found
