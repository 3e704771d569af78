"""Find a graph that computes what another one does, whatever its values are called and however they are ordered."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, NodeProto, defs, numpy_helper

Array = npt.NDArray[Any]


def bound(pattern: GraphProto, free: Collection[str], graph: GraphProto) -> dict[str, Array] | None:
    """The constants that stand for the free ones of a pattern; None where the graph is no instance of it.

    Nodes may be repeated or shared, and Identity may stand anywhere.

    Args:
        pattern: the graph that is sought; both have the same inputs in the same order.
        free: the names of those of its constants that may have any value.
        graph: the graph.
    """
    same_ends = len(pattern.input) == len(graph.input) and len(pattern.output) == len(graph.output)
    if not same_ends:
        return None
    match = _Match(_Values(pattern), _Values(graph), frozenset(free))
    ends = zip(pattern.output, graph.output, strict=True)
    return match.found if all(match.same(a.name, b.name) for a, b in ends) else None


class _Values:
    """The values of a graph by name: where they come from."""

    def __init__(self, graph: GraphProto) -> None:
        self.places = {value.name: place for place, value in enumerate(graph.input)}
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.makers: dict[str, tuple[NodeProto, int]] = {}
        self.others: dict[str, str] = {}
        for node in graph.node:
            if node.op_type == "Identity":
                self.others[node.output[0]] = node.input[0]
            elif node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            else:
                self.makers |= {name: (node, place) for place, name in enumerate(node.output) if name}

    def origin(self, name: str) -> str:
        """The value behind any Identity."""
        while name in self.others:
            name = self.others[name]
        return name


class _Match:
    def __init__(self, pattern: _Values, graph: _Values, free: frozenset[str]) -> None:
        self._pattern, self._graph, self._free = pattern, graph, free
        self._known: dict[tuple[str, str], bool] = {}
        self.found: dict[str, Array] = {}

    def same(self, wanted: str, name: str) -> bool:
        """Whether a value of the graph is one of the pattern."""
        pair = self._pattern.origin(wanted), self._graph.origin(name)
        if pair not in self._known:
            self._known[pair] = self._is_same(*pair)
        return self._known[pair]

    def _is_same(self, wanted: str, name: str) -> bool:
        if wanted in self._pattern.constants:
            return self._is_constant(wanted, self._graph.constants.get(name))
        if wanted in self._pattern.places:
            return self._pattern.places[wanted] == self._graph.places.get(name)
        (node, place), made = self._pattern.makers[wanted], self._graph.makers.get(name)
        if made is None or made[1] != place or not _is_alike(node, made[0]):
            return False
        return all(self.same(a, b) for a, b in zip(node.input, made[0].input, strict=True))

    def _is_constant(self, wanted: str, value: Array | None) -> bool:
        if value is None:
            return False
        free = wanted in self._free
        known = self.found.setdefault(wanted, value) if free else self._pattern.constants[wanted]
        return known.dtype == value.dtype and np.array_equal(known, value)


def _is_alike(node: NodeProto, other: NodeProto) -> bool:
    kinds = (node.op_type, node.domain or "ai.onnx", len(node.input), len(node.output))
    if kinds != (other.op_type, other.domain or "ai.onnx", len(other.input), len(other.output)):
        return False
    return _attributes(node) == _attributes(other)


def _attributes(node: NodeProto) -> dict[str, bytes]:
    """The attributes by name, without those that have their default value: ONNX Runtime writes them out."""
    schema = (
        defs.get_schema(node.op_type, domain=node.domain) if defs.has(node.op_type, node.domain) else None
    )
    given = {attribute.name: _content(attribute) for attribute in node.attribute}
    usual = {} if schema is None else {n: _content(a.default_value) for n, a in schema.attributes.items()}
    return {name: content for name, content in given.items() if content != usual.get(name)}


def _content(attribute: AttributeProto) -> bytes:
    plain = AttributeProto()
    plain.CopyFrom(attribute)
    plain.doc_string = ""
    return bytes(plain.SerializeToString(deterministic=True))
