"""Specifications of the kernels that have a template, serialised as text in annotations and cache keys.

A blocked activation is `[batch, channel_blocks, height, width, lanes]`; no result depends on the lanes beyond the last
channel. Weights of a convolution are `[out_blocks, in_chunks, kernel_height, kernel_width, chunk, lanes]` with the
input channels of a group in chunks (see `ConvSpec.chunk`): the order in which kernels read them, so that the hardware
prefetches them. Depthwise weights are `[channel_blocks, kernel_height, kernel_width, lanes]`. The last two axes of the
weights of a product are packed as its operands require (see `edgec.compiler.operands`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from edgec.compiler.graph import anchors
from edgec.compiler.graph.attention_spec import AttentionSpec, View
from edgec.compiler.graph.narrow_products import NarrowSpec, RoundedSpec
from edgec.compiler.operands.operands import FLOAT32, OPERANDS, Operands


class Spec(Protocol):
    """What a kernel computes: a frozen dataclass of numbers, texts and `Window` or `View` parts."""

    @property
    def flops(self) -> int:
        """Floating point (or integer) operations of a call, a multiply-add counted as two."""


_Class = TypeVar("_Class", bound=type)
_SPECS: dict[str, type[Any]] = {}


def specification(name: str) -> Callable[[_Class], _Class]:
    """Register a dataclass as the specification that annotations and cache keys call `name`."""

    def register(cls: _Class) -> _Class:
        _SPECS[name] = cls
        return cls

    return register


@dataclass(frozen=True)
class Window:
    """A sliding window over height and width.

    Attributes:
        pad: before the image, at the top and at the left; the padding after it follows from `out`.
        out: height and width of the output.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    out: tuple[int, int] = (1, 1)

    def reach(self, axis: int, tap: int, run: tuple[int, int], size: int) -> tuple[int, int]:
        """The outputs of a run for which a kernel element reads inside the input.

        Args:
            axis: 0 for height, 1 for width.
            tap: index of the kernel element.
            run: outputs along `axis`, as (first, count).
            size: of the input along `axis`.

        Returns:
            (first, end), counted from the start of the run.
        """
        first, count = run
        offset = tap * self.dilation[axis] - self.pad[axis]
        inside = [i for i in range(count) if 0 <= (first + i) * self.stride[axis] + offset < size]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)


@specification("conv")
@dataclass(frozen=True)
class ConvSpec:
    """A 2-d convolution on blocked tensors.

    Attributes:
        lanes: channels of a block of the output.
        in_block: channels of a block of the input; 0 when the input is plain NCHW, all of them where it is NHWC.
        groups: above 1 with `depthwise` unset, the channels of a group have to fill whole blocks.
        depthwise: whether each channel has a kernel of its own.
        dtype: of the sums and of the result.
        operands: what is multiplied.
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
    dtype: str = "float32"
    operands: Operands = FLOAT32

    @property
    def flops(self) -> int:
        """Floating point operations, a multiply-add counted as two."""
        out = self.window.out[0] * self.window.out[1] * self.batch * self.out_channels
        return 2 * out * self.window.kernel[0] * self.window.kernel[1] * (self.in_channels // self.groups)

    @property
    def chunk(self) -> int:
        """Input channels stored together for each tap: `lanes`, two steps of squares, or an odd group whole."""
        per_group = self.in_channels // self.groups
        together = self.operands.depth if self.operands.squares else self.lanes
        return per_group if per_group % together else together


@specification("separable")
@dataclass(frozen=True)
class SeparableSpec:
    """A depthwise convolution and the 1×1 convolution that alone reads its result; both multiply float32.

    Element-wise operators may follow each of the two.
    """

    depthwise: ConvSpec
    pointwise: ConvSpec

    @property
    def flops(self) -> int:
        """Floating point operations of both, a multiply-add counted as two."""
        return self.depthwise.flops + self.pointwise.flops


@specification("winograd")
@dataclass(frozen=True)
class WinogradSpec:
    """A 3×3 convolution without stride whose weights are stored as Winograd's algorithm multiplies them.

    Its weights are one row: for each block of output channels `(m + 2)²` matrices `[in_channels, lanes]`, each
    followed by a vector of zeros where its vectors would be even in number (see `winograd_tiles.odd`). Where it
    multiplies 8-bit integers, they are four times the weights, vectors of words of two int16 channels
    (`integer_winograd`), and so is the result four times the sums.

    Attributes:
        m: results of a tile and axis.
    """

    batch: int
    in_channels: int
    in_size: tuple[int, int]
    out_channels: int
    window: Window
    lanes: int
    m: int
    operands: Operands = FLOAT32

    @property
    def conv(self) -> ConvSpec:
        """The convolution."""
        return ConvSpec(
            self.batch, self.in_channels, self.in_size, self.out_channels, self.window, self.lanes, self.lanes,
            dtype=self.operands.accumulator, operands=self.operands,
        )  # fmt: skip

    @property
    def flops(self) -> int:
        """Floating point operations of the convolution, a multiply-add counted as two."""
        return self.conv.flops


@specification("pool")
@dataclass(frozen=True)
class PoolSpec:
    """Pooling of a blocked tensor.

    Attributes:
        kind: `max`, `sum`, `avg`, or `avg_valid`, which does not count padding.
        blocks: blocks of channels.
        lanes: channels of a block.
    """

    kind: str
    batch: int
    blocks: int
    in_size: tuple[int, int]
    window: Window
    lanes: int
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """Comparisons or additions of a call."""
        return (
            self.batch * self.blocks * self.lanes * math.prod(self.window.out) * math.prod(self.window.kernel)
        )


@specification("dense")
@dataclass(frozen=True)
class DenseSpec:
    """`[rows, inner] × [inner, cols]` with constant weights packed as `[col_blocks, inner, lanes]`.

    Attributes:
        dtype: of the sums and of the result.
        operands: what is multiplied; its packing of the last two axes of the weights applies.
    """

    rows: int
    inner: int
    cols: int
    lanes: int
    dtype: str = "float32"
    operands: Operands = FLOAT32

    @property
    def flops(self) -> int:
        """Operations of a call, a multiply-add counted as two."""
        return 2 * self.rows * self.inner * self.cols


@specification("matmul")
@dataclass(frozen=True)
class MatmulSpec:
    """`[*batch, rows, inner] × [*batch, inner, cols]`, both computed at run time."""

    batch: tuple[int, ...]
    rows: int
    inner: int
    cols: int
    lanes: int
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """Operations of a call, a multiply-add counted as two."""
        return 2 * math.prod(self.batch) * self.rows * self.inner * self.cols


def lowest(dtype: str) -> float | int:
    """The least value of a type: where maxima start."""
    return -math.inf if dtype.startswith("float") else int(np.iinfo(dtype).min)


@dataclass(frozen=True)
class Run:
    """Channels in a row: number `k` of `count` is channel `first + k % wrap * step + k // wrap` of an operand.

    With a `wrap` of 1 they are neighbours, with `wrap == count` `step` apart; in a shuffle of groups, `wrap` is the
    number of groups. The operand `-1` stands for zeros.
    """

    operand: int
    first: int
    count: int
    step: int = 1
    wrap: int = 1

    def channel(self, k: int) -> int:
        """The operand's channel that is number `k`."""
        return self.first + k % self.wrap * self.step + k // self.wrap


@specification("channels")
@dataclass(frozen=True)
class ChannelsSpec:
    """Channels of blocked tensors in another order: concatenations, slices, shuffles, channels of zeros.

    Attributes:
        channels: of each operand.
        runs: of the result's channels, in order, as the fields of `Run`.
    """

    batch: int
    channels: tuple[int, ...]
    size: tuple[int, int]
    runs: tuple[tuple[int, int, int, int, int], ...]
    lanes: int
    dtype: str = "float32"

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return sum(count for _, _, count, _, _ in self.runs)

    @property
    def flops(self) -> int:
        """Elements that move."""
        return self.batch * self.out_channels * math.prod(self.size)


@specification("unpack")
@dataclass(frozen=True)
class UnpackSpec:
    """A blocked tensor as NCHW, with rows and columns of zeros around each image."""

    batch: int
    channels: int
    size: tuple[int, int]
    lanes: int
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """Elements that move."""
        return self.batch * self.channels * math.prod(self.size)


@specification("pack")
@dataclass(frozen=True)
class PackSpec:
    """An NCHW tensor in blocks of channels."""

    batch: int
    channels: int
    size: tuple[int, int]
    lanes: int
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """Elements that move."""
        return self.batch * self.channels * math.prod(self.size)


@specification("planar")
@dataclass(frozen=True)
class PlanarSpec:
    """A convolution of few output channels on NCHW tensors, whose padding is part of the input.

    Attributes:
        size: of the padded input.
        stride: of rows; columns have none.
    """

    batch: int
    in_channels: int
    size: tuple[int, int]
    out_channels: int
    kernel: tuple[int, int]
    dilation: tuple[int, int]
    stride: int
    out: tuple[int, int]
    lanes: int
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """Floating point operations, a multiply-add counted as two."""
        outputs = self.batch * self.out_channels * math.prod(self.out)
        return 2 * outputs * self.in_channels * math.prod(self.kernel)


@specification("resize")
@dataclass(frozen=True)
class ResizeSpec:
    """Linear interpolation of a blocked image; where it reads, and by what factors, is in tables.

    Attributes:
        blocks: blocks of channels.
        size: of the input.
        out: size of the output.
    """

    batch: int
    blocks: int
    size: tuple[int, int]
    out: tuple[int, int]
    lanes: int
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """Floating point operations: four products and their sum."""
        return 7 * self.batch * self.blocks * math.prod(self.out) * self.lanes


_PARTS: dict[str, type[Any]] = {
    "window": Window, "query": View, "key": View, "value": View, "mask": View, "depthwise": ConvSpec,
    "pointwise": ConvSpec,
}  # fmt: skip
specification("attention")(AttentionSpec)
specification("narrow-rounded")(RoundedSpec)
specification("narrow")(NarrowSpec)


def encode(spec: Spec) -> str:
    """The specification as text, for an annotation and for cache keys."""
    kind = next(name for name, cls in _SPECS.items() if isinstance(spec, cls))
    fields = asdict(spec)  # type: ignore[call-overload]  # every specification is a dataclass
    operands = getattr(spec, "operands", FLOAT32)
    for part in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        part.pop("operands", None)
    if operands != FLOAT32:  # the usual case has the keys that winners are known by
        fields["operands"] = operands.name
    return anchors.encode(kind, fields)


def decode(text: str) -> Spec:
    """The specification that `encode` wrote."""
    kind, fields = anchors.decode(text)
    if "operands" in fields:
        fields["operands"] = OPERANDS[fields["operands"]]
    made: Spec = _SPECS[kind](**{name: _part(name, value) for name, value in fields.items()})
    return made


def _part(name: str, value: Any) -> Any:  # noqa: ANN401 - any field of a specification
    if not isinstance(value, dict):
        return value
    return _PARTS[name](**{inner: _part(inner, part) for inner, part in value.items()})
