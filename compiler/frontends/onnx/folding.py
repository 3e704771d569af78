"""Fold shape arithmetic with the standard's own evaluator, where ONNX Runtime cannot.

ONNX Runtime folds nothing in a model with a single operator that it lacks (in bfloat16, say); sizes that follow from
the input shapes would then seem to depend on the data.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.onnx.shape_inference import infer_shapes

Array: TypeAlias = npt.NDArray[Any]
MOST_ELEMENTS = 1 << 16  # of a folded value; the largest that follow from shapes are attention masks
# Operators whose result has no more elements than the product of its inputs' sizes.
BOUNDED = frozenset(
    {"Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "CumSum", "Div", "Equal", "Floor", "Gather"}
    | {
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
    }
    | {"Or", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Slice", "Split", "Sqrt"}
    | {"Squeeze", "Sub", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor"}
)
# Operators whose result may be of any size, which its inferred shape then has to bound.
GROWING = frozenset({"ConstantOfShape", "Expand", "Pad", "Range", "Tile"})


def fold_shapes(model: ModelProto) -> ModelProto:
    """The model with inferred shapes, and with all that follows from constants and shapes replaced by its value."""
    while True:
        model = infer_shapes(model)
        if not _Round(model).run():
            return model


class _Round:
    """One round of folding with the shapes known so far; what it makes known is left to the next round."""

    def __init__(self, model: ModelProto) -> None:
        self.graph: GraphProto = model.graph
        self.opsets = list(model.opset_import)
        self.types = {v.name: v for v in (*self.graph.value_info, *self.graph.input, *self.graph.output)}
        small = [t for t in self.graph.initializer if math.prod(t.dims) <= MOST_ELEMENTS]
        self.known: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in small}

    def run(self) -> bool:
        """Replace nodes by their values, in place; returns whether any were replaced."""
        made: dict[str, Array] = {}
        left: list[NodeProto] = []
        for node in self.graph.node:
            values = self._values(node)
            if values is None:
                left.append(NodeProto.FromString(node.SerializeToString()))
            else:
                self.known |= values
                made |= values
        read = {name for node in left for name in free_names(node)} | {v.name for v in self.graph.output}
        for name in sorted(made.keys() & read):
            self.graph.initializer.append(numpy_helper.from_array(made[name], name))
        progress = len(left) < len(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend(left)
        return progress

    def _values(self, node: NodeProto) -> dict[str, Array] | None:
        """A node's outputs where they follow from what is known, else None."""
        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            return self._evaluated(node)
        if node.op_type in ("Shape", "Size"):
            sizes = _static_sizes(self.types.get(node.input[0]))
            return None if sizes is None else self._evaluated(node, _hollow(sizes))
        given = [name for name in node.input if name]
        if not given or any(name not in self.known for name in given) or not self._is_small(node, given):
            return None
        return self._evaluated(node)

    def _is_small(self, node: NodeProto, given: list[str]) -> bool:
        if node.op_type in BOUNDED:
            return math.prod(max(1, self.known[name].size) for name in given) <= MOST_ELEMENTS
        sizes = _static_sizes(self.types.get(node.output[0])) if node.op_type in GROWING else None
        return sizes is not None and math.prod(sizes) <= MOST_ELEMENTS

    def _evaluated(self, node: NodeProto, first: Array | None = None) -> dict[str, Array] | None:
        given = {name: self.known[name] for name in node.input if name in self.known}
        if first is not None:
            given[node.input[0]] = first
        results = [ValueInfoProto(name=name) for name in node.output if name]
        inputs = [ValueInfoProto(name=name) for name in given]
        alone = helper.make_graph([node], "folded", inputs, results)
        try:
            return Standard(helper.make_model(alone, opset_imports=self.opsets)).run(given)
        except ModelError:
            return None  # the evaluator supports fewer types than the standard: the node stays


def _hollow(sizes: list[int]) -> Array:
    """An array of a shape that takes no memory, as all elements are the same one."""
    return np.broadcast_to(np.zeros((), np.int8), sizes)


def _static_sizes(value: ValueInfoProto | None) -> list[int] | None:
    tensor = value.type.tensor_type if value is not None else None
    if tensor is None or not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    return [d.dim_value for d in dims] if all(d.HasField("dim_value") for d in dims) else None
