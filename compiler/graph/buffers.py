"""Sizes of the buffers that kernels read and write."""

from __future__ import annotations

import math

import tvm
from tvm.tirx import PrimFunc


def buffer_bytes(func: PrimFunc) -> int:
    """Bytes of all parameters of a kernel."""
    total = 0
    for param in func.params:
        bits = int(tvm.DataType(str(param.ty.dtype.dtype)).bits)
        total += math.prod(int(d) for d in param.ty.shape) * max(1, bits // 8)
    return total
