"""Pre- and postprocessing for hardware that computes elements side by side: the model's input from a picture of its
size, and the score, class and box of every anchor. The host suppresses boxes.

What is computed is defined by `pixels` and `boxes` beside this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.interface import RESULTS
from edgec.compiler.processing.boxes import DetectKernel
from edgec.compiler.processing.pixels import prepared
from edgec.runtime import card as cards
from edgec.runtime.processing.compiled import PREPARE, SCORES

Expr: TypeAlias = Any  # TVM's expressions are made at import time and have no static types


def prepare_map(card: cards.ImageInput, dtype: str) -> PrimFunc:
    """As `edgec.compiler.processing.pixels.prepare_kernel`, element by element."""
    height, width, channels = card.height, card.width, card.channels
    mean = np.broadcast_to(np.asarray(card.mean, np.float32), (channels,))
    scale = np.broadcast_to(np.asarray(card.scale, np.float32), (channels,))
    first = card.layout == "NCHW"
    frame = te.placeholder((height, width, channels), "uint8", "frame")

    def value(*at: Expr) -> Expr:
        channel, y, x = at[1:] if first else (at[3], at[1], at[2])
        source = 2 - channel if card.colour == "rgb" else channel
        means, scales = _by(channel, mean.tolist()), _by(channel, scale.tolist())
        return prepared(frame[y, x, source], means, scales, dtype)

    out = te.compute(
        (1, channels, height, width) if first else (1, height, width, channels), value, "prepared"
    )
    return _function(PREPARE, [frame], [out])


def score_maps(spec: cards.BoxOutput, card: cards.ImageInput, shapes: Sequence[tuple[int, ...]]) -> PrimFunc:
    """The function `edgec_scores(outputs…, [cells,] boxes, scores, classes)`.

    `boxes [anchors, 4]` are corners in pixels of the input, `scores [anchors]` those of the best class and `classes
    [anchors]` the first class that has it.
    """
    kernel = DetectKernel(spec, card, shapes)
    given = [te.placeholder(shape, "float32", f"output{number}") for number, shape in enumerate(shapes)]
    kernel.outputs = list(given)
    if kernel.gridded:
        kernel.cells = te.placeholder((kernel.anchors, 3), "float32", "cells")
        given.append(kernel.cells)
    every, some = te.reduce_axis((0, kernel.classes), "every"), te.reduce_axis((0, kernel.classes), "some")
    count = (kernel.anchors,)
    scores = te.compute(count, lambda a: te.max(kernel.class_score(a, every), axis=every), "scores")

    def among_best(anchor: Expr) -> Expr:
        is_best = kernel.class_score(anchor, some) == scores[anchor]
        return tirx.Select(is_best, some.var, tirx.IntImm("int32", kernel.classes - 1))

    classes = te.compute(count, lambda a: te.min(among_best(a), axis=some), "classes")
    boxes = te.compute((*count, 4), lambda a, k: _choose(k, kernel.box(a)), "boxes")
    return _function(SCORES, given, [boxes, scores, classes])


def _by(channel: Expr, values: Sequence[float]) -> Expr:
    return _choose(channel, [tirx.FloatImm("float32", float(value)) for value in values])


def _choose(number: Expr, values: Sequence[Expr]) -> Expr:
    chosen = values[-1]
    for at in reversed(range(len(values) - 1)):
        chosen = tirx.Select(number == at, values[at], chosen)
    return chosen


def _function(name: str, given: Sequence[Expr], results: Sequence[Expr]) -> PrimFunc:
    made: PrimFunc = te.create_prim_func([*given, *results])
    return made.with_attr("global_symbol", name).with_attr(RESULTS, len(results))
