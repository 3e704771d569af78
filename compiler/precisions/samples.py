"""The inputs on which precisions are compared: those on which verification will compare the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.extremes import Probe, probes_for
from edgec.compiler.verify.inputs import Arrays

REPORTED = "infinity"  # differences on such inputs are reported and refuse nothing


def samples_of(source: SourceModel, inputs: Arrays, *, half: bool) -> list[Probe]:
    """The main inputs, and the further ones of verification (see `probes_for`) whose differences refuse a result.

    Args:
        source: the model.
        inputs: the main ones.
        half: for a precision that ends at 65504.
    """
    further = [] if source.states else probes_for(source, inputs, half=half)
    return [Probe("", inputs), *(probe for probe in further if probe.name != REPORTED)]


def error_on(
    sample: Probe, names: Sequence[str], exact: Sequence[np.ndarray], made: Sequence[np.ndarray]
) -> float:
    """The largest error of the outputs that are compared on a sample, relative to each one's largest value."""
    spreads = any(
        array.dtype.kind == "f" and not np.isfinite(array).all() for array in sample.inputs.values()
    )
    pairs = zip(names, exact, made, strict=True)
    return max((error_of(a, b, spreads=spreads) for n, a, b in pairs if n not in sample.open), default=0.0)


def worst_error(
    samples: Sequence[Probe],
    exact: Mapping[int, Mapping[str, npt.NDArray[np.generic]]],
    made: Mapping[int, Mapping[str, npt.NDArray[np.generic]]],
) -> float:
    """The largest error over the samples, by number, on which both sides ran."""
    return max(
        (
            error_on(samples[k], [*exact[k]], [*exact[k].values()], [made[k][name] for name in exact[k]])
            for k in exact.keys() & made.keys()
        ),
        default=0.0,
    )


def error_of(exact: np.ndarray, made: np.ndarray, *, spreads: bool = False) -> float:
    """The largest error of an output, relative to its largest value; infinite where only one of both is a number.

    Args:
        exact, made: the output as it should be, and as it is.
        spreads: the inputs hold NaN, which may reach further in one than in the other: only numbers are compared.
    """
    if not exact.size or exact.dtype.kind != "f":
        return 0.0
    counts = np.isfinite(exact)
    if spreads:
        counts &= np.isfinite(made)
    scale = max(float(np.max(np.abs(exact[counts]), initial=0.0)), 1e-12)
    with np.errstate(all="ignore"):
        worst = float(np.max(np.abs(exact[counts] - made[counts]), initial=0.0))
    return worst / scale if np.isfinite(worst) else math.inf
