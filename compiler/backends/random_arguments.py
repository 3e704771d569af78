"""Values on which the candidates of a kernel run: the same for all, and of the size that networks have."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401 - gives numpy the dtype bfloat16
import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc


def random_arrays(func: PrimFunc) -> list[npt.NDArray[Any]]:
    """An array for each of a kernel's parameters: small normal numbers, whole numbers 0 and 1, masks that hide none."""
    rng = np.random.default_rng(0)
    made = []
    for param in func.params:
        shape = tuple(int(d) for d in param.ty.shape)
        dtype = str(param.ty.dtype.dtype)
        if "float" in dtype:
            made.append(rng.standard_normal(shape, dtype=np.float32).astype(dtype))
        elif dtype == "bool":
            made.append(np.ones(shape, dtype))
        else:
            made.append(rng.integers(0, 2, shape).astype(dtype))
    return made
