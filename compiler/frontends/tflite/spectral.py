"""Fourier transforms and complex numbers, which are two values each: the real and the imaginary part."""

from __future__ import annotations

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts

MOST_LENGTH = 8192  # of a transform, which is a product with a matrix of its square


@converts("RFFT2D", inputs=2, outputs=1)
def _rfft2d(g: Writer, op: Operator) -> None:
    """Over the last two axes, cut or filled with zeros to the wanted lengths: a product with a matrix for each."""
    rows, length = g.ints(op.inputs[1])
    shape = g.tensor(op.inputs[0]).shape
    if len(shape) < 2:
        raise Refused(f"it transforms along two axes, and its input has {len(shape)}")
    if not 1 <= length <= MOST_LENGTH or not 1 <= rows <= MOST_LENGTH:
        raise Refused(
            f"it transforms {rows} x {length} values; up to {MOST_LENGTH} along an axis are compiled"
        )
    x, taken = g.get(op.inputs[0]), min(length, shape[-1])
    if taken < shape[-1]:
        x = g.op("Slice", x, _at(0), _at(taken), _at(len(shape) - 1))
    angles = 2 * np.pi / length * np.outer(np.arange(taken), np.arange(length // 2 + 1))
    re, im = (g.op("MatMul", x, part.astype(np.float32)) for part in (np.cos(angles), -np.sin(angles)))
    if rows > 1:
        re, im = _along_rows(g, re, im, rows, shape[-2], len(shape))
    elif shape[-2] > 1:
        re, im = (g.op("Slice", part, _at(0), _at(1), _at(len(shape) - 2)) for part in (re, im))
    g.complex[op.outputs[0]] = (re, im)


def _at(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([number], np.int64)


def _along_rows(g: Writer, re: str, im: str, rows: int, given: int, rank: int) -> tuple[str, str]:
    taken = min(rows, given)
    if taken < given:
        re, im = (g.op("Slice", part, _at(0), _at(taken), _at(rank - 2)) for part in (re, im))
    angles = 2 * np.pi / rows * np.outer(np.arange(rows), np.arange(taken))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    both = [g.op("MatMul", turn, part) for part in (re, im) for turn in (cos, sin)]
    return g.op("Add", both[0], both[3]), g.op("Sub", both[2], both[1])


@converts("COMPLEX_ABS", "REAL", "IMAG", inputs=1, outputs=1)
def _part(g: Writer, op: Operator) -> None:
    if op.inputs[0] not in g.complex:
        raise Refused("its input is no result of a transform within the model")
    re, im = g.complex[op.inputs[0]]
    if op.kind == "COMPLEX_ABS":
        g.put(op.outputs[0], g.op("Sqrt", g.op("Add", g.op("Mul", re, re), g.op("Mul", im, im))))
    else:
        g.put(op.outputs[0], re if op.kind == "REAL" else im)
