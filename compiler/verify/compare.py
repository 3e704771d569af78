"""How far a compiled model's outputs are from the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgec.compiler.options import ERROR_BUDGET

Array: TypeAlias = npt.NDArray[Any]
EXACT_KINDS = "biu"  # booleans and integers: class numbers, indices
QUANTISED_BUDGET = 0.05  # a value on a rounding edge may fall on either side, and later layers carry that on
ROUNDING = 8.0  # times what perturbation does (a few units a value): right kernels stay below 1
SENSITIVE = 2.0  # the same where rounding alone takes a model to its budget
MOST_SENSITIVE = 0.1  # of the largest value
FLOOR = 4e-6  # of the largest value: some 32 units in the last place
FLIPS = 4  # times as many discrete values may differ as do between two perturbed runs
ONE_STEP = 1.001  # of a grid, as real numbers
FINE = 1e-3  # of the largest value: any number of values may differ by so small a step, as of 16 bits
FEW, EDGES = (
    2,
    1 / 64,
)  # values of an output, and the share of them, that may lie on an edge between two steps
ELEMENTS = 16  # of a slice that is compared on its own


@dataclass(frozen=True)
class OutputError:
    """The error of one output.

    Attributes:
        max_abs: largest absolute difference, over the values finite on both sides.
        max_rel: `max_abs` divided by the largest absolute value of the reference.
        cosine: of the angle between both outputs, flattened; 1 when equal.
        mismatches: elements that differ, for integers and booleans; elsewhere those whose NaN or infinity
            does not match.
        ok: within what is accepted.
        undefined: every value of the reference is NaN, so that equality shows nothing.
        step: the run of a sequence that it is of, from 1; 0 for a run that stands alone.
        accepted: the largest `max_rel` that was accepted.
        rounding: what rounding does to the output, relative to its largest value; None where it was not measured.
        hollow: why equality shows little, such as `has the same values on every input`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    cosine: float
    mismatches: int
    ok: bool
    undefined: bool = False
    step: int = 0
    accepted: float | None = None
    rounding: float | None = None
    hollow: str = ""

    @property
    def verdict(self) -> str:
        """The error in words, for tables and messages."""
        if self.ok and self.undefined:
            return "every value is NaN"
        where = f" in run {self.step}" if self.step else ""
        if self.mismatches:
            return f"{self.mismatches} of {int(np.prod(self.shape))} values differ{where}"
        told = f"largest error {self.max_abs:.2g} ({self.max_rel:.1g} of the largest value"
        if not self.ok and self.accepted is not None:
            within = self.max_rel <= self.accepted
            told += "; too much in a part of smaller values" if within else f"; accepted {self.accepted:.1g}"
        return f"{told}){where}"


@dataclass(frozen=True)
class Accepted:
    """What is accepted of one output: relative to its largest value, and for slices relative to rounding."""

    relative: float
    rounding: float | None = None


def compare(
    name: str,
    reference: npt.NDArray[np.generic],
    got: npt.NDArray[np.generic],
    budget: float,
    *,
    spread: float = 0.0,
    stored: bool = False,
    perturbed: Sequence[Array] = (),
    grid: float = 0.0,
) -> OutputError:
    """Compare one output with its reference.

    Integers and booleans have to be equal. NaNs have to be in the same places, infinities too and of the same
    sign. Finite values may differ by `budget` times the largest absolute value of the reference, and where
    `perturbed` is given by no more than a multiple of what rounding does to them.

    Args:
        spread: how far the reference's own implementations are apart; a difference up to twice that is fine.
        stored: integers of 8 bits, and those of 16 on a grid, represent real numbers, and may differ like these.
        perturbed: the outputs of two runs of the reference that differ by some units in the last place.
        grid: the step of the grid on which the output lies, 0 without one: few values, those on the edge between two
            steps, may differ by one; any number of them where a step is small.
    """
    if reference.shape != got.shape or reference.dtype != got.dtype:
        return OutputError(
            name, str(got.dtype), got.shape, np.inf, np.inf, 0.0, max(int(reference.size), 1), ok=False
        )
    usable = len(perturbed) == 2 and all(run.shape == reference.shape for run in perturbed)
    real = stored and (
        reference.dtype in (np.int8, np.uint8) or (grid and reference.dtype in (np.int16, np.uint16))
    )
    discrete = reference.dtype.kind in EXACT_KINDS and not real
    a, b = reference.astype(np.float64), got.astype(np.float64)
    first, second = (run.astype(np.float64) for run in perturbed) if usable else (a, a)
    if discrete:
        wrong, undefined = int(np.count_nonzero(reference != got)), False
        flips = int(np.count_nonzero(first != second))
    else:
        odd = ~np.isfinite(a) | ~np.isfinite(b)
        alike = (np.isnan(a) & np.isnan(b)) | (a == b)
        wrong = int(np.count_nonzero(odd & ~alike))
        flips = int(np.count_nonzero(np.isfinite(first) != np.isfinite(second)))
        undefined = bool(a.size) and bool(np.isnan(a).all())
        a, b = np.where(odd, 0.0, a), np.where(odd, 0.0, b)
    largest = float(np.abs(a).max(initial=0.0))
    difference = np.abs(a - b)
    max_abs = float(difference.max(initial=0.0))
    max_rel = max_abs / largest if largest > 0 else (0.0 if max_abs < 1e-6 else float("inf"))
    both = np.isfinite(first) & np.isfinite(second)
    noise = np.abs(np.where(both, first, 0.0) - np.where(both, second, 0.0))
    accepted = _accepted(noise if usable and not discrete else None, largest, budget)
    small = accepted.rounding is None and max_abs <= max(1e-6, ROUNDING * float(noise.max(initial=0.0)))
    within = max_rel <= accepted.relative or small or max_abs <= 2 * spread
    few = np.count_nonzero(difference) <= max(FEW, EDGES * difference.size) or grid <= FINE * largest
    on_edges = max_abs <= ONE_STEP * grid and few
    parts = accepted.rounding is None or spread > 0 or _slices_agree(difference, noise, np.abs(a))
    return OutputError(
        name,
        str(got.dtype),
        got.shape,
        max_abs,
        max_rel,
        cosine(a.reshape(-1), b.reshape(-1)),
        wrong,
        ok=wrong <= FLIPS * flips and (discrete or (within and parts) or bool(on_edges)),
        undefined=undefined,
        accepted=0.0 if discrete else accepted.relative,
        rounding=accepted.rounding,
    )


def _accepted(noise: Array | None, largest: float, budget: float) -> Accepted:
    """What is accepted of an output: its budget, or less where rounding explains no more."""
    if noise is None or not largest:
        return Accepted(budget)
    rounding = float(noise.max(initial=0.0)) / largest
    if budget >= ERROR_BUDGET["fp32"] and SENSITIVE * rounding > budget:  # a stricter one is the user's wish
        return Accepted(min(SENSITIVE * rounding, max(MOST_SENSITIVE, budget)), rounding)
    return Accepted(min(budget, max(ROUNDING * rounding, FLOOR)), rounding)


def _slices_agree(difference: Array, noise: Array, magnitude: Array) -> bool:
    """Whether every row, channel and column agrees as well as its own values and its own rounding allow.

    Beside boxes of some hundred pixels, a wrong score between 0 and 1 is a small error of the whole output.
    """
    least = noise.max(initial=0.0) / 10  # what the perturbation did to a slice is a sample
    for axes in _slicings(difference.shape):
        worst, own, size = (values.max(axes) for values in (difference, noise, magnitude))
        allowed = np.maximum(ROUNDING * np.maximum(own, least), FLOOR * size)
        if (worst > allowed).any():
            return False
    return True


def _slicings(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The axes to reduce, for slices along each axis that have enough elements to be compared alone."""
    total = int(np.prod(shape))
    for axis, length in enumerate(shape):
        if length > 1 and total // length >= ELEMENTS:
            yield tuple(other for other in range(len(shape)) if other != axis)


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """The cosine of the angle between two vectors; 1 for two zero vectors."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if lengths == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(np.clip(np.dot(a, b) / lengths, -1.0, 1.0))
