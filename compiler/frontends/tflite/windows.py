"""Reductions over windows of any number of axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.padding import dilated
from edgec.compiler.frontends.tflite.registry import converts

MOST_PLACES = 1024  # of a window; each is a slice
FUNCTIONS = {1: "Add", 2: "Mul", 3: "Min", 4: "Max", 5: "And", 6: "Or"}  # by the schema's number
BODIES = {
    "STABLEHLO_ADD": "Add",
    "STABLEHLO_MULTIPLY": "Mul",
    "STABLEHLO_MINIMUM": "Min",
    "STABLEHLO_MAXIMUM": "Max",
    "STABLEHLO_AND": "And",
}


@dataclass(frozen=True)
class Windows:
    """Sizes, steps and gaps of windows by axis; `pads` are the borders, begin and end of each axis."""

    sizes: list[int]
    strides: list[int]
    gaps: list[int]
    spread: list[int]
    pads: list[tuple[int, int]]


@converts("REDUCE_WINDOW", inputs=5, outputs=1)
def _reduce_window(g: Writer, op: Operator) -> None:
    number = int(op.options.reduceFunction)
    if number not in FUNCTIONS:
        raise Refused(f"it reduces by the function number {number}")
    sizes, strides, gaps = (g.ints(index) for index in op.inputs[2:])
    rank = g.rank(op.inputs[0])
    _reduce(g, op, FUNCTIONS[number], Windows(sizes, strides, gaps, [1] * rank, [(0, 0)] * rank))


@converts("STABLEHLO_REDUCE_WINDOW", inputs=2, outputs=1)
def _stablehlo_reduce_window(g: Writer, op: Operator) -> None:
    options, rank = op.options, g.rank(op.inputs[0])
    number = int(options.bodySubgraphIndex)
    body = g.model.graphs[number] if 0 <= number < len(g.model.graphs) else None
    kinds = [one.kind for one in body.operators] if body else []
    if len(kinds) != 1 or kinds[0] not in BODIES:
        raise Refused(f"it reduces by {', '.join(kinds) or 'nothing'}")

    def listed(values: list[int] | None, default: int) -> list[int]:
        return [default] * rank if values is None or not len(values) else [int(v) for v in values]

    flat = listed(options.padding, 0) if options.padding is not None else [0] * 2 * rank
    pads = list(zip(flat[::2], flat[1::2], strict=True))
    windows = Windows(
        listed(options.windowDimensions, 1),
        listed(options.windowStrides, 1),
        listed(options.windowDilations, 1),
        listed(options.baseDilations, 1),
        pads,
    )
    _reduce(g, op, BODIES[kinds[0]], windows)


def _reduce(g: Writer, op: Operator, function: str, windows: Windows) -> None:
    shape = list(g.tensor(op.inputs[0]).shape)
    parts = (windows.sizes, windows.strides, windows.gaps, windows.spread, windows.pads)
    if any(len(part) != len(shape) for part in parts) or min(map(min, parts[:4]), default=1) < 1:
        raise Refused(f"its windows do not fit {len(shape)} axes")
    if int(np.prod(windows.sizes)) > MOST_PLACES:
        raise Refused(
            f"its windows have {int(np.prod(windows.sizes))} places; up to {MOST_PLACES} are compiled"
        )
    start = g.op("Reshape", g.get(op.inputs[1]), np.zeros(0, np.int64))
    x = dilated(g, g.get(op.inputs[0]), list(shape), windows.spread, start)
    ends = np.array(windows.pads, np.int64).T
    x = g.op("Pad", x, np.maximum(ends, 0).reshape(-1), start)
    full = [
        (n - 1) * s + 1 + int(p.clip(0).sum()) for n, s, p in zip(shape, windows.spread, ends.T, strict=True)
    ]
    cut = np.maximum(-ends, 0)
    axes = np.arange(len(shape), dtype=np.int64)
    x = g.op("Slice", x, cut[0], np.array(full, np.int64) - cut[1], axes)
    full = [n - int(c) for n, c in zip(full, cut.sum(axis=0), strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(windows.sizes, windows.gaps, strict=True)]
    counts = [max((n - r) // s + 1, 0) for n, r, s in zip(full, reach, windows.strides, strict=True)]
    total = start
    for place in np.ndindex(*windows.sizes):
        begin = np.array([k * d for k, d in zip(place, windows.gaps, strict=True)], np.int64)
        step = np.array(windows.strides, np.int64)
        end = begin + np.maximum(np.array(counts, np.int64) - 1, 0) * step + 1
        total = g.op(function, total, g.op("Slice", x, begin, end, axes, step))
    g.put(op.outputs[0], total)
