"""Fourier transforms as products with matrices of sines and cosines, which are small at the sizes of audio."""

from __future__ import annotations

import numpy as np
from tvm import relax, tirx

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts,
    converts_dynamic,
    is_constant,
    shape_of,
    value_of,
)
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import part_of, viewed
from edgec.compiler.frontends.relax.dims import Dim, bound, dims_of
from edgec.compiler.kernels import dynamic

LARGEST = 4096  # points; a matrix of that size has 2 × 64 MB


def fourier(points: int, length: int, kept: int, *, inverse: bool, dtype: str) -> tuple[Array, Array]:
    """Cosines and sines `[points, kept]` that take `points` samples to the first `kept` frequencies."""
    if length > LARGEST:
        raise CannotConvert(f"transforms of more than {LARGEST} points are not compiled")
    angle = 2 * np.pi * np.outer(np.arange(points), np.arange(kept)) / length
    sign, scale = (1, 1 / length) if inverse else (-1, 1)
    return (np.cos(angle) * scale).astype(dtype), (sign * np.sin(angle) * scale).astype(dtype)


@converts("DFT")
@converts_dynamic("DFT")
def _dft(node: Node) -> Expr:
    x, shape, dtype = node.input(0), dims_of(node.input(0)), node.dtype(0)
    given = node.array(2)
    axis = (
        int(given.reshape(-1)[0])
        if given is not None
        else int(node.attrs.get("axis", 1 if node.opset < 20 else -2))
    )
    axis = axis_of(axis, len(shape))
    wanted = node.array(1)
    if not isinstance(shape[axis], int) or not isinstance(shape[-1], int):
        raise CannotConvert("a transform along an axis whose size is known only at run time is not compiled")
    length = int(wanted.reshape(-1)[0]) if wanted is not None else shape[axis]
    inverse, onesided = bool(node.attrs.get("inverse", 0)), bool(node.attrs.get("onesided", 0))
    if inverse and onesided:
        return _inverse_onesided(node, axis, length if wanted is not None else 2 * (shape[axis] - 1))
    used = min(length, shape[axis])
    x = part_of(node, x, {axis: slice(0, used)})
    kept = length // 2 + 1 if onesided else length
    cosines, sines = fourier(used, length, kept, inverse=inverse, dtype=dtype)
    rank = len(shape)
    order = [a for a in range(rank - 1) if a != axis] + [rank - 1, axis]
    moved = node.emit(relax.op.permute_dims(x, order))  # [..., 1 or 2 parts, points]
    parts = _parts(node, moved)
    real = node.emit(relax.op.matmul(parts[0], constant(cosines)))
    imaginary = node.emit(relax.op.matmul(parts[0], constant(sines)))
    if len(parts) == 2:
        real = node.emit(relax.op.subtract(real, relax.op.matmul(parts[1], constant(sines))))
        imaginary = node.emit(relax.op.add(imaginary, relax.op.matmul(parts[1], constant(cosines))))
    joined = _joined(node, real, imaginary)  # [others, kept, 2]
    others = [a for a in range(rank - 1) if a != axis]
    current = [*others, axis, rank - 1]
    return relax.op.permute_dims(joined, [current.index(a) for a in range(rank)])


def _inverse_onesided(node: Node, axis: int, length: int) -> Expr:
    """Real samples from the lower half of a spectrum; the upper half is its mirror image."""
    shape, dtype = dims_of(node.input(0)), node.dtype(0)
    used = min(length // 2 + 1, shape[axis])
    x = part_of(node, node.input(0), {axis: slice(0, used)})
    cosines, sines = fourier(used, length, length, inverse=True, dtype="float64")
    twice = np.full((used, 1), 2.0)
    twice[0] = 1.0
    if length % 2 == 0 and used == length // 2 + 1:
        twice[-1] = 1.0
    rank = len(shape)
    others = [a for a in range(rank - 1) if a != axis]
    moved = node.emit(relax.op.permute_dims(x, [*others, rank - 1, axis]))
    parts = _parts(node, moved)
    real = node.emit(relax.op.matmul(parts[0], constant((cosines * twice).astype(dtype))))
    if len(parts) == 2:
        other = relax.op.matmul(parts[1], constant((sines * twice).astype(dtype)))
        real = node.emit(relax.op.subtract(real, other))
    wide = viewed(node, real, [*dims_of(real), 1])
    current = [*others, axis, rank - 1]
    return relax.op.permute_dims(wide, [current.index(a) for a in range(rank)])


def _parts(node: Node, moved: Expr) -> list[Expr]:
    """The real and, where there is one, the imaginary part of `[..., parts, points]`."""
    shape = dims_of(moved)
    rest = [*shape[:-2], shape[-1]]
    axis = len(shape) - 2
    parts = [part_of(node, moved, {axis: slice(i, i + 1)}) for i in range(shape[-2])]
    return [viewed(node, part, rest) for part in parts]


def _joined(node: Node, real: Expr, imaginary: Expr) -> Expr:
    shape = [*dims_of(real), 1]
    pair = [viewed(node, real, shape), viewed(node, imaginary, shape)]
    return node.emit(relax.op.concat(pair, len(shape) - 1))


@converts("STFT")
@converts_dynamic("STFT")
def _stft(node: Node) -> Expr:
    signal, shape, dtype = node.input(0), dims_of(node.input(0)), node.dtype(0)
    step_value, length_value = node.array(1), node.array(3)
    if step_value is None:
        raise CannotConvert("its frame step is missing")
    if len(shape) == 3 and shape[2] == 2:
        raise CannotConvert("transforms of complex signals are not compiled")
    step = int(step_value.reshape(-1)[0])
    window = node.input(2) if node.has(2) else None
    if window is None and length_value is None:
        raise CannotConvert("neither its window nor its frame length is given")
    length = int(length_value.reshape(-1)[0]) if length_value is not None else shape_of(window)[0]
    frames = bound(node.builder, _frames(shape[1], length, step))
    kept = length // 2 + 1 if node.attrs.get("onesided", 1) else length
    flat = viewed(node, signal, [shape[0], shape[1]])
    cut = node.builder.emit_te(dynamic.framed, flat, length, step, frames)
    cosines, sines = fourier(length, length, kept, inverse=False, dtype=dtype)
    if window is not None and is_constant(window):
        weight = value_of(window).astype(dtype)[:, None]
        cosines, sines = cosines * weight, sines * weight
    elif window is not None:
        cut = node.emit(relax.op.multiply(cut, window))
    real = node.emit(relax.op.matmul(cut, constant(cosines)))
    return _joined(node, real, node.emit(relax.op.matmul(cut, constant(sines))))


def _frames(samples: Dim, length: int, step: int) -> Dim:
    free = samples - length
    return (free // step if isinstance(free, int) else tirx.floordiv(free, tirx.IntImm("int64", step))) + 1
