"""What the operators on blocked tensors compute, as TE definitions that the templates then implement fast.

A blocked activation is `[batch, channel_blocks, height, width, lanes]`; lanes beyond the last channel hold
values that nothing reads into a result. Weights of a convolution are ``[out_blocks, in_chunks, kernel_height,
kernel_width, chunk, lanes]`` with the input channels of one group in chunks (see `ConvSpec.chunk`): in the order in
which kernels read them, so that the processor fetches them ahead. Depthwise weights are
`[channel_blocks, kernel_height, kernel_width, lanes]`. Every function returns a PrimFunc whose anchor block carries
its specification as JSON under the annotation `edgec`; a PrimFunc without a template is scheduled generically and
still computes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.graph import anchors
from edgec.compiler.graph.anchors import ANCHOR
from edgec.compiler.graph.attention_spec import AttentionSpec, View
from edgec.compiler.operands.operands import FLOAT32, OPERANDS, Operands


@dataclass(frozen=True)
class Window:
    """A sliding window over height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)  # before: top, left
    out: tuple[int, int] = (1, 1)  # output height, width

    def reach(self, axis: int, tap: int, run: tuple[int, int], size: int) -> tuple[int, int]:
        """Of a run of outputs along `axis` (first, how many) those, as (first, end) in the run, for which kernel
        element `tap` reads inside an input of `size`.
        """
        first, count = run
        offset = tap * self.dilation[axis] - self.pad[axis]
        inside = [i for i in range(count) if 0 <= (first + i) * self.stride[axis] + offset < size]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)


@dataclass(frozen=True)
class ConvSpec:
    """A 2-d convolution on blocked tensors.

    `in_block` is 0 when the input is plain NCHW. `groups` > 1 with `depthwise` unset needs channels per group
    that fill whole blocks.
    """

    batch: int
    in_channels: int
    in_size: tuple[int, int]
    out_channels: int
    window: Window
    lanes: int
    in_block: int
    groups: int = 1
    depthwise: bool = False
    dtype: str = "float32"  # of the sums and of the result
    operands: Operands = FLOAT32

    @property
    def flops(self) -> int:
        """Floating point operations, a multiply-add counted as two."""
        out = self.window.out[0] * self.window.out[1] * self.batch * self.out_channels
        return 2 * out * self.window.kernel[0] * self.window.kernel[1] * (self.in_channels // self.groups)

    @property
    def chunk(self) -> int:
        """Input channels that lie together for a tap in the weights: `lanes`, or all of a group that is no multiple."""
        per_group = self.in_channels // self.groups
        return per_group if per_group % self.lanes else self.lanes


@dataclass(frozen=True)
class PoolSpec:
    """Pooling of a blocked tensor. `kind` is `max`, `sum`, `avg` or `avg_valid` (padding not counted)."""

    kind: str
    batch: int
    blocks: int
    in_size: tuple[int, int]
    window: Window
    lanes: int
    dtype: str = "float32"


@dataclass(frozen=True)
class DenseSpec:
    """`[rows, inner] × [inner, cols]` with constant weights packed as `[col_blocks, inner, lanes]`."""

    rows: int
    inner: int
    cols: int
    lanes: int
    dtype: str = "float32"  # of the sums and of the result
    operands: Operands = FLOAT32


@dataclass(frozen=True)
class MatmulSpec:
    """`[*batch, rows, inner] × [*batch, inner, cols]`, both computed at run time."""

    batch: tuple[int, ...]
    rows: int
    inner: int
    cols: int
    lanes: int
    dtype: str = "float32"


Spec = ConvSpec | PoolSpec | DenseSpec | MatmulSpec | AttentionSpec
_SPECS: dict[str, type] = {
    "conv": ConvSpec, "pool": PoolSpec, "dense": DenseSpec, "matmul": MatmulSpec, "attention": AttentionSpec,
}  # fmt: skip
_PARTS: dict[str, type] = {"window": Window, "query": View, "key": View, "value": View, "mask": View}


def encode(spec: Spec) -> str:
    """The specification as text, for an annotation and for cache keys."""
    kind = next(name for name, cls in _SPECS.items() if isinstance(spec, cls))
    fields = asdict(spec)
    if isinstance(spec, ConvSpec | DenseSpec):
        fields["operands"] = spec.operands.name
        if spec.operands == FLOAT32:
            del fields["operands"]  # the usual case has the keys that winners are known by
    return anchors.encode(kind, fields)


def decode(text: str) -> Spec:
    """The specification that `encode` wrote."""
    kind, fields = anchors.decode(text)
    if "operands" in fields:
        fields["operands"] = OPERANDS[fields["operands"]]
    for name, value in fields.items():
        if isinstance(value, dict):
            fields[name] = _PARTS[name](**value)
    made: Spec = _SPECS[kind](**fields)
    return made


def _prim_func(inputs: list[te.Tensor], output: te.Tensor, spec: Spec | None = None) -> PrimFunc:
    made: PrimFunc = te.create_prim_func([*inputs, output], index_dtype_override="int64")
    made = made.without_attr("global_symbol")
    return made if spec is None else made.with_attr(ANCHOR, encode(spec))


def _widened(element: tirx.Expr, spec: ConvSpec | DenseSpec) -> tirx.Expr:
    """`element` in the type of the sums."""
    return element if str(element.dtype) == spec.dtype else element.astype(spec.dtype)


def _inside(y: tirx.Expr, x: tirx.Expr, size: tuple[int, int]) -> tirx.Expr:
    return tirx.all(y >= 0, y < size[0], x >= 0, x < size[1])


def conv2d(spec: ConvSpec) -> PrimFunc:
    """Dense or grouped convolution (see `ConvSpec`); zero padding is part of it."""
    lanes, w = spec.lanes, spec.window
    blocks = -(-spec.out_channels // lanes)
    per_group = spec.in_channels // spec.groups
    height, width = spec.in_size
    if spec.in_block:
        data_shape: tuple[int, ...] = (
            spec.batch, -(-spec.in_channels // spec.in_block), height, width, spec.in_block,
        )  # fmt: skip
    else:
        data_shape = (spec.batch, spec.in_channels, height, width)
    operands, chunk = spec.operands, spec.chunk
    data = te.placeholder(data_shape, operands.data, "data")
    weight_shape = (blocks, per_group // chunk, *w.kernel, *operands.packed_shape(chunk, lanes))
    weight = te.placeholder(weight_shape, operands.weight, "weight")
    ic = te.reduce_axis((0, per_group), "ic")
    ky = te.reduce_axis((0, w.kernel[0]), "ky")
    kx = te.reduce_axis((0, w.kernel[1]), "kx")
    group_blocks = blocks // spec.groups

    def load(n: tirx.Expr, channel: tirx.Expr, y: tirx.Expr, x: tirx.Expr) -> tirx.Expr:
        if spec.in_block:
            value = data[n, channel // spec.in_block, y, x, channel % spec.in_block]
        else:
            value = data[n, channel, y, x]
        inside = _inside(y, x, spec.in_size)
        return tirx.if_then_else(inside, _widened(value, spec), tirx.const(0, spec.dtype))

    def factor(b: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        place = operands.packed_place(ic % chunk, v)
        return _widened(weight[b, ic // chunk, ky, kx, *place], spec)

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0]
        ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1]
        channel = ic if spec.groups == 1 else (b // group_blocks) * per_group + ic
        return te.sum(load(n, channel, iy, ix) * factor(b, v), axis=[ic, ky, kx])

    out = te.compute((spec.batch, blocks, *w.out, lanes), body, name="conv", attrs={ANCHOR: encode(spec)})
    return _prim_func([data, weight], out, spec)


def depthwise(spec: ConvSpec) -> PrimFunc:
    """Convolution of each channel with its own kernel."""
    lanes, w = spec.lanes, spec.window
    blocks = -(-spec.in_channels // lanes)
    data = te.placeholder((spec.batch, blocks, *spec.in_size, lanes), spec.dtype, "data")
    weight = te.placeholder((blocks, *w.kernel, lanes), spec.dtype, "weight")
    ky = te.reduce_axis((0, w.kernel[0]), "ky")
    kx = te.reduce_axis((0, w.kernel[1]), "kx")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0]
        ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1]
        value = tirx.if_then_else(
            _inside(iy, ix, spec.in_size), data[n, b, iy, ix, v], tirx.const(0, spec.dtype)
        )
        return te.sum(value * weight[b, ky, kx, v], axis=[ky, kx])

    out = te.compute(
        (spec.batch, blocks, *w.out, lanes), body, name="depthwise", attrs={ANCHOR: encode(spec)}
    )
    return _prim_func([data, weight], out, spec)


def pool(spec: PoolSpec) -> PrimFunc:
    """Maximum, or sum over the window (an average's division follows as its own block)."""
    w = spec.window
    data = te.placeholder((spec.batch, spec.blocks, *spec.in_size, spec.lanes), spec.dtype, "data")
    ky = te.reduce_axis((0, w.kernel[0]), "ky")
    kx = te.reduce_axis((0, w.kernel[1]), "kx")
    reducer: Callable[..., tirx.Expr] = te.max if spec.kind == "max" else te.sum
    empty = te.min_value(spec.dtype) if spec.kind == "max" else tirx.const(0, spec.dtype)

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0]
        ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1]
        return reducer(
            tirx.if_then_else(_inside(iy, ix, spec.in_size), data[n, b, iy, ix, v], empty), axis=[ky, kx]
        )

    shape = (spec.batch, spec.blocks, *w.out, spec.lanes)
    total = te.compute(shape, body, name="pool", attrs={ANCHOR: encode(spec)})
    if spec.kind in ("max", "sum"):
        return _prim_func([data], total, spec)
    mean = te.compute(shape, lambda n, b, y, x, v: _mean(total, spec, (n, b, y, x, v)), name="mean")
    return _prim_func([data], mean, spec)


def _mean(total: te.Tensor, spec: PoolSpec, index: tuple[tirx.Expr, ...]) -> tirx.Expr:
    """A window's sum divided by the number of elements that count."""
    w = spec.window
    if spec.kind == "avg":
        return total[index] * tirx.const(1.0 / (w.kernel[0] * w.kernel[1]), spec.dtype)
    count = tirx.const(1, "int64")
    for axis, at in ((0, index[2]), (1, index[3])):
        start = at * w.stride[axis] - w.pad[axis]
        end = tirx.min(start + w.kernel[axis], spec.in_size[axis])
        count = count * (end - tirx.max(start, 0))
    return total[index] / count.astype(spec.dtype)


def dense(spec: DenseSpec) -> PrimFunc:
    """Rows times a constant matrix (see `DenseSpec`)."""
    operands, blocks = spec.operands, -(-spec.cols // spec.lanes)
    data = te.placeholder((spec.rows, spec.inner), operands.data, "data")
    shape = (blocks, *operands.packed_shape(spec.inner, spec.lanes))
    weight = te.placeholder(shape, operands.weight, "weight")
    k = te.reduce_axis((0, spec.inner), "k")

    def product(m: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
        b, v = n // spec.lanes, n % spec.lanes
        factor = weight[b, *operands.packed_place(k, v)]
        return _widened(data[m, k], spec) * _widened(factor, spec)

    out = te.compute(
        (spec.rows, spec.cols),
        lambda m, n: te.sum(product(m, n), axis=k),
        name="dense",
        attrs={ANCHOR: encode(spec)},
    )
    return _prim_func([data, weight], out, spec)


def matmul(spec: MatmulSpec) -> PrimFunc:
    """Batched product (see `MatmulSpec`)."""
    left = te.placeholder((*spec.batch, spec.rows, spec.inner), spec.dtype, "left")
    right = te.placeholder((*spec.batch, spec.inner, spec.cols), spec.dtype, "right")
    k = te.reduce_axis((0, spec.inner), "k")

    def body(*at: tirx.Expr) -> tirx.Expr:
        *batch, m, n = at
        return te.sum(left[*batch, m, k] * right[*batch, k, n], axis=k)

    out = te.compute((*spec.batch, spec.rows, spec.cols), body, name="matmul", attrs={ANCHOR: encode(spec)})
    return _prim_func([left, right], out, spec)


def pack(shape: tuple[int, ...], lanes: int, dtype: str, nhwc: bool = False) -> PrimFunc:
    """NCHW (or NHWC) to blocked; the lanes beyond the last channel become zero."""
    batch, channels, height, width = (shape[0], shape[3], shape[1], shape[2]) if nhwc else shape
    data = te.placeholder(shape, dtype, "data")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        c = b * lanes + v
        value = data[n, y, x, c] if nhwc else data[n, c, y, x]
        if channels % lanes == 0:
            return value
        return tirx.if_then_else(c < channels, value, tirx.const(0, dtype))

    out = te.compute((batch, -(-channels // lanes), height, width, lanes), body, name="pack")
    return _prim_func([data], out)


def unpack(shape: tuple[int, ...], channels: int, dtype: str, nhwc: bool = False) -> PrimFunc:
    """Blocked to NCHW (or NHWC)."""
    batch, _, height, width, lanes = shape
    data = te.placeholder(shape, dtype, "data")
    if nhwc:
        out = te.compute(
            (batch, height, width, channels),
            lambda n, y, x, c: data[n, c // lanes, y, x, c % lanes],
            name="unpack",
        )
    else:
        out = te.compute(
            (batch, channels, height, width),
            lambda n, c, y, x: data[n, c // lanes, y, x, c % lanes],
            name="unpack",
        )
    return _prim_func([data], out)


def concat(channels: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> PrimFunc:
    """Concatenate blocked tensors along the channels, which need not fill whole blocks.

    Args:
        channels: of each input.
        shape: of the result, blocked.
    """
    lanes = shape[4]
    inputs = [
        te.placeholder((shape[0], -(-c // lanes), shape[2], shape[3], lanes), dtype, f"data{i}")
        for i, c in enumerate(channels)
    ]

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        c, start = b * lanes + v, sum(channels)
        value = tirx.const(0, dtype)
        for data, count in zip(reversed(inputs), reversed(channels), strict=True):
            end, start = start, start - count
            aligned = start % lanes == 0
            here = (
                data[n, b - start // lanes, y, x, v]
                if aligned
                else data[n, (c - start) // lanes, y, x, (c - start) % lanes]
            )
            inside = b < -(-end // lanes) if end % lanes == 0 else c < end
            value = tirx.if_then_else(inside, here, value)
        return value

    return _prim_func(inputs, te.compute(shape, body, name="concat"))


def take_channels(shape: tuple[int, ...], begin: int, count: int, dtype: str) -> PrimFunc:
    """`count` channels of a blocked tensor from channel `begin` on, blocked."""
    lanes = shape[4]
    data = te.placeholder(shape, dtype, "data")

    def body(n: tirx.Expr, b: tirx.Expr, y: tirx.Expr, x: tirx.Expr, v: tirx.Expr) -> tirx.Expr:
        if begin % lanes == 0:
            return data[n, b + begin // lanes, y, x, v]
        c = tirx.min(b * lanes + v + begin, shape[1] * lanes - 1)
        return data[n, c // lanes, y, x, c % lanes]

    out = te.compute((shape[0], -(-count // lanes), *shape[2:]), body, name="take_channels")
    return _prim_func([data], out)
