"""Types and constants that all kernels share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt
from tvm import tirx

Tir: TypeAlias = (
    Any  # TVM's expressions, buffers and tensors are made at import time and have no static types
)
Array: TypeAlias = npt.NDArray[Any]


def f32(value: float) -> Tir:
    """A float32 constant."""
    return tirx.FloatImm("float32", value)


def i32(value: int) -> Tir:
    """An int32 constant."""
    return tirx.IntImm("int32", value)
