"""QuantizeLinear and DequantizeLinear.

With constant scales and zero points they become the operators of the same name in Relax, which
`edgec.compiler.graph.integer` rewrites to integer arithmetic together with what is between them. Weights that have no
integer form are dequantised when the model is compiled.
"""

from __future__ import annotations

import numpy as np
from onnx import helper
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters import casts
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    CannotConvert,
    Node,
    axis_of,
    converts,
    is_constant,
    rank_of,
    reshaped,
    shape_of,
    value_of,
)

RANGES = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}
INTEGERS = (*RANGES, "int32")


@converts("DequantizeLinear")
@converts("DequantizeLinear", domain=MICROSOFT)
def _dequantize(node: Node) -> Expr:
    if not _is_known(node) or _is_narrow(node):
        return _dequantize_by_inputs(node)
    scale, zero = _grid(node)
    x = node.input(0)
    rank = node.rank(0)
    if is_constant(x):
        array = value_of(x)
        kept = node.scope is not None and node.outputs[0] in node.scope.importer.kept
        stored = _stored(array) if kept and not node.attrs.get("block_size", 0) else None
        if stored is None or str(scale.dtype) != "float32":
            return constant(_dequantized(node, array, scale, zero))
        return marked(node, constant(stored), scale, zero)
    if node.dtype(0) not in INTEGERS:
        raise CannotConvert(f"dequantising {node.dtype(0)} is not compiled")
    if node.attrs.get("block_size", 0):
        raise CannotConvert("it has a scale per block, and its input is not constant")
    if str(scale.dtype) == "float32":
        return marked(node, x, scale, zero)
    scale, zero = _aligned(node, scale, rank), _aligned(node, zero, rank)
    real = relax.op.astype(x, str(scale.dtype))
    if zero.any():
        real = node.emit(real) - constant(zero.astype(scale.dtype))
    return node.emit(real) * constant(scale)


def marked(node: Node, x: Expr, scale: Array, zero: Array) -> Expr:
    """Integers that stand for real numbers, for the rewriting to integer arithmetic."""
    axis = axis_of(node.attrs.get("axis", 1), rank_of(x)) if scale.size > 1 else 0
    scale, zero = (a.reshape(-1 if scale.size > 1 else ()) for a in (scale, zero.astype("int32")))
    return relax.op.dequantize(x, constant(scale), constant(zero), axis)


def _stored(array: Array) -> Array | None:
    """The integers of a constant; those of less than 8 bits, which are held in float32, in 8."""
    if str(array.dtype) in INTEGERS:
        return array
    whole = (
        array.dtype.kind == "f"
        and np.array_equal(array, np.rint(array))
        and np.abs(array).max(initial=0) < 128
    )
    return array.astype("int8") if whole else None


def _dequantized(node: Node, x: Array, scale: Array, zero: Array) -> Array:
    block = int(node.attrs.get("block_size", 0))
    if block:
        axis = axis_of(node.attrs.get("axis", 1), x.ndim)
        scale, zero = (_unblocked(a, axis, block, x.shape[axis]) if a.ndim else a for a in (scale, zero))
        if any(a.ndim and a.shape != x.shape for a in (scale, zero)):
            raise CannotConvert(f"it has blocks along axis {axis} of {x.shape}, and scales for others")
    else:
        scale, zero = _aligned(node, scale, x.ndim), _aligned(node, zero, x.ndim)
    real = (x.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)
    return real.astype(scale.dtype)


def _unblocked(value: Array, axis: int, block: int, length: int) -> Array:
    return np.take(np.repeat(value, block, axis=axis), np.arange(length), axis=axis)


@converts("QuantizeLinear")
@converts("QuantizeLinear", domain=MICROSOFT)
def _quantize(node: Node) -> Expr:
    if casts.result_type(node) in casts.NARROW:
        return _quantize_narrow(node)
    if not _is_known(node):
        return _quantize_by_inputs(node)
    scale, zero = _grid(node)
    rank, dtype = node.rank(0), str(zero.dtype)
    if dtype not in RANGES:
        raise CannotConvert(f"quantising to {dtype} is not compiled")
    if node.attrs.get("block_size", 0):
        raise CannotConvert("it has a scale per block")
    low, high = RANGES[dtype]
    x = node.input(0)
    if node.dtype(0) != str(scale.dtype):
        x = node.emit(relax.op.astype(x, str(scale.dtype)))
    if str(scale.dtype) == "float32":
        axis = axis_of(node.attrs.get("axis", 1), rank) if scale.size > 1 else 0
        scale, zero = (a.reshape(-1 if scale.size > 1 else ()) for a in (scale, zero.astype("int32")))
        return relax.op.quantize(x, constant(scale), constant(zero), axis, dtype)
    steps = node.emit(relax.op.round(node.emit(x / constant(_aligned(node, scale, rank)))))
    if zero.any():
        steps = node.emit(steps + constant(_aligned(node, zero, rank).astype(scale.dtype)))
    return relax.op.astype(node.emit(relax.op.clip(steps, low, high)), dtype)


def _is_narrow(node: Node) -> bool:
    """Whether its input is of a type of 8 bits or fewer that is held in float32 (see `casts`)."""
    return node.dtype(0) == "float32" and not is_constant(node.input(0))


def _is_known(node: Node) -> bool:
    """Whether scale and zero point are constants and fit a slice or the whole, as weights have them."""
    known = is_constant(node.input(1)) and (not node.has(2) or is_constant(node.input(2)))
    blocks = bool(node.attrs.get("block_size", 0)) and not is_constant(node.input(0))
    return known and not blocks


def _stretched(node: Node, position: int) -> Expr:
    """A scale or zero point that broadcasts to the first input: one value, one per slice, or one per block."""
    value, shape = node.input(position), node.shape(0)
    own = shape_of(value)
    if int(np.prod(own)) == 1:
        return node.emit(reshaped(value, []))
    axis = axis_of(int(node.attrs.get("axis", 1)), len(shape))
    if len(own) == 1:
        return node.emit(reshaped(value, [own[0] if i == axis else 1 for i in range(len(shape))]))
    block = int(node.attrs.get("block_size", 0)) or -(-shape[axis] // own[axis])
    rows = np.minimum(np.arange(shape[axis]) // block, own[axis] - 1).astype("int64")
    return node.emit(relax.op.take(value, constant(rows), axis=axis))


def _dequantize_by_inputs(node: Node) -> Expr:
    if node.dtype(0) not in INTEGERS and not _is_narrow(node):
        raise CannotConvert(f"dequantising {node.dtype(0)} is not compiled")
    scale, kind = _stretched(node, 1), node.dtype(1)
    real = node.emit(relax.op.astype(node.input(0), kind))
    if node.has(2):
        real = node.emit(relax.op.subtract(real, relax.op.astype(_stretched(node, 2), kind)))
    return relax.op.multiply(real, scale)


def _quantize_narrow(node: Node) -> Expr:
    kind = node.dtype(1)
    steps = node.emit(relax.op.divide(node.emit(relax.op.astype(node.input(0), kind)), _stretched(node, 1)))
    target = casts.result_type(node)
    if target in casts.INTEGERS:
        steps = node.emit(relax.op.round(steps))
    if node.has(2):
        steps = node.emit(relax.op.add(steps, relax.op.astype(_stretched(node, 2), kind)))
    return casts.quantised(node, steps, target)


def _quantize_by_inputs(node: Node) -> Expr:
    named = int(node.attrs.get("output_dtype", 0))
    dtype = node.dtype(2) if node.has(2) else "uint8"
    if not node.has(2) and named:
        dtype = str(helper.tensor_dtype_to_np_dtype(named))
    if dtype not in RANGES:
        raise CannotConvert(f"quantising to {dtype} is not compiled")
    low, high = RANGES[dtype]
    scale, kind = _stretched(node, 1), node.dtype(1)
    x = node.input(0) if node.dtype(0) == kind else node.emit(relax.op.astype(node.input(0), kind))
    steps = node.emit(relax.op.round(node.emit(relax.op.divide(x, scale))))
    if node.has(2):
        steps = node.emit(relax.op.add(steps, relax.op.astype(_stretched(node, 2), kind)))
    return relax.op.astype(node.emit(relax.op.clip(steps, low, high)), dtype)


def _grid(node: Node) -> tuple[Array, Array]:
    """Scale and zero point, whose type is that of the stored integers."""
    scale = node.array(1)
    if scale is None:
        raise CannotConvert("it has no scale")
    zero = node.array(2)
    if zero is not None:
        return scale, zero
    if node.op_type == "DequantizeLinear":
        return scale, np.zeros(scale.shape, node.dtype(0))
    if node.attrs.get("output_dtype"):
        raise CannotConvert("it names its type by number; export it with a zero point")
    return scale, np.zeros(scale.shape, np.uint8)


def _aligned(node: Node, value: Array, rank: int) -> Array:
    """One value, or one per slice of the node's axis, in a shape that broadcasts."""
    if value.size == 1:
        return value.reshape(())
    axis = axis_of(node.attrs.get("axis", 1), rank)
    return value.reshape([-1 if i == axis else 1 for i in range(rank)])
