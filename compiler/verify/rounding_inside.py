"""Perturbation of values whose shapes are known only when the model runs, such as those inside branches and loops.

Their factors are taken from a pool, which is an input of the whole model, when the values are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

# Operators that hold graphs.
NESTED = frozenset({"If", "Loop", "Scan", "SequenceMap"})
POOL = 1 << 18  # numbers of a pool
OLDEST = 11  # operator set that has Range and Mod
PREFIX = "edgec_factors_"
_APART = 7919  # numbers between the places where the factors of two values begin


class Pools:
    """The pools that a model reads.

    Args:
        opset: of the model.
        exact: whether a node rounds nothing.
        added: of an operator, whether its error is added rather than relative.
        kinds: element types that round.
    """

    def __init__(
        self, opset: int, exact: Callable[[NodeProto], bool], added: Set[str], kinds: Mapping[int, float]
    ) -> None:
        self.used: dict[str, tuple[int, bool]] = {}
        """Element type, and whether its numbers are added, by name."""
        self._opset, self._exact, self._added, self._kinds = opset, exact, added, kinds
        self._values = 0

    def perturb_inside(self, node: NodeProto) -> None:
        """Perturb the values of the graphs that a node holds."""
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                self._perturb(attribute.g)

    def changed(self, node: NodeProto, position: int, value: ValueInfoProto) -> list[NodeProto]:
        """Give an output of a node another name; the nodes that make it of that, with its factors.

        Nothing where the value is of a type that does not round.
        """
        kind = value.type.tensor_type.elem_type
        if kind not in self._kinds or self._opset < OLDEST:
            return []
        added = node.op_type in self._added
        pool = f"{PREFIX}pool_{kind}_{'added' if added else 'factors'}"
        self.used[pool] = (kind, added)
        name, raw = node.output[position], f"{PREFIX}raw_{node.output[position]}"
        node.output[position] = raw
        begin, self._values = self._values * _APART % POOL, self._values + 1
        return _from_pool(raw, name, pool, begin, "Add" if added else "Mul", allow_zero=self._opset >= 14)

    def _perturb(self, graph: GraphProto) -> None:
        typed = {value.name: value for value in (*graph.value_info, *graph.output)}
        nodes: list[NodeProto] = []
        for node in graph.node:
            nodes.append(node)
            if node.op_type in NESTED:
                self.perturb_inside(node)
            elif not self._exact(node):
                for position, name in enumerate(node.output):
                    if name in typed:
                        nodes += self.changed(node, position, typed[name])
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _from_pool(
    raw: str, name: str, pool: str, begin: int, change: str, *, allow_zero: bool
) -> list[NodeProto]:
    """The nodes that change `raw`, of any shape, by numbers of a pool from a place on, and call it `name`."""
    first, one, most, size, end, places, wrapped, flat, shape, factors = (
        f"{name}_{PREFIX}{part}"
        for part in ("first", "one", "most", "size", "end", "places", "wrapped", "flat", "shape", "factors")
    )
    numbers = ((first, begin), (one, 1), (most, POOL))
    return [
        *(_whole(output, number) for output, number in numbers),
        helper.make_node("Size", [raw], [size]),
        helper.make_node("Add", [first, size], [end]),
        helper.make_node("Range", [first, end, one], [places]),
        helper.make_node("Mod", [places, most], [wrapped]),
        helper.make_node("Gather", [pool, wrapped], [flat]),
        helper.make_node("Shape", [raw], [shape]),
        helper.make_node("Reshape", [flat, shape], [factors], **({"allowzero": 1} if allow_zero else {})),
        helper.make_node(change, [raw, factors], [name]),
    ]


def _whole(output: str, number: int) -> NodeProto:
    return helper.make_node(
        "Constant", [], [output], value=helper.make_tensor("", TensorProto.INT64, [], [number])
    )
