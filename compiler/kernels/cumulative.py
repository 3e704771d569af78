"""Cumulative sums and products along an axis."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, Shape, function, store


def cumulative(
    symbol: str,
    shape: Shape,
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

    def body(b: Buffers) -> None:
        x, y = b["x"], b["y"]
        outer, length, inner = x.shape
        with T.serial(0, outer) as i, T.serial(0, inner) as k:
            total = T.alloc_buffer((1,), dtype)
            store(total, T.Cast(dtype, T.int32(1 if product else 0)), 0)
            with T.serial(0, length) as step:
                at = length - 1 - step if backwards else step
                if exclusive:
                    store(y, total[0], i, at, k)
                store(total, total[0] * x[i, at, k] if product else total[0] + x[i, at, k], 0)
                if not exclusive:
                    store(y, total[0], i, at, k)

    return function(symbol, {"x": (shape, dtype)}, {"y": (shape, dtype)}, body)
