"""Inverses of matrices by Gauss and Jordan's elimination with the largest pivots."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, function, store
from edgec.compiler.kernels.tir import Tir


def inverses(symbol: str, count: Tir, size: int, dtype: str) -> PrimFunc:
    """A function from matrices `x [count, size, size]` to their inverses `y`, of the same shape.

    A singular matrix is divided by zero: its inverse has infinities or NaN.
    """

    def body(b: Buffers) -> None:
        x, y = b["x"], b["y"]
        rows = T.alloc_buffer((size, 2 * size), dtype)
        best = T.alloc_buffer((1,), "int32")
        factor = T.alloc_buffer((1,), dtype)
        with T.serial(0, x.shape[0]) as n:
            with T.serial(0, size) as i, T.serial(0, size) as j:
                store(rows, x[n, i, j], i, j)
                store(rows, tirx.Select(i == j, tirx.const(1, dtype), tirx.const(0, dtype)), i, size + j)
            with T.serial(0, size) as k:
                _pivot(rows, best, factor, k, size)
                store(factor, rows[k, k], 0)
                with T.serial(0, 2 * size) as j:
                    store(rows, rows[k, j] / factor[0], k, j)
                with T.serial(0, size) as i, T.If(i != k), T.Then():
                    store(factor, rows[i, k], 0)
                    with T.serial(0, 2 * size) as j:
                        store(rows, rows[i, j] - factor[0] * rows[k, j], i, j)
            with T.serial(0, size) as i, T.serial(0, size) as j:
                store(y, rows[i, size + j], n, i, j)

    shape = (count, size, size)
    return function(symbol, {"x": (shape, dtype)}, {"y": (shape, dtype)}, body)


def _pivot(rows: Tir, best: Tir, old: Tir, k: Tir, size: int) -> None:
    """Swap the row with the largest element of column `k` into row `k`."""
    store(best, k, 0)
    with T.serial(0, size) as i:
        larger = tirx.And(i > k, tirx.abs(rows[i, k]) > tirx.abs(rows[best[0], k]))
        with T.If(larger), T.Then():
            store(best, i, 0)
    with T.serial(0, 2 * size) as j:
        store(old, rows[k, j], 0)
        store(rows, rows[best[0], j], k, j)
        store(rows, old[0], best[0], j)
