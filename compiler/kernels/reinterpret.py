"""The bits of a tensor as another type of the same width."""

from __future__ import annotations

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.tir import Tir


def reinterpreted(symbol: str, size: int, dtype: str, to: str) -> PrimFunc:
    """A function that copies the bits of `x [size]` to `y [size]` of the type `to`."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(symbol)
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        x = T.arg("x", T.buffer((size,), dtype))
        y = T.arg("y", T.buffer((size,), to))
        with T.sblock("root"), T.sblock("bits"):
            T.reads(x[0:size])
            T.writes(y[0:size])
            with T.serial(0, size) as i:
                T.buffer_store(y, T.reinterpret(to, x[i]), [i])
    return builder.get()


def reinterpreted_element(x: Tir, to: str) -> Tir:
    """The same for `x [1]` as a tensor expression: TVM's script takes a buffer of one element for a scalar."""
    return te.compute((1,), lambda i: tirx.reinterpret(to, x(i)), name="bits")
