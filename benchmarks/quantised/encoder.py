"""A small layer of a transformer, spelled as exporters do: attention, layer normalisation, GELU."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

TOKENS, WIDTH, HEADS, HIDDEN = 24, 64, 4, 128


class _Graph:
    """Nodes and constants, named in order."""

    def __init__(self) -> None:
        self.nodes, self.constants, self.rng = [], [], np.random.default_rng(0)  # type: ignore[var-annotated]

    def op(self, kind: str, *inputs: str, **attrs: object) -> str:
        """The name of a node's output."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attrs))
        return name

    def constant(self, array: object, dtype: str = "float32") -> str:
        """The name of a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def dense(self, x: str, inner: int, outer: int) -> str:
        """A product with random weights and a bias."""
        weight = self.constant(self.rng.normal(0, inner**-0.5, (inner, outer)))
        return self.op("Add", self.op("MatMul", x, weight), self.constant(self.rng.normal(0, 0.1, outer)))

    def heads(self, x: str, order: list[int]) -> str:
        """`[1, tokens, width]` by heads, in an order of axes."""
        apart = self.op("Reshape", x, self.constant([1, TOKENS, HEADS, WIDTH // HEADS], "int64"))
        return self.op("Transpose", apart, perm=order)

    def normalised(self, x: str) -> str:
        """Layer normalisation with gain and shift."""
        gain, shift = self.rng.normal(1, 0.1, WIDTH), self.rng.normal(0, 0.1, WIDTH)
        return self.op("LayerNormalization", x, self.constant(gain), self.constant(shift), axis=-1)


def encoder() -> ModelProto:
    """The layer, `x` of `[1, TOKENS, WIDTH]` to `y` of the same shape."""
    g = _Graph()
    q, k, v = (g.dense("x", WIDTH, WIDTH) for _ in range(3))
    scores = g.op("MatMul", g.heads(q, [0, 2, 1, 3]), g.heads(k, [0, 2, 3, 1]))
    scores = g.op("Mul", scores, g.constant((WIDTH // HEADS) ** -0.5))
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), g.heads(v, [0, 2, 1, 3]))
    mixed = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = g.op("Reshape", mixed, g.constant([1, TOKENS, WIDTH], "int64"))
    y = g.normalised(g.op("Add", g.dense(mixed, WIDTH, WIDTH), "x"))
    wide = g.dense(y, WIDTH, HIDDEN)
    erf = g.op("Add", g.op("Erf", g.op("Div", wide, g.constant(2**0.5))), g.constant(1))
    gelu = g.op("Mul", g.op("Mul", wide, erf), g.constant(0.5))
    out = g.normalised(g.op("Add", g.dense(gelu, HIDDEN, WIDTH), y))
    shape = [1, TOKENS, WIDTH]
    graph = helper.make_graph(
        g.nodes, "encoder", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, shape)], g.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
