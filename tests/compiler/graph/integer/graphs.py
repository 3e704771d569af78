"""Quantised graphs in Relax, and what they mean: integer sums exactly, real numbers in 64 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from edgec.compiler.frontends.relax.builder import constant

Array = np.ndarray


@dataclass
class Net:
    """A function under construction, with a value for every variable."""

    builder: relax.BlockBuilder = field(default_factory=relax.BlockBuilder)
    params: list[Any] = field(default_factory=list)
    inputs: list[Array] = field(default_factory=list)

    def input(self, stored: Array) -> Any:
        """Another input, with the value that it will have."""
        var = relax.Var(f"x{len(self.params)}", relax.TensorType(stored.shape, str(stored.dtype)))
        self.params.append(var)
        self.inputs.append(stored)
        return var

    def build(self, make: Any) -> tvm.IRModule:
        """The module of a function whose result `make` emits."""
        with self.builder.function("main", self.params):
            with self.builder.dataflow():
                result = self.builder.emit_output(make(self.builder.emit))
            self.builder.emit_func_output(result)
        return self.builder.finalize()


def decoded(x: Any, scale: float | Array, zero: int | Array, axis: int = 0) -> Any:
    """A call of `dequantize`."""
    return relax.op.dequantize(
        x, constant(np.asarray(scale, np.float32)), constant(np.asarray(zero, np.int32)), axis
    )


def coded(x: Any, scale: float | Array, zero: int | Array, dtype: str, axis: int = 0) -> Any:
    """A call of `quantize`."""
    pair = constant(np.asarray(scale, np.float32)), constant(np.asarray(zero, np.int32))
    return relax.op.quantize(x, *pair, axis, dtype)


def real(x: Array, scale: float | Array, zero: int | Array) -> Array:
    """What stored integers stand for, exact but for one rounding to 64 bits."""
    return (x.astype(np.int64) - np.asarray(zero, np.int64)) * np.asarray(scale, np.float32).astype(
        np.float64
    )


def steps(x: Array, scale: float | Array, zero: int | Array, dtype: str) -> tuple[Array, Array]:
    """Real numbers on a grid: the integers, and how far each is from the edge between two (0.5 is the middle)."""
    limits = np.iinfo(dtype)
    exact = x / np.asarray(scale, np.float32).astype(np.float64) + np.asarray(zero, np.int64)
    codes = np.clip(np.rint(exact), limits.min, limits.max).astype(np.int64)
    return codes, np.abs(np.abs(exact - np.floor(exact)) - 0.5)
