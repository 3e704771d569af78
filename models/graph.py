"""A small typed builder of ONNX graphs: shapes known at every value, weights seeded by name.

Graphs look like what PyTorch's exporter writes in training-preserving mode: convolution, batch norm and
activation apart, weights named by module path (`layer1.0.conv1.weight`), nodes by scope
(`/layer1.0/conv1/Conv`). The builder counts parameters and multiply-adds while it writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgec.models import moments as mm
from edgec.models import random_weights
from edgec.models.moments import Moments

OPSET = 17
IR_VERSION = 8
Pair = int | tuple[int, int]
Padding = int | tuple[int, int, int, int]
"""One number for all sides, or `(top, left, bottom, right)` as ONNX orders them."""


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: its name, static shape and, where they are tracked, moments along axis 1."""

    name: str
    shape: tuple[int, ...]
    moments: Moments | None = None

    @property
    def channels(self) -> int:
        """Size of axis 1."""
        return self.shape[1]


@dataclass(frozen=True)
class Cost:
    """Parameters as papers count them (no running statistics) and multiply-adds of one inference."""

    params: int = 0
    macs: int = 0


@dataclass
class Graph:
    """An ONNX graph under construction; `finish` makes the model.

    `weights`, when given, replaces random numbers by trained ones, looked up by tensor name; a missing name
    is a `KeyError`, a shape that does not fit a `ValueError`.
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

    # -- names, inputs, weights ---------------------------------------------------------------------------
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
        """Add an initializer that is no parameter (shapes, anchors, clip bounds); equal names are shared."""
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
            raise ValueError(f"{path} has shape {array.shape}, the architecture wants {shape}")
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

    # -- layers with weights ------------------------------------------------------------------------------
    def conv(
        self,
        x: Value,
        out_channels: int,
        kernel: Pair,
        name: str,
        *,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | float = False,
        gain: float = 2.0,
    ) -> Value:
        """Two-dimensional convolution of `[N, C, H, W]`; weights of variance `gain / fan_in`.

        `bias` is whether there is one, or the mean of its values.
        """
        kh, kw = _pair(kernel)
        sh, sw = _pair(stride)
        pads = _sides(padding)
        n, channels, h, w = x.shape
        shape = (out_channels, channels // groups, kh, kw)
        std = math.sqrt(gain / (shape[1] * kh * kw))
        with self.scope(name):
            weight, values = self.parameter("weight", lambda key: _filters(key, shape, std, x, groups))
            if values.shape != shape:
                raise ValueError(f"{weight} has shape {values.shape}, the architecture wants {shape}")
            inputs = [x.name, weight]
            if bias is not False:
                inputs.append(self._bias(out_channels, float(bias) if bias is not True else 0.0))
        oh = (h + pads[0] + pads[2] - dilation * (kh - 1) - 1) // sh + 1
        ow = (w + pads[1] + pads[3] - dilation * (kw - 1) - 1) // sw + 1
        self.count(n * oh * ow * values.size)
        return self._one(
            "Conv", inputs, (n, out_channels, oh, ow), mm.through_weights(_moments(x), values, groups), name,
            dilations=[dilation] * 2, group=groups, kernel_shape=[kh, kw], pads=list(pads), strides=[sh, sw],
        )  # fmt: skip

    def conv_transpose(self, x: Value, out_channels: int, kernel: int, stride: int, name: str) -> Value:
        """Transposed convolution with bias and no padding (up-convolution: `kernel == stride`)."""
        n, channels, h, w = x.shape
        with self.scope(name):
            shape = (channels, out_channels, kernel, kernel)
            weight, values = self.weight("weight", shape, math.sqrt(2.0 / channels))
            inputs = [x.name, weight, self._bias(out_channels)]
        self.count(n * h * w * values.size)
        taps = np.ascontiguousarray(values.transpose(1, 0, 2, 3)).reshape(out_channels, channels, -1)
        once = mm.through_weights(_moments(x), taps / np.float32(kernel), 1)  # every output sees one tap
        return self._one(
            "ConvTranspose", inputs, (n, out_channels, h * stride, w * stride), once, name,
            dilations=[1, 1], group=1, kernel_shape=[kernel] * 2, pads=[0] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def _bias(self, size: int, mean: float = 0.0) -> str:
        spread = 0.035
        return self.parameter(
            "bias", lambda k: random_weights.uniform(k, (size,), mean - spread, mean + spread)
        )[0]

    def batch_norm(self, x: Value, name: str, *, gain: float = 1.0) -> Value:
        """Batch norm with the statistics that its input is expected to have; `gain` scales the output."""
        size, expected = x.channels, _moments(x)
        with self.scope(name):
            scale, gamma = self.parameter(
                "weight", lambda k: random_weights.uniform(k, (size,), 0.7 * gain, 1.3 * gain)
            )
            shift, beta = self.parameter("bias", lambda k: random_weights.uniform(k, (size,), -0.25, 0.25))
            noise = random_weights.uniform(f"{self.name}/{self._path('noise')}", (size,), -0.1, 0.1)
            mean, mu = self.parameter(
                "running_mean",
                lambda _: mm.coarse(expected.mean + noise * np.sqrt(expected.var)),
                counted=False,
            )
            var, sigma2 = self.parameter(
                "running_var",
                lambda _: (expected.var * (1.0 + noise[::-1])).astype(np.float32),
                counted=False,
            )
        slope = gamma.astype(np.float64) / np.sqrt(sigma2.astype(np.float64) + self.eps)
        after = expected.affine(slope, beta - mu * slope)
        return self._one(
            "BatchNormalization", [x.name, scale, shift, mean, var], x.shape, after, name,
            epsilon=self.eps, momentum=0.9,
        )  # fmt: skip

    def dense(self, x: Value, out_features: int, name: str, gain: float = 1.0) -> Value:
        """Fully connected layer on `[N, features]`, exported as Gemm."""
        rows, features = x.shape
        with self.scope(name):
            weight, values = self.weight("weight", (out_features, features), math.sqrt(gain / features))
            bias = self._bias(out_features)
        self.count(rows * values.size)
        return self._one(
            "Gemm", [x.name, weight, bias], (rows, out_features),
            mm.through_weights(_moments(x), values, 1), name, alpha=1.0, beta=1.0, transB=1,
        )  # fmt: skip

    def linear(self, x: Value, out_features: int, name: str, gain: float = 1.0) -> Value:
        """Fully connected layer on the last axis of any tensor, exported as MatMul and Add."""
        features = x.shape[-1]
        with self.scope(name):
            key = self._path("weight")
            _, values = self.parameter(
                "weight",
                lambda k: random_weights.symmetric(k, (features, out_features), math.sqrt(gain / features)),
            )
            bias = self._bias(out_features)
        shape = (*x.shape[:-1], out_features)
        self.count(math.prod(x.shape[:-1]) * values.size)
        product = self._one("MatMul", [x.name, key], shape, name=name)
        return self._one("Add", [bias, product.name], shape, name=name)

    def layer_norm(self, x: Value, name: str, eps: float = 1e-6) -> Value:
        """Layer norm over the last axis (LayerNormalization, opset 17)."""
        size = x.shape[-1]
        with self.scope(name):
            scale, _ = self.parameter("weight", lambda k: random_weights.uniform(k, (size,), 0.8, 1.2))
            shift, _ = self.parameter("bias", lambda k: random_weights.uniform(k, (size,), -0.1, 0.1))
        return self._one(
            "LayerNormalization", [x.name, scale, shift], x.shape, name=name, axis=-1, epsilon=eps
        )

    # -- element-wise -------------------------------------------------------------------------------------
    def _map(
        self,
        x: Value,
        op: str,
        inputs: Sequence[str],
        f: Callable[[mm.Array], mm.Array],
        **at: Any,  # noqa: ANN401 - ONNX attributes
    ) -> Value:
        moments = x.moments.through(f) if x.moments is not None else None
        return self._one(op, [x.name, *inputs], x.shape, moments, None, **at)

    def relu(self, x: Value) -> Value:
        """`max(x, 0)`."""
        return self._map(x, "Relu", (), lambda v: np.maximum(v, 0))

    def clip(self, x: Value, low: float, high: float) -> Value:
        """`min(max(x, low), high)`; ReLU6 is exported so."""
        bounds = [self.constant(f"const.{v:g}", np.array(v, np.float32)) for v in (low, high)]
        return self._map(x, "Clip", bounds, lambda v: np.clip(v, low, high))

    def relu6(self, x: Value) -> Value:
        """`min(max(x, 0), 6)`."""
        return self.clip(x, 0.0, 6.0)

    def hard_sigmoid(self, x: Value) -> Value:
        """`clip(x / 6 + 1/2, 0, 1)` (MobileNetV3)."""
        return self._map(x, "HardSigmoid", (), lambda v: np.clip(v / 6 + 0.5, 0, 1), alpha=1 / 6, beta=0.5)

    def hard_swish(self, x: Value) -> Value:
        """`x * hard_sigmoid(x)` (MobileNetV3), the ONNX operator HardSwish."""
        return self._map(x, "HardSwish", (), lambda v: v * np.clip(v / 6 + 0.5, 0, 1))

    def sigmoid(self, x: Value) -> Value:
        """Logistic function."""
        return self._map(x, "Sigmoid", (), _logistic)

    def tanh(self, x: Value) -> Value:
        """Hyperbolic tangent."""
        return self._map(x, "Tanh", (), np.tanh)

    def silu(self, x: Value) -> Value:
        """`x * sigmoid(x)`, exported as Sigmoid and Mul."""
        product = self.mul(x, self.sigmoid(x))
        moments = x.moments.through(lambda v: v * _logistic(v)) if x.moments is not None else None
        return replace(product, moments=moments)

    def gelu(self, x: Value) -> Value:
        """Gaussian error linear unit with erf, exported as PyTorch does: Div, Erf, Add, Mul, Mul."""
        root = self.constant("const.sqrt2", np.array(math.sqrt(2.0), np.float32))
        one = self.constant("const.one", np.array(1.0, np.float32))
        half = self.constant("const.half", np.array(0.5, np.float32))
        scaled = self._one("Div", [x.name, root], x.shape)
        erf = self._one("Erf", [scaled.name], x.shape)
        plus = self._one("Add", [erf.name, one], x.shape)
        product = self._one("Mul", [x.name, plus.name], x.shape)
        return self._one("Mul", [product.name, half], x.shape)

    def add(self, a: Value, b: Value) -> Value:
        """Element-wise sum, with broadcasting."""
        both = a.moments.plus(b.moments) if a.moments and b.moments else None
        return self._one("Add", [a.name, b.name], _broadcast(a, b), both)

    def mul(self, a: Value, b: Value) -> Value:
        """Element-wise product, with broadcasting."""
        both = a.moments.times(b.moments) if a.moments and b.moments else None
        return self._one("Mul", [a.name, b.name], _broadcast(a, b), both)

    def sub(self, a: Value, b: Value) -> Value:
        """Element-wise difference, with broadcasting; moments are forgotten."""
        return self._one("Sub", [a.name, b.name], _broadcast(a, b))

    def exp(self, x: Value) -> Value:
        """Element-wise exponential; moments are forgotten."""
        return self._one("Exp", [x.name], x.shape)

    def scale(self, x: Value, factor: float, shift: float = 0.0) -> Value:
        """`x * factor + shift` with scalar constants (the Add only where `shift` is not zero)."""
        moments = x.moments.affine(np.array(factor), np.array(shift)) if x.moments else None
        by = self.constant(f"const.{factor:.9g}", np.array(factor, np.float32))
        y = self._one("Mul", [x.name, by], x.shape, moments)
        if shift:
            offset = self.constant(f"const.{shift:.9g}", np.array(shift, np.float32))
            y = self._one("Add", [y.name, offset], x.shape, moments)
        return y

    def softmax(self, x: Value, axis: int = -1) -> Value:
        """Softmax along `axis`."""
        return self._one("Softmax", [x.name], x.shape, axis=axis)

    # -- pooling, resizing --------------------------------------------------------------------------------
    def max_pool(self, x: Value, kernel: int, stride: int, padding: int = 0, *, ceil: bool = False) -> Value:
        """Maximum over windows of `kernel` × `kernel`."""
        size = _pooled(x.shape, kernel, stride, padding, ceil)
        return self._one(
            "MaxPool", [x.name], (*x.shape[:2], *size), _moments(x).of_maximum(), ceil_mode=int(ceil),
            dilations=[1, 1], kernel_shape=[kernel] * 2, pads=[padding] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def avg_pool(self, x: Value, kernel: Pair, stride: Pair, padding: int = 0) -> Value:
        """Average over windows, padding counted (as PyTorch does by default)."""
        kh, kw = _pair(kernel)
        sh, sw = _pair(stride)
        h, w = (
            (s + 2 * padding - k) // st + 1 for s, k, st in zip(x.shape[2:], (kh, kw), (sh, sw), strict=True)
        )
        return self._one(
            "AveragePool", [x.name], (*x.shape[:2], h, w), _moments(x).shrunk(1 / math.sqrt(kh * kw)),
            ceil_mode=0, count_include_pad=1, kernel_shape=[kh, kw], pads=[padding] * 4, strides=[sh, sw],
        )  # fmt: skip

    def global_pool(self, x: Value) -> Value:
        """Average over height and width: `[N, C, 1, 1]`."""
        spread = 1 / max(1.0, math.sqrt(x.shape[2] * x.shape[3]))
        return self._one("GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1), _moments(x).shrunk(spread))

    def resize2x(self, x: Value) -> Value:
        """Nearest-neighbour upsampling by two."""
        scales = self.constant("const.scales2x", np.array([1, 1, 2, 2], np.float32))
        n, c, h, w = x.shape
        return self._one(
            "Resize", [x.name, "", scales], (n, c, 2 * h, 2 * w), x.moments, mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor", cubic_coeff_a=-0.75,
        )  # fmt: skip

    # -- shapes -------------------------------------------------------------------------------------------
    def concat(self, values: Sequence[Value], axis: int = 1) -> Value:
        """Join along `axis`."""
        shape = list(values[0].shape)
        axis %= len(shape)
        shape[axis] = sum(v.shape[axis] for v in values)
        parts = [v.moments for v in values if v.moments is not None]
        moments = mm.joined(parts) if axis == 1 and len(parts) == len(values) else None
        return self._one("Concat", [v.name for v in values], tuple(shape), moments, axis=axis)

    def split(self, x: Value, sizes: Sequence[int], axis: int = 1) -> list[Value]:
        """Cut into pieces of `sizes` along `axis`."""
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        pieces = self.node("Split", [x.name, self.ints(*sizes)], shapes, axis=axis)
        if axis != 1 or x.moments is None:
            return pieces
        edges = np.cumsum([0, *sizes])
        return [
            replace(piece, moments=x.moments.pick(np.arange(a, b)))
            for piece, a, b in zip(pieces, edges, edges[1:], strict=False)
        ]

    def reshape(self, x: Value, shape: tuple[int, ...], moments: Moments | None = None) -> Value:
        """Change the shape; moments are forgotten unless given anew."""
        if math.prod(shape) != math.prod(x.shape):
            raise ValueError(f"cannot reshape {x.shape} to {shape} in {self.name}")
        return self._one("Reshape", [x.name, self.ints(*shape)], shape, moments)

    def transpose(self, x: Value, *order: int) -> Value:
        """Permute the axes."""
        return self._one("Transpose", [x.name], tuple(x.shape[i] for i in order), perm=list(order))

    def flatten(self, x: Value) -> Value:
        """`[N, C, 1, 1]` or any other shape to `[N, features]`."""
        rest = math.prod(x.shape[1:])
        moments = x.moments
        if moments is not None and rest != x.channels:
            repeats = rest // x.channels
            moments = Moments(np.repeat(moments.mean, repeats), np.repeat(moments.var, repeats))
        return self._one("Flatten", [x.name], (x.shape[0], rest), moments, axis=1)

    def channel_shuffle(self, x: Value, groups: int) -> Value:
        """Interleave `groups` groups of channels (ShuffleNet): Reshape, Transpose, Reshape."""
        n, c, h, w = x.shape
        split = self.reshape(x, (n, groups, c // groups, h, w))
        swapped = self.transpose(split, 0, 2, 1, 3, 4)
        order = np.arange(c).reshape(groups, c // groups).T.reshape(-1)
        return self.reshape(swapped, x.shape, x.moments.pick(order) if x.moments else None)

    def matmul(self, a: Value, b: Value) -> Value:
        """Batched product over the last two axes."""
        shape = (*a.shape[:-1], b.shape[-1])
        self.count(math.prod(shape) * a.shape[-1])
        return self._one("MatMul", [a.name, b.name], shape)

    def gather_rows(self, table: str, indices: str, shape: tuple[int, ...]) -> Value:
        """Rows of the initializer `table` at int64 `indices` (an embedding); the result has `shape`."""
        return self._one("Gather", [table, indices], shape, axis=0)

    def squeeze(self, x: Value, axis: int) -> Value:
        """Drop an axis of size one."""
        return self._one("Squeeze", [x.name, self.ints(axis)], (*x.shape[:axis], *x.shape[axis + 1 :]))

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """`x[start:stop]` along `axis`."""
        shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])
        inputs = [x.name, self.ints(start), self.ints(stop), self.ints(axis)]
        return self._one("Slice", inputs, shape)

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
    """Write `model` to `path`: first to a temporary name beside it, then renamed."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(model.SerializeToString(deterministic=True))
    part.replace(path)


def _filters(
    key: str, shape: tuple[int, int, int, int], std: float, x: Value, groups: int
) -> NDArray[np.float32]:
    """Random filters, blind to the channels' expected means where there are channels enough.

    Zero padding then changes no expected value, and no constant part grows from layer to layer.
    """
    values = random_weights.symmetric(key, shape, std)
    if groups > 1 or shape[1] < 8:
        return values
    mean = mm.coarse(_moments(x).mean)
    power = float(mean.astype(np.float64) @ mean)
    if power < 1e-3:
        return values
    along = np.einsum("ochw,c->ohw", values.astype(np.float64), mean.astype(np.float64)) / power
    result: NDArray[np.float32] = values - mm.coarse(along)[:, None] * mean[None, :, None, None]
    return result


def _moments(x: Value) -> Moments:
    return x.moments if x.moments is not None else Moments.standard(x.channels)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _sides(value: Padding) -> tuple[int, int, int, int]:
    return (value, value, value, value) if isinstance(value, int) else value


def _broadcast(a: Value, b: Value) -> tuple[int, ...]:
    return tuple(int(n) for n in np.broadcast_shapes(a.shape, b.shape))


def _logistic(v: mm.Array) -> mm.Array:
    result: mm.Array = 1.0 / (1.0 + np.exp(-v))
    return result


def _pooled(shape: tuple[int, ...], kernel: int, stride: int, padding: int, ceil: bool) -> tuple[int, int]:
    sizes = []
    for size in shape[2:]:
        span = size + 2 * padding - kernel
        out = (-(-span // stride) if ceil else span // stride) + 1
        if ceil and (out - 1) * stride >= size + padding:
            out -= 1
        sizes.append(out)
    return sizes[0], sizes[1]
