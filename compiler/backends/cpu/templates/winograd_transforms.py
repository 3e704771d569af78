"""The minimal filtering algorithms F(m×m, 3×3): straight-line code for their transforms, and their matrices.

Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. A tile of
`m`×`m` results comes from `t`×`t` inputs, `t = m + 2`, through `Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A`. The
matrices follow from the points at which the polynomials are evaluated (Cook and Toom): 0, infinity and
pairs ±p. The rows for p and −p share their even and odd halves, which is what the straight-line code does.

For m = 4 the points are not Lavin's ±1, ±2 but ±5/8, ±3/2: as many multiply-adds, and less than half the
error (root mean square 2.0 instead of 4.3 times that of a direct sum; 128 channels). B. Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution", ACM TOMS 2020, choose points in this
way.

For m = 6 the error is least with ±1/2, ±1, ±2 (of three pairs out of eighths and quarters up to 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Matrix = npt.NDArray[np.float64]

# Pairs ±p of evaluation points for each tile size m.
POINTS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.625, 1.5), 6: (0.5, 1.0, 2.0)}


class Linear(Protocol):
    """A value that can be added and subtracted: a number, an array, an expression."""

    def __add__(self, other: Any, /) -> Any:  # noqa: ANN401  (of the same kind)
        """Sum."""

    def __sub__(self, other: Any, /) -> Any:  # noqa: ANN401
        """Difference."""


T = TypeVar("T", bound=Linear)


def tile_size(m: int) -> int:
    """Rows (and columns) of the input tile, and of the transformed tile."""
    return m + 2


def weight_matrix(m: int) -> Matrix:
    """G, `[m + 2, 3]`; rows in the order 0, +p, −p for each pair, infinity."""
    return _matrix_of(lambda d: weight_transform(m, d, _Numbers()), 3)


def input_matrix(m: int) -> Matrix:
    """Bᵀ, `[m + 2, m + 2]`."""
    return _matrix_of(lambda d: input_transform(m, d, _Numbers()), tile_size(m))


def output_matrix(m: int) -> Matrix:
    """Aᵀ, `[m, m + 2]`."""
    return _matrix_of(lambda d: output_transform(m, d, _Numbers()), tile_size(m))


class Arithmetic(Generic[T]):
    """What straight-line code needs of its values, beside sums."""

    def name(self, value: T) -> T:
        """Keep a value that is used more than once."""
        return value

    def scaled(self, factor: float, value: T) -> T:
        """`factor × value`."""
        raise TypeError(f"{type(self).__name__} cannot scale")


class _Numbers(Arithmetic[Matrix]):
    """numpy arrays."""

    def scaled(self, factor: float, value: Matrix) -> Matrix:
        return factor * value


def weight_transform(m: int, g: Sequence[T], arithmetic: Arithmetic[T]) -> list[T]:
    """`G g` for one column `g` of three weights."""
    pairs = POINTS[m]
    made = [arithmetic.scaled(1.0 / _even_polynomial(pairs)[0], g[0])]
    for p in pairs:
        norm = 2 * p * p * math.prod(p * p - q * q for q in pairs if q != p)
        even = arithmetic.name(_combine([1 / norm, p * p / norm], [g[0], g[2]], arithmetic))
        odd = arithmetic.name(arithmetic.scaled(p / norm, g[1]))
        made += [even + odd, even - odd]
    return [arithmetic.name(value) for value in [*made, g[2]]]


def input_transform(m: int, d: Sequence[T], arithmetic: Arithmetic[T]) -> list[T]:
    """`Bᵀ d` for one column `d` of `m + 2` values."""
    pairs = POINTS[m]
    every = _even_polynomial(pairs)
    made = [_combine(every, [d[2 * i] for i in range(len(every))], arithmetic)]
    for p in pairs:
        others = _even_polynomial([q for q in pairs if q != p])
        even = arithmetic.name(_combine(others, [d[2 + 2 * i] for i in range(len(others))], arithmetic))
        odd = arithmetic.name(
            _combine([p * c for c in others], [d[1 + 2 * i] for i in range(len(others))], arithmetic)
        )
        made += [even + odd, even - odd]
    made.append(_combine(every, [d[1 + 2 * i] for i in range(len(every))], arithmetic))
    return [arithmetic.name(value) for value in made]


def output_transform(m: int, d: Sequence[T], arithmetic: Arithmetic[T]) -> list[T]:
    """`Aᵀ d` for one column `d` of `m + 2` values."""
    pairs = POINTS[m]
    even = [arithmetic.name(d[1 + 2 * i] + d[2 + 2 * i]) for i in range(len(pairs))]
    odd = [arithmetic.name(d[1 + 2 * i] - d[2 + 2 * i]) for i in range(len(pairs))]
    made = []
    for k in range(m):
        halves, factors = (even, odd)[k % 2], [p**k for p in pairs]
        if k == 0:
            factors, halves = [1.0, *factors], [d[0], *halves]
        if k == m - 1:
            factors, halves = [1.0, *factors], [d[-1], *halves]
        made.append(arithmetic.name(_combine(factors, halves, arithmetic)))
    return made


def _even_polynomial(pairs: Sequence[float]) -> list[float]:
    """Coefficients, lowest first, of the product of (y − p²) over the pairs, y standing for x²."""
    made = np.array([1.0])
    for p in pairs:
        made = np.convolve(made, [-p * p, 1.0])
    return [float(c) for c in made]


def _combine(factors: Sequence[float], values: Sequence[T], arithmetic: Arithmetic[T]) -> T:
    """The sum of `factor × value`: those without a factor first, so that the others are multiply-adds."""
    terms = sorted(
        ((f, v) for f, v in zip(factors, values, strict=True) if f != 0.0), key=lambda term: term[0] != 1.0
    )
    factor, value = terms[0]
    total = value if factor == 1.0 else arithmetic.scaled(factor, value)
    for factor, value in terms[1:]:
        if factor == 1.0:
            total = total + value
        elif factor == -1.0:
            total = total - value
        else:
            total = total + arithmetic.scaled(factor, value)
    return total


def _matrix_of(linear: Callable[[list[Matrix]], list[Matrix]], size: int) -> Matrix:
    """The matrix of a linear map from `size` values."""
    return np.stack(linear(list(np.eye(size))))
