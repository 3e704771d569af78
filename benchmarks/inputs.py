"""Inputs for an artifact without its source model: read from a file, or random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.targets import UsageError

if TYPE_CHECKING:
    from edgec.runtime import TensorSpec

Arrays = dict[str, npt.NDArray[Any]]


def artifact_inputs(specs: Sequence[TensorSpec], file: Path | None) -> Arrays:
    """Return the arrays of an `.npz` file or, without one, random arrays: normal floats, integers 0 and 1.

    Raises:
        UsageError: The file cannot be read.
    """
    if file is not None:
        try:
            with np.load(file, allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"{file}: cannot be read as an .npz file of arrays: {error}") from error
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for spec in specs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = rng.standard_normal(spec.shape).astype(dtype)
        else:
            arrays[spec.name] = rng.integers(0, 2, spec.shape).astype(dtype)
    return arrays
