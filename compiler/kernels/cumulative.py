"""Cumulative sums and products along an axis."""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc


def cumulative(
    symbol: str,
    shape: tuple[int, int, int],
    dtype: str,
    *,
    product: bool,
    backwards: bool,
    exclusive: bool,
) -> PrimFunc:
    """Sums (or products) of the elements up to each place along the middle axis of `[outer, length, inner]`.

    Args:
        symbol: the function's name.
        shape: of input and output.
        dtype: their element type.
        product: multiply instead of adding.
        backwards: start at the end.
        exclusive: leave the element itself out.
    """
    outer, length, inner = shape
    neutral = T.Cast(dtype, T.int32(1 if product else 0))
    with IRBuilder() as builder, T.prim_func():
        T.func_name(symbol)
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        x = T.arg("x", T.buffer(shape, dtype))
        y = T.arg("y", T.buffer(shape, dtype))
        with T.sblock("root"), T.sblock("cumulative"):
            T.reads(x[0:outer, 0:length, 0:inner])
            T.writes(y[0:outer, 0:length, 0:inner])
            with T.serial(0, outer) as i, T.serial(0, inner) as k:
                total = T.alloc_buffer((1,), dtype)
                T.buffer_store(total, neutral, [0])
                with T.serial(0, length) as step:
                    at = length - 1 - step if backwards else step
                    if exclusive:
                        T.buffer_store(y, total[0], [i, at, k])
                    value = total[0] * x[i, at, k] if product else total[0] + x[i, at, k]
                    T.buffer_store(total, value, [0])
                    if not exclusive:
                        T.buffer_store(y, total[0], [i, at, k])
    return builder.get()
