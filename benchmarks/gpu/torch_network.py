"""A network of the zoo as a module of PyTorch: the same graph and weights, as its own functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgec.benchmarks.gpu.graph_data import Network, Operation

if TYPE_CHECKING:
    import numpy.typing as npt

Value = Any  # a node of a traced graph
Emit = Callable[..., Value]


class Unknown(Exception):
    """An operator that has no counterpart here."""


class Builder:
    """Writes a graph of `torch.fx`, which PyTorch runs and compiles as if a module's code had been traced."""

    def __init__(
        self,
        network: Network,
        constants: Mapping[str, npt.NDArray[Any]],
        dtype: Any,  # noqa: ANN401 - PyTorch's type
    ) -> None:
        import torch

        self.torch, self.network, self.constants, self.dtype = torch, network, constants, dtype
        self.root = torch.nn.Module()
        self.graph = torch.fx.Graph()
        self.values: dict[str, Value] = {}

    def module(self) -> Any:  # noqa: ANN401
        """The module: takes the inputs in order, returns a tuple.

        Raises:
            Unknown: it has an operator without a counterpart.
        """
        for number, name in enumerate(self.network.inputs):
            self.values[name] = self.graph.placeholder(f"input{number}")
        for operation in self.network.operations:
            emit = _OPERATORS.get(operation.op)
            if emit is None:
                raise Unknown(f"no counterpart of {operation.op} for PyTorch")
            made = emit(self, operation)
            results = made if isinstance(made, list) else [made]
            self.values.update(zip(operation.outputs, results, strict=False))
        self.graph.output(tuple(self.values[name] for name in self.network.outputs))
        return self.torch.fx.GraphModule(self.root, self.graph)

    def call(self, function: Emit, *args: Any, **kwargs: Any) -> Value:  # noqa: ANN401
        """A call of a function."""
        return self.graph.call_function(function, args, kwargs)

    def method(self, name: str, *args: Any) -> Value:  # noqa: ANN401
        """A call of a tensor's method."""
        return self.graph.call_method(name, args)

    def value(self, name: str) -> Value:
        """A value: computed, or a constant of the module (fp32 ones in the module's own type)."""
        if name not in self.values:
            tensor = self.torch.from_numpy(self.constants[name].copy())
            tensor = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            own = f"constant{len(self.values)}"
            self.root.register_buffer(own, tensor)
            self.values[name] = self.graph.get_attr(own)
        return self.values[name]

    def inputs(self, operation: Operation) -> list[Value]:
        """All operands; None where one is left out."""
        return [self.value(name) if name else None for name in operation.inputs]

    def known(self, operation: Operation, number: int) -> list[Any]:
        """The content of a constant operand, an empty list where it is left out."""
        if number >= len(operation.inputs) or not operation.inputs[number]:
            return []
        return list(self.constants[operation.inputs[number]].reshape(-1).tolist())


def _binary(function: Emit) -> Callable[[Builder, Operation], Value]:
    return lambda b, o: b.call(function, *b.inputs(o))


def _torch(name: str) -> Callable[[Builder, Operation], Value]:
    return lambda b, o: b.call(getattr(b.torch, name), b.value(o.inputs[0]))


def _functional(name: str) -> Callable[[Builder, Operation], Value]:
    return lambda b, o: b.call(getattr(b.torch.nn.functional, name), b.value(o.inputs[0]))


def _symmetric(pads: Sequence[int]) -> list[int]:
    half = len(pads) // 2
    if list(pads[:half]) != list(pads[half:]):
        raise Unknown("padding that differs between the sides")
    return list(pads[:half])


def _conv(b: Builder, o: Operation) -> Value:
    data, weight, *bias = b.inputs(o)
    dims = len(o.attributes["kernel_shape"])
    pads = o.attributes.get("pads", [0] * 2 * dims)
    before, after = pads[:dims], pads[dims:]
    if before != after:
        flat = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
        data, before = b.call(b.torch.nn.functional.pad, data, flat), [0] * dims
    function = getattr(b.torch.nn.functional, f"conv{dims}d")
    strides = o.attributes.get("strides", [1] * dims)
    dilations = o.attributes.get("dilations", [1] * dims)
    group = o.attributes.get("group", 1)
    return b.call(function, data, weight, bias[0] if bias else None, strides, before, dilations, group)


def _conv_transpose(b: Builder, o: Operation) -> Value:
    data, weight, *bias = b.inputs(o)
    pads = _symmetric(o.attributes.get("pads", [0] * 4))
    extra = o.attributes.get("output_padding", [0, 0])
    function = b.torch.nn.functional.conv_transpose2d
    return b.call(
        function, data, weight, bias[0] if bias else None, o.attributes.get("strides", [1, 1]), pads, extra,
        o.attributes.get("group", 1), o.attributes.get("dilations", [1, 1]),
    )  # fmt: skip


def _batch_norm(b: Builder, o: Operation) -> Value:
    data, scale, shift, mean, variance = b.inputs(o)
    epsilon = o.attributes.get("epsilon", 1e-5)
    return b.call(b.torch.nn.functional.batch_norm, data, mean, variance, scale, shift, False, 0.0, epsilon)


def _clip(b: Builder, o: Operation) -> Value:
    low, high = b.known(o, 1), b.known(o, 2)
    return b.call(b.torch.clamp, b.value(o.inputs[0]), low[0] if low else None, high[0] if high else None)


def _pool(name: str) -> Callable[[Builder, Operation], Value]:
    def emit(b: Builder, o: Operation) -> Value:
        kernel = o.attributes["kernel_shape"]
        pads = _symmetric(o.attributes.get("pads", [0] * 2 * len(kernel)))
        strides = o.attributes.get("strides", [1] * len(kernel))
        function = getattr(b.torch.nn.functional, name)
        data, ceil = b.value(o.inputs[0]), bool(o.attributes.get("ceil_mode", 0))
        if name == "max_pool2d":
            return b.call(function, data, kernel, strides, pads, 1, ceil)
        return b.call(
            function, data, kernel, strides, pads, ceil, bool(o.attributes.get("count_include_pad", 0))
        )

    return emit


def _gemm(b: Builder, o: Operation) -> Value:
    if (
        o.attributes.get("transA", 0)
        or o.attributes.get("alpha", 1.0) != 1
        or o.attributes.get("beta", 1.0) != 1
    ):
        raise Unknown("a product that is scaled or transposed on the left")
    data, weight, *bias = b.inputs(o)
    weight = weight if o.attributes.get("transB", 0) else b.method("t", weight)
    return b.call(b.torch.nn.functional.linear, data, weight, bias[0] if bias else None)


def _layer_norm(b: Builder, o: Operation) -> Value:
    scale = b.constants[o.inputs[1]]
    data, *weights = b.inputs(o)
    weights += [None] * (2 - len(weights))
    epsilon = o.attributes.get("epsilon", 1e-5)
    return b.call(b.torch.nn.functional.layer_norm, data, scale.shape, *weights, epsilon)


def _split(b: Builder, o: Operation) -> list[Value]:
    axis, sizes = o.attributes.get("axis", 0), b.known(o, 1)
    if not sizes:
        raise Unknown("a split without sizes")
    whole = b.call(b.torch.split, b.value(o.inputs[0]), sizes, axis)
    return [b.call(operator.getitem, whole, number) for number in range(len(sizes))]


def _slice(b: Builder, o: Operation) -> Value:
    made, starts, ends = b.value(o.inputs[0]), b.known(o, 1), b.known(o, 2)
    axes, steps = b.known(o, 3) or list(range(len(starts))), b.known(o, 4) or [1] * len(starts)
    if any(axis < 0 for axis in axes) or any(step < 1 for step in steps):
        raise Unknown("a slice from the end")
    whole = [slice(None)] * (max(axes) + 1)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole[axis] = slice(start, end, step)
    return b.call(operator.getitem, made, tuple(whole))


def _squeeze(b: Builder, o: Operation) -> Value:
    return b.call(b.torch.squeeze, b.value(o.inputs[0]), b.known(o, 1))


def _unsqueeze(b: Builder, o: Operation) -> Value:
    made = b.value(o.inputs[0])
    for axis in sorted(b.known(o, 1)):
        made = b.call(b.torch.unsqueeze, made, axis)
    return made


def _gather(b: Builder, o: Operation) -> Value:
    data, indices = b.inputs(o)
    if o.attributes.get("axis", 0) != 0:
        raise Unknown("a gather along an inner axis")
    return b.call(b.torch.nn.functional.embedding, indices, data)


def _cast(b: Builder, o: Operation) -> Value:
    number = o.attributes["to"]
    dtype = b.dtype if number in (1, 10, 16) else b.torch.int64 if number == 7 else None
    if dtype is None:
        raise Unknown("a cast to another type")
    return b.method("to", b.value(o.inputs[0]), dtype)


def _resize(b: Builder, o: Operation) -> Value:
    scales = b.known(o, 2)
    if o.attributes.get("mode", "nearest") != "nearest" or len(scales) != 4:
        raise Unknown("a resize that interpolates")
    data = b.value(o.inputs[0])
    return b.call(b.torch.nn.functional.interpolate, data, scale_factor=scales[2:], mode="nearest")


def _mean(b: Builder, o: Operation) -> Value:
    axes = o.attributes.get("axes") or b.known(o, 1)
    return b.call(b.torch.mean, b.value(o.inputs[0]), axes, bool(o.attributes.get("keepdims", 1)))


_OPERATORS: dict[str, Callable[[Builder, Operation], Value]] = {
    "Add": _binary(operator.add),
    "AveragePool": _pool("avg_pool2d"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda b, o: b.call(b.torch.cat, b.inputs(o), o.attributes["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _binary(operator.truediv),
    "Erf": _torch("erf"),
    "Flatten": lambda b, o: b.call(b.torch.flatten, b.value(o.inputs[0]), o.attributes.get("axis", 1)),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda b, o: b.call(b.torch.mean, b.value(o.inputs[0]), [2, 3], True),
    "HardSigmoid": _functional("hardsigmoid"),
    "HardSwish": _functional("hardswish"),
    "LayerNormalization": _layer_norm,
    "MatMul": _binary(operator.matmul),
    "MaxPool": _pool("max_pool2d"),
    "Mul": _binary(operator.mul),
    "ReduceMean": _mean,
    "Relu": _functional("relu"),
    "Reshape": lambda b, o: b.call(b.torch.reshape, b.value(o.inputs[0]), b.known(o, 1)),
    "Resize": _resize,
    "Sigmoid": _torch("sigmoid"),
    "Slice": _slice,
    "Softmax": lambda b, o: b.call(b.torch.softmax, b.value(o.inputs[0]), o.attributes.get("axis", -1)),
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary(operator.sub),
    "Tanh": _torch("tanh"),
    "Transpose": lambda b, o: b.call(b.torch.permute, b.value(o.inputs[0]), o.attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}


def module_of(
    network: Network,
    constants: Mapping[str, npt.NDArray[Any]],
    dtype: Any,  # noqa: ANN401 - PyTorch's type
) -> Any:  # noqa: ANN401
    """A module in evaluation mode, on the processor, with weights of a dtype.

    Raises:
        Unknown: it has an operator without a counterpart.
    """
    return Builder(network, constants, dtype).module().eval()
