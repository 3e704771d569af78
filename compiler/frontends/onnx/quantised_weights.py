"""Which constants stay integers: the weights and biases that quantised operators read through DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto

QUANTISERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
# Operators with an integer form, and the positions at which they read weights or biases.
READERS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "Add": (0, 1), "Sub": (0, 1),
    "Mul": (0, 1),
}  # fmt: skip
MOVERS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def integer_constants(model: ModelProto) -> frozenset[str]:
    """Names of the results of DequantizeLinear on constants that only operators with an integer form read.

    None in a model whose activations are not quantised: its weights are dequantised when it is compiled.
    """
    nodes = list(_nodes(model.graph))
    if not any(node.op_type in QUANTISERS or _is_quantised(node) for node in nodes):
        return frozenset()
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in nodes:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, position))
    results = {value.name for value in model.graph.output}

    def suits(name: str) -> bool:
        if name in results or not readers.get(name):
            return False
        return all(
            position in READERS.get(node.op_type, ())
            or (node.op_type in MOVERS and position == 0 and suits(node.output[0]))
            for node, position in readers[name]
        )

    made = (node.output[0] for node in nodes if node.op_type == "DequantizeLinear")
    return frozenset(name for name in made if suits(name))


def _is_quantised(node: NodeProto) -> bool:
    """Whether a node computes on quantised tensors itself."""
    return node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "ConvInteger", "MatMulInteger")


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
