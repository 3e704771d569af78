"""Specification of an attention kernel, `softmax(scale · queries · keysᵀ + mask) · values`, with its memory layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
FIXED = -1  # an axis of a source that stays at its offset


@dataclass(frozen=True)
class View:
    """The memory layout of an operand: maps a logical position to an element of the tensor `shape`.

    Transpositions, slices and broadcasts before an attention thus cost nothing. Axis `i` of the tensor is at
    `offsets[i]` plus the position along the logical axis `axes[i]`; where that is `FIXED`, at the offset alone.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    offsets: tuple[int, ...]

    @staticmethod
    def of(shape: Sequence[int]) -> View:
        """The tensor itself."""
        return View(tuple(shape), tuple(range(len(shape))), (0,) * len(shape))

    def at(self, position: Sequence[T]) -> list[T | int]:
        """The tensor's indices of the element at a logical `position`."""
        found: list[T | int] = []
        for axis, offset in zip(self.axes, self.offsets, strict=True):
            if axis == FIXED:
                found.append(offset)
            else:
                found.append(position[axis] + offset if offset else position[axis])  # type: ignore[operator]
        return found

    def runs_along(self, axis: int) -> bool:
        """Whether neighbours along the logical `axis` are neighbours in memory."""
        return self.axes[-1] == axis


@dataclass(frozen=True)
class Band:
    """The keys that queries see: query `i` none before key `i + first`, and none behind `i + last`."""

    first: int
    last: int

    def rounds(self, begin: int, rows: int, keys: int, length: int) -> range:
        """The tiles of `length` of `keys` keys that the `rows` queries from `begin` on see anything of."""
        low = max(begin + self.first, 0) // length
        high = max(min(begin + rows - 1 + self.last, keys - 1) // length + 1, 0)
        return range(min(low, high), high)


@dataclass(frozen=True)
class AttentionTypes:
    """Data types of an attention's parameters, and what is known of its mask.

    Attributes:
        operands: of queries, keys and values.
        result: of the result.
        mask: `float32` is added to the scaled products; `bool` says which of them count.
        fill: the score where a `bool` mask is false.
        zeros: a query whose scores are all -inf, as it sees no key, gives zeros; NaN without.
        band: the keys that queries can see at all; the mask hides the others. Kernels need not visit them.
    """

    operands: str = "float32"
    result: str = "float32"
    mask: str = "float32"
    fill: float = -math.inf
    zeros: bool = False
    band: Band | None = None


@dataclass(frozen=True)
class AttentionSpec:
    """An attention, over float32 tensors unless `AttentionTypes` says otherwise.

    Logical shapes: queries `[*batch, rows, inner]`, keys `[*batch, keys, inner]`, values `[*batch, keys, cols]`,
    mask (added to the scaled products) `[*batch, rows, keys]`, result `[*batch, rows, cols]`. Values run along
    their columns in memory.

    Attributes:
        order: the axes of the result's tensor in terms of the logical ones: a transposition behind it.
        lanes: elements of a vector.
    """

    batch: tuple[int, ...]
    rows: int
    keys: int
    inner: int
    cols: int
    scale: float
    query: View
    key: View
    value: View
    mask: View | None
    order: tuple[int, ...]
    lanes: int
    dtype: str = "float32"

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the result's tensor."""
        logical = (*self.batch, self.rows, self.cols)
        return tuple(logical[axis] for axis in self.order)

    @property
    def flops(self) -> int:
        """Floating point operations of both products, a multiply-add counted as two."""
        total = 2 * self.rows * self.keys * (self.inner + self.cols)
        for extent in self.batch:
            total *= extent
        return total

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> AttentionSpec:
        """The specification that `dataclasses.asdict` took apart."""
        views = {
            name: View(**fields[name]) if fields[name] is not None else None
            for name in ("query", "key", "value", "mask")
        }
        return AttentionSpec(**{**fields, **views})
