"""From a resized frame to the model's input in one pass: colour, mean and scale, layout."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.runtime.card import ImageInput
from edgec.runtime.processing.compiled import PREPARE

Tir: TypeAlias = Any  # TVM's expressions and buffers are made at import time and have no static types


def prepared(pixel: Tir, mean: Tir, scale: Tir, dtype: str) -> Tir:
    """An element of the input."""
    return T.cast((T.cast(pixel, "float32") - mean) * scale, dtype)


def prepare_kernel(card: ImageInput, dtype: str) -> PrimFunc:
    """The function `edgec_prepare(frame, input)`.

    `frame` is `[height, width, 3]` BGR uint8 (`[height, width, 1]` for a gray input) of the card's size,
    `input` the model's input. Its arithmetic is numpy's: one subtraction and one product in fp32 a value.
    """
    height, width, channels = card.height, card.width, card.channels
    mean = np.broadcast_to(np.asarray(card.mean, np.float32), (channels,))
    scale = np.broadcast_to(np.asarray(card.scale, np.float32), (channels,))
    first = card.layout == "NCHW"
    shape = (1, channels, height, width) if first else (1, height, width, channels)
    with IRBuilder() as builder, T.prim_func():
        T.func_name(PREPARE)
        T.func_attr({"global_symbol": PREPARE, "tirx.is_scheduled": True, "tirx.noalias": True})
        frame = T.arg("frame", T.buffer((height, width, channels), "uint8", align=1))
        out = T.arg("out", T.buffer(shape, dtype))
        with T.serial(0, height) as y, T.serial(0, width) as x:
            for channel in range(channels):
                source = 2 - channel if card.colour == "rgb" else channel
                value = prepared(
                    frame[y, x, source], T.float32(mean[channel]), T.float32(scale[channel]), dtype
                )
                T.buffer_store(out, value, [0, channel, y, x] if first else [0, y, x, channel])
    return builder.get()
