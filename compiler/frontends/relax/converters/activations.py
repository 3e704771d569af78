"""Activation functions, on their own or fused into another operator."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    scalar,
)


@converts("Swish")
def _swish(node: Node) -> Expr:
    x, alpha = node.input(0), float(node.attrs.get("alpha", 1.0))
    return relax.op.multiply(x, relax.op.sigmoid(relax.op.multiply(x, scalar(alpha, x))))


@converts("Elu")
def _elu(node: Node) -> Expr:
    x, alpha = node.input(0), float(node.attrs.get("alpha", 1.0))
    zero, one = scalar(0, x), scalar(1, x)
    below = relax.op.subtract(relax.op.exp(relax.op.minimum(x, zero)), one)
    return relax.op.where(relax.op.greater(x, zero), x, relax.op.multiply(below, scalar(alpha, x)))


@converts("PRelu")
def _prelu(node: Node) -> Expr:
    """With one slope per channel, however many axes follow the channels."""
    x, slope, shape, own = node.input(0), node.input(1), node.shape(0), node.shape(1)
    if not node.dtype(0).startswith("float"):
        below = node.emit(relax.op.multiply(x, slope))
        return relax.op.where(relax.op.greater_equal(x, scalar(0, x)), x, below)
    if len(shape) > 2:
        if len(own) > 1 or own in ((1,), shape[-1:]) or own != shape[1:2]:
            raise LeaveToTvm
        slope = node.emit(relax.op.reshape(slope, (*own, *[1] * (len(shape) - 2))))
    elif len(own) == 1 and len(shape) == 2 and own[0] not in (1, shape[1]):
        raise CannotConvert(f"{own[0]} slopes do not fit the shape {list(shape)}")
    below = node.emit(relax.op.multiply(x, slope))
    return relax.op.where(relax.op.greater_equal(x, scalar(0, x)), x, below)


@converts("Celu")
def _celu(node: Node) -> Expr:
    x, alpha = node.input(0), float(node.attrs.get("alpha", 1.0))
    zero = scalar(0.0, x)
    below = relax.op.multiply(
        relax.op.subtract(relax.op.exp(relax.op.divide(x, scalar(alpha, x))), scalar(1.0, x)),
        scalar(alpha, x),
    )
    return relax.op.add(relax.op.maximum(x, zero), relax.op.minimum(below, zero))


@converts("ThresholdedRelu")
def _thresholded_relu(node: Node) -> Expr:
    """A choice, not a product with 0 or 1, which would be NaN for minus infinity. NaN is not above the threshold."""
    x, alpha = node.input(0), float(node.attrs.get("alpha", 1.0))
    return relax.op.where(relax.op.greater(x, scalar(alpha, x)), x, scalar(0, x))


@converts("QuickGelu", domain=MICROSOFT)
def _quick_gelu(node: Node) -> Expr:
    x = node.input(0)
    alpha = float(node.attrs.get("alpha", 1.702))
    return relax.op.multiply(x, relax.op.sigmoid(relax.op.multiply(x, scalar(alpha, x))))


@converts("ScaledTanh")
def _scaled_tanh(node: Node) -> Expr:
    x = node.input(0)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    return relax.op.multiply(relax.op.tanh(relax.op.multiply(x, scalar(beta, x))), scalar(alpha, x))


@converts("ParametricSoftplus")
def _parametric_softplus(node: Node) -> Expr:
    x = node.input(0)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    inner, zero, one = node.emit(relax.op.multiply(x, scalar(beta, x))), scalar(0.0, x), scalar(1.0, x)
    small = relax.op.log(
        relax.op.add(relax.op.exp(relax.op.negative(relax.op.abs(inner))), one)
    )  # e^x overflows
    return relax.op.multiply(relax.op.add(relax.op.maximum(inner, zero), small), scalar(alpha, x))


def activated(node: Node, y: Expr, name: str, params: list[float] | None) -> Expr:
    """The activation that a fused operator applies to its result, by its ONNX name."""
    first = float(params[0]) if params else None
    if name in ("", "None"):
        return y
    simple = {"Relu": relax.op.nn.relu, "Tanh": relax.op.tanh, "Sigmoid": relax.op.sigmoid}
    if name in simple:
        return simple[name](y)
    if name == "LeakyRelu":
        return relax.op.nn.leakyrelu(y, 0.01 if first is None else first)
    if name == "Clip" and params and len(params) == 2:
        return relax.op.clip(y, float(params[0]), float(params[1]))
    if name == "HardSigmoid":
        alpha, beta = (float(p) for p in (params or [0.2, 0.5]))
        line = relax.op.add(relax.op.multiply(y, scalar(alpha, y)), scalar(beta, y))
        return relax.op.clip(line, 0.0, 1.0)
    raise CannotConvert(f"its activation {name!r} is unknown")
