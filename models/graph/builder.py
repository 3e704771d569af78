"""The core of the graph builder: names, inputs, weights, nodes, and the finished model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgec.models.graph import random_weights
from edgec.models.graph.activation_statistics import Moments
from edgec.models.graph.values import Cost, Value

OPSET = 17
IR_VERSION = 8


@dataclass
class Builder:
    """An ONNX graph under construction, without operators of its own.

    Attributes:
        name: the model's name, which seeds the random weights.
        weights: trained weights by tensor name, used instead of random ones; a missing name raises `KeyError`, a
            shape that does not fit `ValueError`.
        cost: parameters and multiply-adds so far.
        eps: epsilon of batch norms.
        inputs: the graph's inputs so far.
    """

    name: str
    weights: Mapping[str, NDArray[np.float32]] | None = None
    cost: Cost = field(default_factory=Cost)
    eps: float = 1e-5
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _scopes: list[str] = field(default_factory=list)
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _node_names: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of everything built inside with `name`."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def _path(self, *parts: str) -> str:
        return ".".join([*self._scopes, *parts])

    def input(self, name: str, shape: tuple[int, ...], dtype: int = TensorProto.FLOAT) -> Value:
        """Add a graph input; `dtype` is an ONNX element type."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        moments = Moments.standard(shape[1]) if len(shape) > 2 and dtype == TensorProto.FLOAT else None
        return Value(name, shape, moments)

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add an initializer that is not a parameter (shapes, anchors, clip bounds); equal names are shared."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def ints(self, *values: int) -> str:
        """Add (or reuse) a one-dimensional int64 constant."""
        return self.constant("ints." + "_".join(map(str, values)), np.array(values, np.int64))

    def parameter(
        self, name: str, make: Callable[[str], NDArray[np.float32]], counted: bool = True
    ) -> tuple[str, NDArray[np.float32]]:
        """Add a weight: the trained one of that name, or `make(key)`. Returns its name and values."""
        path = self._path(name)
        array = make(f"{self.name}/{path}") if self.weights is None else self.weights[path]
        if path in self._initializers:
            raise ValueError(f"two parameters named {path} in {self.name}")
        self._initializers[path] = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), path)
        if counted:
            self.cost = replace(self.cost, params=self.cost.params + array.size)
        return path, array

    def weight(self, name: str, shape: tuple[int, ...], std: float) -> tuple[str, NDArray[np.float32]]:
        """Add a zero-mean weight of standard deviation `std`, or the trained one, which must fit."""
        path, array = self.parameter(name, lambda key: random_weights.symmetric(key, shape, std))
        if array.shape != shape:
            raise ValueError(f"{path} has shape {array.shape}, the architecture requires {shape}")
        return path, array

    def count(self, macs: int) -> None:
        """Add multiply-adds to the cost."""
        self.cost = replace(self.cost, macs=self.cost.macs + macs)

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        shapes: Sequence[tuple[int, ...]],
        name: str | None = None,
        **attributes: Any,  # noqa: ANN401 - ONNX attributes are of many types
    ) -> list[Value]:
        """Add one operator; its outputs get `shapes` and no moments."""
        path = "/" + "/".join([*self._scopes, *([name] if name else []), op])
        number = self._node_names.get(path, 0)
        self._node_names[path] = number + 1
        if number:
            path = f"{path}_{number}"
        outputs = [f"{path}_output_{i}" for i in range(len(shapes))]
        self._nodes.append(helper.make_node(op, list(inputs), outputs, name=path, **attributes))
        return [Value(out, tuple(shape)) for out, shape in zip(outputs, shapes, strict=True)]

    def _one(
        self,
        op: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        moments: Moments | None = None,
        name: str | None = None,
        **attributes: Any,  # noqa: ANN401
    ) -> Value:
        return replace(self.node(op, inputs, [shape], name, **attributes)[0], moments=moments)

    def finish(self, outputs: Mapping[str, Value], description: str = "") -> onnx.ModelProto:
        """Make the model; `outputs` names the graph's outputs (float32), which replace the inner names."""
        renamed = {value.name: name for name, value in outputs.items()}
        for node in self._nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = renamed.get(name, name)
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in outputs.items()]
        graph = helper.make_graph(
            self._nodes, self.name, self.inputs, infos, initializer=list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgec")
        model.doc_string = description
        return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` to `path` atomically, through a temporary file beside it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(model.SerializeToString(deterministic=True))
    part.replace(path)
