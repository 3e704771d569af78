"""Compile a kernel alone, without a model around it, and call it with arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import te

HOST = {"kind": "llvm"}


def call(function: tvm.tirx.PrimFunc, *arrays: np.ndarray) -> None:
    """Run a function; the arrays that it writes are changed."""
    module = tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(HOST))
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    module["main"](*tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.numpy()


def evaluate(compute: Any, *arrays: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The value of a tensor expression of arrays, in the shape and type of `out`."""
    places = [te.placeholder(a.shape, a.dtype.name, name=f"a{i}") for i, a in enumerate(arrays)]
    call(te.create_prim_func([*places, compute(*places)]), *arrays, out)
    return out
