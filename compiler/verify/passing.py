"""How requirements pass from the result of an operator that moves or shifts values to its operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from edgec.compiler.verify.demands import Array, Demand, Graph, attribute

# Operators whose result holds their first operand's values, in other places.
MOVERS = frozenset(
    {
        "Cast",
        "CastLike",
        "Identity",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Transpose",
        "Slice",
        "Expand",
    }
    | {"Tile", "Gather", "GatherElements", "GatherND", "Split", "SpaceToDepth", "DepthToSpace", "Pad"}
    | {"Floor", "Ceil", "Round", "MaxPool", "ReduceMax", "ReduceMin", "DequantizeLinear"}
)


def passed_on(
    node: NodeProto, number: int, demand: Demand, graph: Graph
) -> Iterable[tuple[str, Demand | None]]:
    """The requirements on a node's operands that follow from the one on its output at `number`."""
    kind = node.op_type
    if kind in MOVERS and number == 0 and node.input:
        return [(node.input[0], demand.shaped(_arranged(node, graph)))]
    if kind == "Split":
        return [(node.input[0], demand.shaped(None))]
    if kind == "Concat":
        return list(_parts(node, demand, graph))
    if kind in ("Where", "Min", "Max"):
        read = node.input[1:] if kind == "Where" else node.input
        return [(name, demand.shaped(None)) for name in read]
    if kind in ("Add", "Sub", "Neg", "Mul"):
        return _through_arithmetic(node, demand, graph)
    return []


def _arranged(node: NodeProto, graph: Graph) -> Callable[[Array], Array] | None:
    """How a whole result becomes the operand of its elements in another order, if there is a way back."""
    shape = graph.shape(node.input[0])
    if node.op_type in ("Cast", "CastLike", "Identity"):
        return lambda value: value
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten") and shape is not None:
        return lambda value: np.reshape(value, shape)
    if node.op_type == "Transpose":
        order = attribute(node, "perm", None)
        back = None if order is None else np.argsort(order)
        return lambda value: np.transpose(value, back)
    return None


def _parts(node: NodeProto, demand: Demand, graph: Graph) -> Iterator[tuple[str, Demand | None]]:
    """Of a concatenation: each operand has its own stretch of the whole."""
    axis, begin = int(attribute(node, "axis", 0)), 0
    for name in node.input:
        shape = graph.shape(name)
        if shape is None or begin < 0:
            begin = -1  # where the others lie is not known
            yield name, demand.shaped(None)
            continue
        yield name, demand.shaped(_stretch(begin, begin + shape[axis], axis))
        begin += shape[axis]


def _stretch(begin: int, end: int, axis: int) -> Callable[[Array], Array]:
    return lambda value: np.take(value, range(begin, end), axis)


def _through_arithmetic(node: NodeProto, demand: Demand, graph: Graph) -> list[tuple[str, Demand | None]]:
    """Shift a range back through a sum with a constant; other arithmetic keeps only that zero is not valid."""
    if node.op_type == "Neg":
        flipped = demand.mapped(lambda value: -value)
        return [(node.input[0], Demand(flipped.high, flipped.low, nonzero=demand.nonzero))]
    first, second = node.input
    for name, other, turned in ((first, second, False), (second, first, True)):
        constant = graph.constant(other)
        if constant is None or not constant.size or constant.dtype.kind not in "iuf":
            continue
        if node.op_type == "Add":
            return [(name, _within(demand, float(constant.min()), float(constant.max())))]
        if node.op_type == "Sub" and not turned:
            return [(name, _within(demand, -float(constant.max()), -float(constant.min())))]
        if node.op_type == "Mul" and constant.min() == constant.max() and constant.flat[0] > 0:
            factor = float(constant.flat[0])
            return [(name, replace(demand.mapped(_divided_by(factor)), nonzero=demand.nonzero))]
    return (
        [(name, Demand(nonzero=True)) for name in node.input]
        if demand.nonzero and node.op_type == "Mul"
        else []
    )


def _divided_by(factor: float) -> Callable[[float], float]:
    return lambda value: value / factor


def _within(demand: Demand, smallest: float, largest: float) -> Demand:
    """The demand on x if this is the one on x + c, for every c from `smallest` to `largest`."""
    below, above = demand.moved(smallest), demand.moved(largest)
    return Demand(below.low, above.high, below.least)
