"""From a camera's frame to the model's input on hardware that runs many threads: each element from its four pixels.

The resampling is that of `edgec.runtime.processing.sampling`; what becomes of a pixel is defined by `pixels` beside
this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.interface import RESULTS
from edgec.compiler.processing.pixels import prepared
from edgec.runtime import card as cards
from edgec.runtime.processing.compiled import FRAME
from edgec.runtime.processing.sampling import GRAY_BITS, GRAY_WEIGHTS, MOST_BYTES, PAD

Expr: TypeAlias = Any  # TVM's expressions are made at import time and have no static types


def frame_map(card: cards.ImageInput, dtype: str) -> PrimFunc:
    """The function `edgec_frame(frame, rows, columns, input)`.

    `frame` is a picture of any size, `rows [height, 4]` and `columns [width, 5]` are what
    `edgec.runtime.processing.sampling.tables` makes for that size; `input` is the model's.
    """
    height, width, channels = card.height, card.width, card.channels
    mean = np.broadcast_to(np.asarray(card.mean, np.float32), (channels,))
    scale = np.broadcast_to(np.asarray(card.scale, np.float32), (channels,))
    first = card.layout == "NCHW"
    frame = te.placeholder((MOST_BYTES,), "uint8", "frame")
    rows = te.placeholder((height, 4), "int32", "rows")
    columns = te.placeholder((width, 5), "int32", "columns")

    def sampled(y: Expr, x: Expr, channel: Expr) -> Expr:
        def along(row: Expr) -> Expr:
            left, right = (
                tirx.Cast("int32", frame[row + columns[x, k] + channel * columns[x, 4]]) for k in (0, 1)
            )
            return left * columns[x, 2] + right * columns[x, 3]

        upper, lower = along(rows[y, 0]) >> 4, along(rows[y, 1]) >> 4
        return (((upper * rows[y, 2]) >> 16) + ((lower * rows[y, 3]) >> 16) + 2) >> 2

    def value(*at: Expr) -> Expr:
        channel, y, x = at[1:] if first else (at[3], at[1], at[2])
        if card.colour == "gray":
            terms = [sampled(y, x, k) * weight for k, weight in enumerate(GRAY_WEIGHTS)]
            pixel = (terms[0] + terms[1] + terms[2] + (1 << (GRAY_BITS - 1))) >> GRAY_BITS
        else:
            pixel = sampled(y, x, 2 - channel if card.colour == "rgb" else channel)
        border = tirx.Or(rows[y, 2] == PAD, columns[x, 2] == PAD)
        pixel = tirx.Select(border, tirx.IntImm("int32", round(card.pad) & 255), pixel)
        return prepared(pixel, _by(channel, mean.tolist()), _by(channel, scale.tolist()), dtype)

    shape = (1, channels, height, width) if first else (1, height, width, channels)
    out = te.compute(shape, value, "prepared")
    made: PrimFunc = te.create_prim_func([frame, rows, columns, out])
    return made.with_attr("global_symbol", FRAME).with_attr(RESULTS, 1)


def _by(channel: Expr, values: Sequence[float]) -> Expr:
    chosen = tirx.FloatImm("float32", float(values[-1]))
    for at in reversed(range(len(values) - 1)):
        chosen = tirx.Select(channel == at, tirx.FloatImm("float32", float(values[at])), chosen)
    return chosen
