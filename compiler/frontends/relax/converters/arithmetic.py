"""Element-wise arithmetic: powers, remainders, scaling, and tests for infinity."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    LeaveToTvm,
    Node,
    converts,
    dtype_of,
    is_constant,
    rank_of,
    scalar,
    value_of,
)
from edgec.compiler.kernels.remainders import quotient, remainder


@converts("Pow")
def _pow(node: Node) -> Expr:
    x, y = node.input(0), node.input(1)
    kind = dtype_of(x)
    if is_constant(y):
        power = value_of(y)
        if power.size == 1 and float(power.reshape(-1)[0]) == 2.0 and len(power.shape) <= rank_of(x):
            return relax.op.multiply(x, x)
    wide = "float64" if kind.startswith(("int", "uint")) or "64" in dtype_of(y) else kind
    a = x if kind == wide else node.emit(relax.op.astype(x, wide))
    b = y if dtype_of(y) == wide else node.emit(relax.op.astype(y, wide))
    result = node.emit(relax.op.power(a, b))
    return result if wide == kind else relax.op.astype(result, kind)


@converts("Div")
def _div(node: Node) -> Expr:
    """Of integers by constants of which some are zero, which TVM refuses."""
    divisor = node.input(1)
    if dtype_of(divisor).startswith("float") or not is_constant(divisor) or value_of(divisor).all():
        raise LeaveToTvm
    return node.builder.emit_te(quotient, node.input(0), divisor)


@converts("Mod")
def _mod(node: Node) -> Expr:
    """The remainder with the sign of the dividend (`fmod`) or of the divisor, as numpy's."""
    a, b, by_dividend = node.input(0), node.input(1), bool(node.attrs.get("fmod", 0))
    kind = node.dtype(0)
    if not kind.startswith("float"):
        return node.builder.emit_te(remainder, a, b, sign_of_dividend=by_dividend)
    # fp64 holds the quotients of fp32 numbers whole, where they are below 2^53
    a, b = (x if kind == "float64" else node.emit(relax.op.astype(x, "float64")) for x in (a, b))
    times = node.emit(relax.op.trunc(node.emit(relax.op.divide(a, b))))
    rest = node.emit(relax.op.subtract(a, relax.op.multiply(times, b)))
    rest = node.emit(relax.op.where(relax.op.logical_and(relax.op.isinf(b), relax.op.isfinite(a)), a, rest))
    if not by_dividend:
        zero = scalar(0, rest)
        other = relax.op.logical_xor(relax.op.less(b, zero), relax.op.less(rest, zero))
        off = node.emit(relax.op.logical_and(relax.op.not_equal(rest, zero), other))
        rest = node.emit(relax.op.where(off, relax.op.add(rest, b), rest))
    return rest if kind == "float64" else relax.op.astype(rest, kind)


@converts("Equal")
def _equal(node: Node) -> Expr:
    """Of truth values, which LLVM does not compare as numbers."""
    if node.dtype(0) != "bool":
        raise LeaveToTvm
    return relax.op.logical_not(relax.op.logical_xor(node.input(0), node.input(1)))


@converts("Sign")
def _sign(node: Node) -> Expr:
    """-1, 0 or 1; the sign of NaN is NaN."""
    x = node.input(0)
    if dtype_of(x).startswith("uint"):
        return relax.op.minimum(x, scalar(1, x))
    if not dtype_of(x).startswith("float"):
        raise LeaveToTvm
    return relax.op.where(relax.op.isnan(x), x, node.emit(relax.op.sign(x)))


@converts("Affine")
def _affine(node: Node) -> Expr:
    x, alpha, beta = node.input(0), float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 0.0))
    return relax.op.add(relax.op.multiply(x, scalar(alpha, x)), scalar(beta, x))


@converts("ImageScaler")
def _image_scaler(node: Node) -> Expr:
    scale = float(node.attrs.get("scale", 1.0))
    bias = np.asarray(node.attrs.get("bias", [0.0]), "float32").reshape(1, -1, 1, 1)
    return relax.op.add(relax.op.multiply(node.input(0), constant(scale, "float32")), constant(bias))


@converts("IsInf")
def _is_inf(node: Node) -> Expr:
    x = node.input(0)
    infinity = relax.op.isinf(x)
    if not node.attrs.get("detect_negative", 1):
        return relax.op.logical_and(infinity, relax.op.greater(x, scalar(0, x)))
    if not node.attrs.get("detect_positive", 1):
        return relax.op.logical_and(infinity, relax.op.less(x, scalar(0, x)))
    return infinity


_PAIRS = {"Max": relax.op.maximum, "Min": relax.op.minimum, "Sum": relax.op.add, "Mean": relax.op.add}


@converts("Max", "Min", "Sum", "Mean")
def _of_several(node: Node) -> Expr:
    """Operand by operand: maps, fused with what computes them. TVM stacks all operands and reduces the stack."""
    if all(is_constant(node.input(i)) for i in range(len(node.inputs))):
        raise LeaveToTvm
    pair, made = _PAIRS[node.op_type], node.input(0)
    for i in range(1, len(node.inputs)):
        made = node.emit(pair(made, node.input(i)))
    if node.op_type == "Mean" and len(node.inputs) > 1:
        made = relax.op.divide(made, scalar(len(node.inputs), made))
    return made
