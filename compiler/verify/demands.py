"""What may be required of the values of an input.

An index must lie within its table, a length within its sequence, a divisor must not be zero, a new shape must hold as
many elements as the old one. `edgec.compiler.verify.requirements` collects such demands by following inputs to their
uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Maker: TypeAlias = Callable[[np.random.Generator], Array]
MOST_CONSTANT = 1 << 12  # elements of a constant that is looked at


@dataclass(frozen=True)
class Demand:
    """What is required of a value.

    Attributes:
        low, high: the range that inputs are drawn from, inclusive; None is open.
        least: the smallest value that is valid, if it is below `low`: -n is an index, too.
        nonzero: zero is not valid.
        make: draws the whole value, where its elements depend on each other.
    """

    low: float | None = None
    high: float | None = None
    least: float | None = None
    nonzero: bool = False
    make: Maker | None = None

    def __and__(self, other: Demand) -> Demand:
        """What both require."""
        lows = [v for v in (self.low, other.low) if v is not None]
        highs = [v for v in (self.high, other.high) if v is not None]
        leasts = [v for v in (self.least, other.least) if v is not None]
        return Demand(
            max(lows, default=None),
            min(highs, default=None),
            max(leasts, default=None),
            self.nonzero or other.nonzero,
            self.make or other.make,
        )

    @property
    def valid_from(self) -> float | None:
        """The smallest valid value."""
        return self.low if self.least is None else self.least

    def moved(self, by: float) -> Demand:
        """The demand on x, if this is the one on x + `by`."""
        return self.mapped(lambda value: value - by)

    def mapped(self, change: Callable[[float], float]) -> Demand:
        """The demand with another range."""
        low, high, least = (None if v is None else change(v) for v in (self.low, self.high, self.least))
        return Demand(low, high, least)

    def shaped(self, remake: Callable[[Array], Array] | None) -> Demand:
        """The demand on a value of another arrangement of the elements; None is one that `make` cannot follow."""
        make = self.make
        if make is None or remake is None:
            return replace(self, make=None)
        made, again = make, remake
        return replace(self, make=lambda rng: again(made(rng)))


def exactly(value: Array) -> Demand:
    """The demand for one value."""
    return Demand(make=lambda _: value)


class Graph:
    """Constants, shapes and attributes of a model's values, for those who ask what they require."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(flattened(model.graph.node))
        graph = model.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._values = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        self._made = {
            node.output[0]: attribute.t
            for node in self.nodes
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.type == AttributeProto.TENSOR
        }

    def constant(self, name: str) -> Array | None:
        """The value of a small constant, else None."""
        tensor = self._tensors.get(name, self._made.get(name))
        if tensor is None or int(np.prod(tensor.dims, dtype=np.int64)) > MOST_CONSTANT:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def shape(self, name: str) -> Shape | None:
        """The static shape of a value, else None."""
        tensor = self._tensors.get(name, self._made.get(name))
        if tensor is not None:
            return tuple(tensor.dims)
        value = self._values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        dims = value.type.tensor_type.shape.dim
        return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None

    def is_float(self, name: str) -> bool:
        """Whether a value holds real numbers; unknown types do."""
        value, tensor = self._values.get(name), self._tensors.get(name)
        kind = tensor.data_type if tensor is not None else value.type.tensor_type.elem_type if value else 1
        return bool(helper.tensor_dtype_to_np_dtype(kind).kind == "f") if kind else True


def attribute(node: NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401 - of any type
    """The value of an attribute."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def flattened(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes in their order, each followed by those of the graphs inside it, which read outer values by name."""
    for node in nodes:
        yield node
        for inner in node.attribute:
            for graph in (inner.g, *inner.graphs):
                yield from flattened(graph.node)
