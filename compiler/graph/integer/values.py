"""What the rewriting to integers knows of a real value that has not been computed in floating point.

A value of the source function is one of:

- `Coded`: stored integers on a grid, `(code - zero) * scale`;
- `Mapped`: a function of the 8-bit codes of another tensor, known for each of their 256 values;
- `Linear`: a sum of integers with real factors, such as the result of a convolution before it is quantised again;
- `Joined`: such values one after the other along an axis;
- `Computed`: real numbers in floating point, made of integers in another way than the model says;
- an array, for what is known at compile time.

Scales, factors and zero points are arrays of rank 0, or of the value's rank so that they broadcast against it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from edgec.compiler.graph.rewrite import Array, Expr, dtype_of

BYTES = ("int8", "uint8")
STORED = (*BYTES, "int16", "uint16")


@dataclass(frozen=True)
class Coded:
    """Stored integers on a grid.

    Attributes:
        data: the integers, of 8 to 32 bits.
        scale, zero: float64 and int64.
        array: the integers of a constant.
        root: 8-bit codes that these integers are a function of, and that function, by the position of the code.
    """

    data: Expr
    scale: Array
    zero: Array
    array: Array | None = None
    root: tuple[Expr, Array] | None = None

    @property
    def dtype(self) -> str:
        """The type of the stored integers."""
        return dtype_of(self.data)

    @property
    def per_tensor(self) -> bool:
        """Whether one scale and one zero point hold for all elements."""
        return self.scale.size == 1 and self.zero.size == 1

    def same_grid(self, other: Coded) -> bool:
        """Whether equal integers are equal numbers."""
        pairs = ((self.scale, other.scale), (self.zero, other.zero))
        return self.dtype == other.dtype and all(
            a.size == b.size == 1 and a.reshape(()) == b.reshape(()) for a, b in pairs
        )

    def real(self) -> Array:
        """The real values of a constant, exact in float64 up to one rounding."""
        assert self.array is not None
        return (self.array.astype(np.int64) - self.zero) * self.scale


@dataclass(frozen=True)
class Term:
    """`(data + shift) * factor`.

    Attributes:
        data: integers.
        shift: added to them, int64.
        factor: float64.
        most: the largest magnitude of `data`, and so of its partial sums.
        count: of how many elements it is the average; `factor` is divided by it already.
    """

    data: Expr
    shift: Array
    factor: Array
    most: float
    count: int = 1


@dataclass(frozen=True)
class Linear:
    """The sum of terms and an offset, limited to `low` … `high`."""

    terms: tuple[Term, ...]
    offset: Array
    low: float = -np.inf
    high: float = np.inf

    @property
    def limited(self) -> bool:
        """Whether there are limits, behind which nothing can be added."""
        return self.low > -np.inf or self.high < np.inf

    def times(self, factor: Array) -> Linear | None:
        """The product with constants; None where limits would differ by element."""
        if self.limited and (factor.size != 1 or float(factor.reshape(())) <= 0):
            return None
        terms = tuple(replace(term, factor=term.factor * factor) for term in self.terms)
        first = float(factor.reshape(-1)[0]) if self.limited else 1.0
        return Linear(terms, self.offset * factor, self.low * first, self.high * first)

    def plus(self, other: Linear) -> Linear | None:
        """The sum of two values, of which neither is limited."""
        if self.limited or other.limited:
            return None
        return Linear(self.terms + other.terms, self.offset + other.offset)

    def within(self, low: float, high: float) -> Linear:
        """The value limited further."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))


@dataclass(frozen=True)
class Mapped:
    """A function of 8-bit codes.

    Attributes:
        root: the codes.
        real: its value for each of them, the least code first; float64, or boolean. Every step towards it was
            rounded to float32, as kernels for real numbers do.
        linear: the same as arithmetic, where it is a line within limits.
    """

    root: Expr
    real: Array
    linear: Linear | None = None


@dataclass(frozen=True)
class Joined:
    """Values one after the other along an axis."""

    parts: tuple[Coded | Mapped | Linear, ...]
    axis: int


@dataclass(frozen=True)
class Computed:
    """A real value in floating point, made from integers so that it has the same bits everywhere."""

    data: Expr


Value: TypeAlias = Coded | Mapped | Linear | Joined | Computed | Array


def codes_of(dtype: str) -> Array:
    """All integers of a type, the least first."""
    limits = np.iinfo(dtype)
    return np.arange(int(limits.min), int(limits.max) + 1)


def magnitude(dtype: str) -> int:
    """The largest magnitude of a type's integers."""
    limits = np.iinfo(dtype)
    return max(-int(limits.min), int(limits.max))


def linear_of(value: Value | None) -> Linear | None:
    """A value as a sum of terms; None where it is none."""
    if isinstance(value, Linear):
        return value
    if isinstance(value, Mapped):
        return value.linear
    if isinstance(value, Coded):
        return Linear((Term(value.data, -value.zero, value.scale, magnitude(value.dtype)),), np.zeros(()))
    if isinstance(value, np.ndarray):
        return Linear((), value.astype(np.float64))
    return None


def mapped_of(value: Value | None) -> Mapped | None:
    """A value as a function of 8-bit codes; None where it is none."""
    if isinstance(value, Mapped):
        return value
    if not isinstance(value, Coded) or value.dtype not in BYTES or not value.per_tensor:
        return None
    root, codes = value.root or (value.data, codes_of(value.dtype))
    real = (codes - value.zero.reshape(())) * value.scale.reshape(())
    return Mapped(root, in_float32(real), linear_of(value))


def in_float32(real: Array) -> Array:
    """Real numbers rounded to float32, stored as float64; truth values as they are."""
    if real.dtype == np.bool_:
        return real
    with np.errstate(all="ignore"):
        return real.astype(np.float32).astype(np.float64)
