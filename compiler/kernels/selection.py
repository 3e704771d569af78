"""What is not zero: how many elements, and which."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, Shape, add, counter, function, i64, store
from edgec.compiler.kernels.tir import Tir


def count_nonzero(symbol: str, size: Tir, dtype: str) -> PrimFunc:
    """A function from `x [size]` to how many elements are not zero, `count [1]` (int64)."""

    def body(b: Buffers) -> None:
        store(b["count"], i64(0), 0)
        with T.serial(0, b["x"].shape[0]) as i:
            store(b["count"], b["count"][0] + _is_set(b["x"][i]).astype("int64"), 0)

    return function(symbol, {"x": ((size,), dtype)}, {"count": ((1,), "int64")}, body)


def nonzero_places(symbol: str, rows: Tir, width: Tir, rank: int, dtype: str, count: Tir) -> PrimFunc:
    """A function that lists the elements that are not zero.

    Args:
        symbol: its name.
        rows: product of all sizes but the last.
        width: the last size.
        rank: number of axes.
        dtype: of the elements.
        count: how many are not zero.

    Returns:
        a function of `x [rows, width]` and `shape [rank]` (int64) with the result `places [rank, count]` (int64).
    """

    def body(b: Buffers) -> None:
        x, places = b["x"], b["places"]
        at = counter()
        with (
            T.serial(0, x.shape[0]) as row,
            T.serial(0, x.shape[1]) as column,
            T.If(_is_set(x[row, column])),
            T.Then(),
        ):
            store(places, column.astype("int64"), rank - 1, at[0])
            rest = row.astype("int64")
            for axis in range(rank - 2, 0, -1):
                length = b["shape"][axis]
                store(places, tirx.floormod(rest, length), axis, at[0])
                rest = tirx.floordiv(rest, length)
            if rank > 1:
                store(places, rest, 0, at[0])
            add(at)

    given: dict[str, tuple[Shape, str]] = {"x": ((rows, width), dtype), "shape": ((rank,), "int64")}
    return function(symbol, given, {"places": ((rank, count), "int64")}, body)


def set_places(symbol: str, size: Tir, count: Tir) -> PrimFunc:
    """A function from truth values `x [size]` to the places of the true ones, `places [count]` (int64)."""

    def body(b: Buffers) -> None:
        at = counter()
        with T.serial(0, b["x"].shape[0]) as i, T.If(b["x"][i]), T.Then():
            store(b["places"], i.astype("int64"), at[0])
            add(at)

    return function(symbol, {"x": ((size,), "bool")}, {"places": ((count,), "int64")}, body)


def _is_set(value: Tir) -> Tir:
    """Whether a value counts as one; what is no number does."""
    kind = str(value.ty.dtype)
    if kind == "bool":
        return value
    differs = value != tirx.const(0, kind)
    return tirx.Or(differs, tirx.isnan(value)) if kind.startswith("float") else differs
