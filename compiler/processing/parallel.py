"""From a camera's frame to the model's input on hardware that runs many threads: each element from its four pixels.

The resampling is that of `edgec.runtime.processing.sampling`; what becomes of a pixel is defined by `pixels` beside
this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.interface import RESULTS
from edgec.compiler.processing.pixels import prepared
from edgec.runtime import card as cards
from edgec.runtime.processing import nv12
from edgec.runtime.processing.compiled import FRAME, FRAME_NV12
from edgec.runtime.processing.sampling import GRAY_BITS, GRAY_WEIGHTS, MOST_BYTES, PAD

Expr: TypeAlias = Any  # TVM's expressions are made at import time and have no static types


def frame_map(card: cards.ImageInput, dtype: str) -> PrimFunc:
    """The function `edgec_frame(frame, rows, columns, input)`.

    `frame` is a picture of any size, `rows [height, 4]` and `columns [width, 5]` are what
    `edgec.runtime.processing.sampling.tables` makes for that size; `input` is the model's.
    """
    frame = te.placeholder((MOST_BYTES,), "uint8", "frame")
    rows = te.placeholder((card.height, 4), "int32", "rows")
    columns = te.placeholder((card.width, 5), "int32", "columns")

    def pixel(y: Expr, x: Expr, row: int, column: int, channel: Expr) -> Expr:
        return tirx.Cast("int32", frame[rows[y, row] + columns[x, column] + channel * columns[x, 4]])

    return _map(card, dtype, FRAME, [frame], rows, columns, pixel)


def planar_frame_map(card: cards.ImageInput, dtype: str) -> PrimFunc:
    """The function `edgec_frame_nv12(luma, chroma, rows, columns, input)`, with the tables of `planar_tables`.

    Each pixel becomes BGR with the integers of OpenCV's `cvtColorTwoPlane`, and is resampled then.
    """
    luma = te.placeholder((MOST_BYTES,), "uint8", "luma")
    chroma = te.placeholder((MOST_BYTES,), "uint8", "chroma")
    rows = te.placeholder((card.height, 6), "int32", "rows")
    columns = te.placeholder((card.width, 6), "int32", "columns")

    def pixel(y: Expr, x: Expr, row: int, column: int, channel: Expr) -> Expr:
        at = rows[y, 4 + row] + columns[x, 4 + column]
        light = tirx.Cast("int32", luma[rows[y, row] + columns[x, column]])
        u, v = (tirx.Cast("int32", chroma[at + k]) - 128 for k in (0, 1))
        zero, most = tirx.IntImm("int32", 0), tirx.IntImm("int32", 255)
        base = tirx.max(light - 16, zero) * nv12.LUMA + (1 << (nv12.BITS - 1))
        terms = [u * nv12.BLUE_U, u * nv12.GREEN_U + v * nv12.GREEN_V, v * nv12.RED_V]
        term = (
            terms[channel]
            if isinstance(channel, int)
            else tirx.Select(channel == 0, terms[0], tirx.Select(channel == 1, terms[1], terms[2]))
        )
        return tirx.max(tirx.min((base + term) >> nv12.BITS, most), zero)

    return _map(card, dtype, FRAME_NV12, [luma, chroma], rows, columns, pixel)


def _map(
    card: cards.ImageInput,
    dtype: str,
    name: str,
    planes: Sequence[Expr],
    rows: Expr,
    columns: Expr,
    pixel: Callable[[Expr, Expr, int, int, Expr], Expr],
) -> PrimFunc:
    """A function of planes and tables; `pixel` is a value of the frame by places in the tables of row and column."""
    height, width, channels = card.height, card.width, card.channels
    mean = np.broadcast_to(np.asarray(card.mean, np.float32), (channels,))
    scale = np.broadcast_to(np.asarray(card.scale, np.float32), (channels,))
    first = card.layout == "NCHW"

    def sampled(y: Expr, x: Expr, channel: Expr) -> Expr:
        def along(row: int) -> Expr:
            left, right = (pixel(y, x, row, column, channel) for column in (0, 1))
            return left * columns[x, 2] + right * columns[x, 3]

        upper, lower = along(0) >> 4, along(1) >> 4
        return (((upper * rows[y, 2]) >> 16) + ((lower * rows[y, 3]) >> 16) + 2) >> 2

    def value(*at: Expr) -> Expr:
        channel, y, x = at[1:] if first else (at[3], at[1], at[2])
        if card.colour == "gray":
            terms = [sampled(y, x, k) * weight for k, weight in enumerate(GRAY_WEIGHTS)]
            made = (terms[0] + terms[1] + terms[2] + (1 << (GRAY_BITS - 1))) >> GRAY_BITS
        else:
            made = sampled(y, x, 2 - channel if card.colour == "rgb" else channel)
        border = tirx.Or(rows[y, 2] == PAD, columns[x, 2] == PAD)
        made = tirx.Select(border, tirx.IntImm("int32", round(card.pad) & 255), made)
        return prepared(made, _by(channel, mean.tolist()), _by(channel, scale.tolist()), dtype)

    shape = (1, channels, height, width) if first else (1, height, width, channels)
    out = te.compute(shape, value, "prepared")
    func: PrimFunc = te.create_prim_func([*planes, rows, columns, out])
    return func.with_attr("global_symbol", name).with_attr(RESULTS, 1)


def _by(channel: Expr, values: Sequence[float]) -> Expr:
    chosen = tirx.FloatImm("float32", float(values[-1]))
    for at in reversed(range(len(values) - 1)):
        chosen = tirx.Select(channel == at, tirx.FloatImm("float32", float(values[at])), chosen)
    return chosen
