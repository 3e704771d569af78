"""Normalisation by means and variances, or by a norm."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    LeaveToTvm,
    Node,
    axis_of,
    converts,
    dtype_of,
    rank_of,
    reshaped,
    scalar,
    shape_of,
)
from edgec.compiler.kernels.windows import window_sums


@converts("LpNormalization")
def _lp_normalization(node: Node) -> Expr:
    x = node.input(0)
    axis = axis_of(int(node.attrs.get("axis", -1)), node.rank(0))
    if int(node.attrs.get("p", 2)) == 1:
        norm = relax.op.sum(relax.op.abs(x), axis=axis, keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), axis=axis, keepdims=True))
    norm = node.emit(norm)
    zero = relax.op.equal(norm, scalar(0, x))
    return relax.op.divide(x, relax.op.where(zero, scalar(1, x), norm))


@converts("LRN")
def _local_response(node: Node) -> Expr:
    """Over an even number of channels, which reach one further to the end; TVM's is for odd numbers."""
    size = int(node.attrs["size"])
    if size % 2:
        raise LeaveToTvm
    x, shape = node.input(0), node.shape(0)
    before = (size - 1) // 2
    squares = node.emit(reshaped(relax.op.multiply(x, x), [shape[0], 1, shape[1], math.prod(shape[2:])]))
    padded = node.emit(relax.op.nn.pad(squares, [0, 0, 0, 0, before, size - 1 - before, 0, 0]))
    window = [shape[1], math.prod(shape[2:])], [size, 1], [1, 1], [1, 1]
    sums = node.emit(reshaped(node.builder.emit_te(window_sums, padded, *window), shape))
    alpha, bias = float(node.attrs.get("alpha", 1e-4)), float(node.attrs.get("bias", 1.0))
    base = relax.op.add(relax.op.multiply(sums, scalar(alpha / size, x)), scalar(bias, x))
    return relax.op.divide(x, relax.op.power(base, scalar(float(node.attrs.get("beta", 0.75)), x)))


@converts("InstanceNormalization")
def _instance_normalization(node: Node) -> Expr:
    """Mean and variance axis by axis, of centred values: a single sum over a whole image loses precision.

    On 800×800 pixels a single fp32 sum of squares was off by 3e-3.
    """
    x, shape = node.input(0), node.shape(0)
    channels = [1, shape[1]] + [1] * (len(shape) - 2)
    centred = node.emit(relax.op.subtract(x, _spatial_mean(node, x)))
    variance = _spatial_mean(node, node.emit(relax.op.multiply(centred, centred)))
    epsilon = scalar(float(node.attrs.get("epsilon", 1e-5)), x)
    spread = node.emit(relax.op.sqrt(relax.op.add(variance, epsilon)))
    scaled = relax.op.multiply(relax.op.divide(centred, spread), reshaped(node.input(1), channels))
    return relax.op.add(scaled, reshaped(node.input(2), channels))


def _spatial_mean(node: Node, x: Expr) -> Expr:
    for axis in range(rank_of(x) - 1, 1, -1):
        x = node.emit(relax.op.mean(x, axis=axis, keepdims=True))
    return x


@converts("LayerNormalization", "RMSNormalization")
def _layer_normalization(node: Node) -> list[Expr]:
    x, shape = node.input(0), node.shape(0)
    first = axis_of(int(node.attrs.get("axis", -1)), len(shape))
    axes, epsilon = list(range(first, len(shape))), float(node.attrs.get("epsilon", 1e-5))
    wanted = [name for name in node.outputs if name]
    if node.op_type == "LayerNormalization" and len(wanted) == 1 and dtype_of(x) == "float32":
        gain = _as_normalised(node, 1, shape[first:], 1.0)
        shift = _as_normalised(node, 2, shape[first:], 0.0)
        return [relax.op.nn.layer_norm(x, gain, shift, axes=axes, epsilon=epsilon)]
    wide = x if dtype_of(x) == "float32" else node.emit(relax.op.astype(x, "float32"))
    mean = node.emit(relax.op.mean(wide, axis=axes, keepdims=True))
    if node.op_type == "LayerNormalization":
        wide = node.emit(relax.op.subtract(wide, mean))
    power = node.emit(relax.op.mean(relax.op.multiply(wide, wide), axis=axes, keepdims=True))
    root = relax.op.sqrt(relax.op.add(power, constant(epsilon, "float32")))
    inverse = node.emit(relax.op.divide(constant(1.0, "float32"), root))
    y = relax.op.astype(relax.op.multiply(wide, inverse), dtype_of(x))
    if node.has(1):
        y = relax.op.multiply(y, node.input(1))
    if node.has(2):
        y = relax.op.add(y, node.input(2))
    return [y, mean, inverse]


def _as_normalised(node: Node, position: int, shape: tuple[int, ...], default: float) -> Expr:
    if not node.has(position):
        return constant(np.full(shape, default, "float32"))
    value = node.input(position)
    return value if shape_of(value) == shape else node.emit(relax.op.broadcast_to(value, shape))


@converts("BatchNormalization")
def _batch_normalization(node: Node) -> list[Expr]:
    """Training mode: normalises by the batch's own mean and variance, and updates the running ones."""
    if not node.attrs.get("training_mode", 0):
        raise LeaveToTvm
    x, shape = node.input(0), node.shape(0)
    axes = [a for a in range(len(shape)) if a != 1]
    along = [1, shape[1]] + [1] * (len(shape) - 2)
    mean = node.emit(relax.op.mean(x, axis=axes))
    centred = node.emit(relax.op.subtract(x, reshaped(mean, along)))
    variance = node.emit(relax.op.mean(relax.op.multiply(centred, centred), axis=axes))
    epsilon = scalar(float(node.attrs.get("epsilon", 1e-5)), x)
    spread = node.emit(relax.op.sqrt(relax.op.add(reshaped(variance, along), epsilon)))
    gain, shift = reshaped(node.input(1), along), reshaped(node.input(2), along)
    y = relax.op.add(relax.op.multiply(relax.op.divide(centred, spread), gain), shift)
    momentum = float(node.attrs.get("momentum", 0.9))

    def moved(old: Expr, new: Expr) -> Expr:
        kept = relax.op.multiply(old, scalar(momentum, old))
        return relax.op.add(kept, relax.op.multiply(new, scalar(1 - momentum, new)))

    return [y, moved(node.input(3), mean), moved(node.input(4), variance)]
