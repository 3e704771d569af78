"""Write ONNX from TensorFlow Lite, value by value: layouts and quantisation in one place.

TensorFlow Lite stores images as NHWC, ONNX computes on NCHW. Each tensor may exist in both layouts, and an operator
uses the one it prefers, so that transposes remain only where the layout has to change. A quantised tensor exists as
real numbers on its grid (QuantizeLinear followed by DequantizeLinear) and, where needed, as integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgec.compiler.frontends.tflite.flat import Graph, Model, Operator, Quantisation, Tensor

Array = npt.NDArray[Any]
TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
BYTES = ("int8", "uint8")


class Refused(Exception):
    """This operator cannot be expressed; the message says why."""


@dataclass
class Variable:
    """A variable while a graph is converted.

    Attributes:
        name: the one that its handles share.
        initial: what CALL_ONCE assigns to it, as stored.
        value: the present one, as stored; empty before the first read or assignment.
        tensor: a tensor that it is read into, or assigned from.
        port: the input with its value before the run; empty if it is never read before it is assigned.
        assigned: whether the graph assigns to it.
    """

    name: str
    initial: Array | None = None
    value: str = ""
    tensor: Tensor | None = None
    port: str = ""
    assigned: bool = False


class Writer:
    """The ONNX graph under construction: of a file's main graph, or within it of one that an operator calls.

    A graph within another one has nodes of its own, and shares names and constants with those around it.
    """

    def __init__(self, model: Model, number: int = 0, outer: Writer | None = None) -> None:
        if not 0 <= number < len(model.graphs):
            raise Refused(f"it calls graph {number}, and the file has {len(model.graphs)}")
        if outer is not None and number in outer.calls:
            raise Refused(f"graph {number} calls itself")
        self.model = model
        self.graph: Graph = model.graphs[number]
        self.calls: tuple[int, ...] = (number,) if outer is None else (*outer.calls, number)
        self.nodes: list[NodeProto] = []
        self.initialisers: list[TensorProto] = [] if outer is None else outer.initialisers
        self.native: dict[int, str] = {}
        self.nchw: dict[int, str] = {}
        self.stored: dict[int, str] = {}  # the integers of quantised tensors
        self.known: dict[int, Tensor] = {}  # constants that operators make of constants
        self.complex: dict[int, tuple[str, str]] = {}
        self.variables: dict[str, Variable] = {} if outer is None else outer.variables
        self.prefix = ""
        self._root: Writer = self if outer is None else outer._root
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = (
            {} if outer is None else outer._constants
        )
        self._values: dict[str, Array] = {} if outer is None else outer._values

    def begin(self, operator: Operator, within: str = "") -> None:
        """Name the nodes that follow after an operator, and the one that calls its graph."""
        self.prefix = f"{within}_" * bool(within) + f"{operator.kind}_{operator.index}"

    def op(self, op_type: str, *inputs: str | Array, outputs: int = 1, **attrs: object) -> Any:  # noqa: ANN401
        """Add a node; arrays become initialisers. Returns the name of its output, or a list of several."""
        self._root._count += 1
        number = self._root._count
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        made = [f"{self.prefix}_{op_type}_{number}_{i}" for i in range(outputs)]
        name = f"{self.prefix}/{op_type}_{number}"
        self.nodes.append(helper.make_node(op_type, names, made, name=name, **attrs))
        return made[0] if outputs == 1 else made

    def constant(self, value: Array) -> str:
        """The name of an initialiser; equal ones are stored once."""
        value = np.asarray(value, order="C")
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = f"const_{len(self._constants)}"
            self._values[self._constants[key]] = value
            self.initialisers.append(numpy_helper.from_array(value, self._constants[key]))
        return self._constants[key]

    def has_constant(self, name: str) -> bool:
        """Whether a value of the graph is an initialiser."""
        return name in self._values

    def stored_constant(self, name: str) -> Array:
        """The value of an initialiser."""
        return self._values[name]

    def tensor(self, index: int) -> Tensor:
        """A tensor of the source."""
        if index < 0:
            raise Refused("an input that it needs is left out")
        return self.known.get(index) or self.graph.tensors[index]

    def put_constant(self, index: int, value: Array) -> None:
        """Bind a value that is known at compile time, such as a dequantised weight."""
        tensor = self.tensor(index)
        self.known[index] = replace(tensor, shape=value.shape, data=value, quantisation=None)

    def shape(self, index: int, *ranks: int) -> tuple[int, ...]:
        """The shape of a tensor.

        Args:
            ranks: the numbers of axes that it may have; any, if none is given.

        Raises:
            Refused: it has another number of axes.
        """
        tensor = self.tensor(index)
        if ranks and len(tensor.shape) not in ranks:
            wanted = " or ".join(str(rank) for rank in ranks)
            raise Refused(
                f"its tensor {tensor.name!r} of shape {list(tensor.shape)} has to have {wanted} axes"
            )
        return tensor.shape

    def data(self, index: int) -> Array:
        """The stored values of a constant tensor.

        Raises:
            Refused: it is computed.
        """
        tensor = self.tensor(index)
        if tensor.data is None:
            raise Refused(f"its input {tensor.name!r} has to be constant, but it is computed")
        return tensor.data

    def ints(self, index: int) -> list[int]:
        """A constant tensor of integers as a list."""
        return [int(v) for v in self.data(index).reshape(-1)]

    def rank(self, index: int) -> int:
        """The number of axes of a tensor."""
        return len(self.tensor(index).shape)

    def is_constant(self, index: int) -> bool:
        """Whether the tensor's values are stored in the file."""
        return self.tensor(index).data is not None

    def real(self, index: int) -> Array:
        """A constant tensor's real values, fp32."""
        tensor = self.tensor(index)
        data, quantisation = self.data(index), tensor.quantisation
        if quantisation is None or data.dtype.kind == "f":
            return data.astype(np.float32)
        shape = [1] * data.ndim
        if not quantisation.per_tensor:
            shape[quantisation.axis] = len(quantisation.scale)
        zero = quantisation.zero_point.reshape(shape if data.ndim else ())
        real = (data.astype(np.float64) - zero) * quantisation.scale.astype(np.float64).reshape(
            shape if data.ndim else ()
        )
        return real.astype(np.float32)

    def get(self, index: int) -> str:
        """The value in the source's order of axes: real numbers for a quantised tensor."""
        if index in self.native:
            return self.native[index]
        tensor = self.tensor(index)
        if tensor.data is not None:
            self.native[index] = self._constant_value(tensor)
        elif index in self.nchw:
            self.native[index] = self._transposed(self.nchw[index], tensor, TO_NHWC)
        else:
            raise Refused(f"its input {tensor.name!r} is never computed")
        return self.native[index]

    def get_nchw(self, index: int) -> str:
        """An image as `[batch, channels, height, width]`."""
        if index not in self.nchw:
            tensor = self.tensor(index)
            if tensor.data is not None:
                self.nchw[index] = self.constant(nchw_constant(self.real(index)))
            else:
                self.nchw[index] = self._transposed(self.get(index), tensor, TO_NCHW)
        return self.nchw[index]

    def get_int64(self, index: int) -> str:
        """A tensor of integers as int64, as ONNX requires for shapes and indices."""
        tensor = self.tensor(index)
        if tensor.data is not None:
            return self.constant(tensor.data.astype(np.int64))
        name = self.get(index)
        return name if tensor.dtype == "int64" else str(self.op("Cast", name, to=TensorProto.INT64))

    def integers(self, index: int) -> str:
        """The stored integers of a quantised tensor; other tensors as they are."""
        tensor = self.tensor(index)
        if not is_quantised(tensor):
            return self.get(index)
        if index not in self.stored:
            self.stored[index] = self._quantise(self.get(index), tensor)
        return self.stored[index]

    def put(self, index: int, name: str, *, nchw: bool = False, exact: bool = False) -> None:
        """Bind a computed value to a tensor.

        Args:
            nchw: the value is in that order.
            exact: the value is already on the tensor's quantisation grid.
        """
        tensor = self.tensor(index)
        if is_quantised(tensor) and not exact:
            stored = self._quantise(name, tensor)
            if not nchw:
                self.stored[index] = stored
            name = self._dequantise(stored, tensor)
        (self.nchw if nchw else self.native)[index] = name

    def put_integers(self, index: int, name: str) -> None:
        """Bind stored integers to a quantised tensor."""
        self.stored[index] = name
        self.native[index] = self._dequantise(name, self.tensor(index))

    def put_raw(self, index: int, name: str) -> None:
        """Bind a value as the file stores it: integers for a quantised tensor."""
        if is_quantised(self.tensor(index)):
            self.put_integers(index, name)
        else:
            self.native[index] = name

    def same_grid(self, a: int, b: int) -> bool:
        """Whether two tensors are stored on the same grid (or both are not quantised)."""
        p, q = self.tensor(a), self.tensor(b)
        if not is_quantised(p) or not is_quantised(q):
            return not is_quantised(p) and not is_quantised(q)
        x, y = grid(p), grid(q)
        return bool(p.dtype == q.dtype and x.scale[0] == y.scale[0] and x.zero_point[0] == y.zero_point[0])

    def dequantise(self, stored: str, like: int) -> str:
        """Real numbers from integers on the grid of a tensor."""
        return self._dequantise(stored, self.tensor(like))

    def quantise(self, name: str, like: int) -> str:
        """Integers on the grid of a tensor from real numbers."""
        return self._quantise(name, self.tensor(like))

    def _transposed(self, name: str, tensor: Tensor, order: Sequence[int]) -> str:
        if len(tensor.shape) != 4:
            raise Refused(f"its input {tensor.name!r} has {len(tensor.shape)} axes, not 4")
        _, height, width, channels = tensor.shape
        if (height == width == 1) or channels == 1:  # the data stay where they are
            shape = tensor.shape if order == TO_NHWC else tuple(tensor.shape[i] for i in TO_NCHW)
            return str(self.op("Reshape", name, np.array(shape, np.int64)))
        return str(self.op("Transpose", name, perm=list(order)))

    def _constant_value(self, tensor: Tensor) -> str:
        if tensor.data is None:
            raise Refused(f"its input {tensor.name!r} is not constant")
        if tensor.dtype == "float16":
            return self.constant(tensor.data.astype(np.float32))
        if tensor.quantisation is None or tensor.data.dtype.kind == "f":
            return self.constant(tensor.data)
        return self.dequantised(tensor.data, tensor.quantisation)

    def dequantised(self, data: Array, quantisation: Quantisation) -> str:
        """Stored integers, dequantised by DequantizeLinear."""
        scale, zero = quantisation.scale, quantisation.zero_point.astype(data.dtype)
        if quantisation.per_tensor:
            return str(self.op("DequantizeLinear", data, scale.reshape(()), zero.reshape(())))
        return str(self.op("DequantizeLinear", data, scale, zero, axis=quantisation.axis))

    def _quantise(self, name: str, tensor: Tensor) -> str:
        scale, zero = self._grid(tensor)
        return str(self.op("QuantizeLinear", name, scale, zero))

    def _dequantise(self, name: str, tensor: Tensor) -> str:
        scale, zero = self._grid(tensor)
        return str(self.op("DequantizeLinear", name, scale, zero))

    def _grid(self, tensor: Tensor) -> tuple[Array, Array]:
        quantisation = grid(tensor)
        if not quantisation.per_tensor:
            raise Refused(f"its tensor {tensor.name!r} is computed, but quantised by channel")
        return quantisation.scale.reshape(()), quantisation.zero_point.astype(tensor.dtype).reshape(())


def is_quantised(tensor: Tensor) -> bool:
    """Whether the tensor stores integers that represent real numbers."""
    return tensor.quantisation is not None and tensor.dtype in ("int8", "uint8", "int16", "int32")


def grid(tensor: Tensor) -> Quantisation:
    """The tensor's quantisation.

    Raises:
        Refused: it has none.
    """
    if tensor.quantisation is None:
        raise Refused(f"its tensor {tensor.name!r} is not quantised, though it should be")
    return tensor.quantisation


def halves_up(tensor: Tensor) -> float:
    """What to add to real values so that those in the middle between two integers are rounded up.

    Raises:
        Refused: the tensor is not quantised.
    """
    return float(grid(tensor).scale[0]) * 2.0**-12


def nchw_constant(value: Array) -> Array:
    """A constant that broadcasts against NHWC images, rearranged to broadcast against NCHW ones."""
    if value.ndim == 0:
        return value
    full = value.reshape((1,) * (4 - value.ndim) + value.shape)
    return full.transpose(TO_NCHW)
