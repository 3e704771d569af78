"""Determinants by elimination with the largest pivots."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.tir import Tir


def determinants(symbol: str, count: int, size: int, dtype: str) -> PrimFunc:
    """A function from matrices `x [count, size, size]` to their determinants `y [count]`."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(symbol)
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        x = T.arg("x", T.buffer((count, size, size), dtype))
        y = T.arg("y", T.buffer((count,), dtype))
        with T.sblock("root"), T.sblock("determinants"):
            T.reads(x[0:count, 0:size, 0:size])
            T.writes(y[0:count])
            rows = T.alloc_buffer((size, size), dtype)
            best = T.alloc_buffer((1,), "int32")
            with T.serial(0, count) as n:
                with T.serial(0, size) as i, T.serial(0, size) as j:
                    T.buffer_store(rows, x[n, i, j], [i, j])
                T.buffer_store(y, tirx.const(1, dtype), [n])
                with T.serial(0, size) as k:
                    _pivot(rows, best, k, size)
                    with T.If(best[0] != k), T.Then():
                        T.buffer_store(y, tirx.const(0, dtype) - y[n], [n])
                    T.buffer_store(y, y[n] * rows[k, k], [n])
                    _eliminate(rows, k, size, dtype)
    return builder.get()


def _pivot(rows: Tir, best: Tir, k: Tir, size: int) -> None:
    """Swap the row with the largest element of column `k` into row `k`."""
    T.buffer_store(best, k, [0])
    with T.serial(0, size) as i:
        candidate = tirx.And(i > k, tirx.abs(rows[i, k]) > tirx.abs(rows[best[0], k]))
        with T.If(candidate), T.Then():
            T.buffer_store(best, i, [0])
    with T.serial(0, size) as j:
        old = T.alloc_buffer((1,), rows.dtype)
        T.buffer_store(old, rows[k, j], [0])
        T.buffer_store(rows, rows[best[0], j], [k, j])
        T.buffer_store(rows, old[0], [best[0], j])


def _eliminate(rows: Tir, k: Tir, size: int, dtype: str) -> None:
    """Subtract row `k` from those below, so that their column `k` becomes zero; a pivot of zero leaves them."""
    with T.serial(0, size) as i, T.If(tirx.And(i > k, rows[k, k] != tirx.const(0, dtype))), T.Then():
        factor = T.alloc_buffer((1,), dtype)
        T.buffer_store(factor, rows[i, k] / rows[k, k], [0])
        with T.serial(0, size) as j:
            T.buffer_store(rows, rows[i, j] - factor[0] * rows[k, j], [i, j])
