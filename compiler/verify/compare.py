"""How far a compiled model's outputs are from the reference's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EXACT_KINDS = "biu"  # booleans and integers: class numbers, indices
QUANTISED_BUDGET = 0.05  # a value on a rounding edge may fall on either side, and later layers carry that on


@dataclass(frozen=True)
class OutputError:
    """The error of one output.

    Attributes:
        max_abs: largest absolute difference, over the values finite on both sides.
        max_rel: `max_abs` divided by the largest absolute value of the reference.
        cosine: of the angle between both outputs, flattened; 1 when equal.
        mismatches: elements that differ, for integers and booleans; elsewhere those whose NaN or infinity
            does not match.
        ok: within the budget.
        undefined: every value of the reference is NaN, so that equality shows nothing.
        step: the run of a sequence that it is of, from 1; 0 for a run that stands alone.
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

    @property
    def verdict(self) -> str:
        """The error in words, for tables and messages."""
        if self.ok and self.undefined:
            return "every value is NaN"
        where = f" in run {self.step}" if self.step else ""
        if self.mismatches:
            return f"{self.mismatches} of {int(np.prod(self.shape))} values differ{where}"
        return f"largest error {self.max_abs:.2g} ({self.max_rel:.1g} of the largest value){where}"


def compare(
    name: str,
    reference: npt.NDArray[np.generic],
    got: npt.NDArray[np.generic],
    budget: float,
    *,
    spread: float = 0.0,
    stored: bool = False,
) -> OutputError:
    """Compare one output with its reference.

    Integers and booleans have to be equal. NaNs have to be in the same places, infinities too and of the same
    sign. Finite values may differ by `budget` times the largest absolute value of the reference.

    Args:
        spread: how far the reference's own implementations are apart; a difference up to twice that is fine.
        stored: 8-bit integers represent real numbers, and may differ like these.
    """
    if reference.shape != got.shape or reference.dtype != got.dtype:
        return OutputError(
            name, str(got.dtype), got.shape, np.inf, np.inf, 0.0, max(int(reference.size), 1), ok=False
        )
    if reference.dtype.kind in EXACT_KINDS and not (stored and reference.dtype in (np.int8, np.uint8)):
        wrong, undefined = int(np.count_nonzero(reference != got)), False
        a, b = reference.astype(np.float64), got.astype(np.float64)
    else:
        a, b = reference.astype(np.float64), got.astype(np.float64)
        odd = ~np.isfinite(a) | ~np.isfinite(b)
        alike = (np.isnan(a) & np.isnan(b)) | (a == b)
        wrong = int(np.count_nonzero(odd & ~alike))
        undefined = bool(a.size) and bool(np.isnan(a).all())
        a, b = np.where(odd, 0.0, a), np.where(odd, 0.0, b)
    largest = float(np.abs(a).max(initial=0.0))
    max_abs = float(np.abs(a - b).max(initial=0.0))
    max_rel = max_abs / largest if largest > 0 else (0.0 if max_abs < 1e-6 else float("inf"))
    ok = wrong == 0 and (max_rel <= budget or max_abs <= max(1e-6, 2 * spread))
    return OutputError(
        name,
        str(got.dtype),
        got.shape,
        max_abs,
        max_rel,
        cosine(a.reshape(-1), b.reshape(-1)),
        wrong,
        ok,
        undefined,
    )


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """The cosine of the angle between two vectors; 1 for two zero vectors."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if lengths == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(np.clip(np.dot(a, b) / lengths, -1.0, 1.0))
