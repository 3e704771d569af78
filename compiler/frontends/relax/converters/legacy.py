"""Operators that the standard has dropped, or never had, and that exporters still emit."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.convolution import convolution
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    Node,
    Refusal,
    axis_of,
    converts,
    is_constant,
    reshaped,
    scalar,
    shape_of,
    value_of,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced


@converts("ImageScaler")
def _image_scaler(node: Node) -> Expr:
    scale = float(node.attrs.get("scale", 1.0))
    bias = np.asarray(node.attrs.get("bias", [0.0]), "float32").reshape(1, -1, 1, 1)
    return relax.op.add(relax.op.multiply(node.input(0), constant(scale, "float32")), constant(bias))


@converts("Affine")
def _affine(node: Node) -> Expr:
    x, alpha, beta = node.input(0), float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 0.0))
    return relax.op.add(relax.op.multiply(x, scalar(alpha, x)), scalar(beta, x))


@converts("Crop")
def _crop(node: Node) -> Expr:
    _, _, height, width = node.shape(0)
    left, top, right, bottom = (int(b) for b in node.attrs["border"])
    if "scale" in node.attrs:
        high, wide = (int(s) for s in node.attrs["scale"])
        picks = {2: slice(top, top + high), 3: slice(left, left + wide)}
    else:
        picks = {2: slice(top, height - bottom), 3: slice(left, width - right)}
    return sliced(node, node.input(0), picks)


@converts("ScaledTanh")
def _scaled_tanh(node: Node) -> Expr:
    x = node.input(0)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    return relax.op.multiply(relax.op.tanh(relax.op.multiply(x, scalar(beta, x))), scalar(alpha, x))


@converts("ParametricSoftplus")
def _parametric_softplus(node: Node) -> Expr:
    x = node.input(0)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    raised = relax.op.add(relax.op.exp(relax.op.multiply(x, scalar(beta, x))), scalar(1.0, x))
    return relax.op.multiply(relax.op.log(raised), scalar(alpha, x))


@converts("FusedConv", domain=MICROSOFT)
def _fused_conv(node: Node) -> Expr:
    y = convolution(node, node.input(0), node.input(1))
    if node.has(2):
        shape = [1, -1] + [1] * (len(shape_of(y)) - 2)
        shape[1] = node.shape(2)[0]
        y = node.emit(relax.op.add(y, node.emit(reshaped(node.input(2), shape))))
    if node.has(3):
        y = node.emit(relax.op.add(y, node.input(3)))
    return _activated(node, y, str(node.attrs.get("activation", "")), node.attrs.get("activation_params"))


@converts("FusedGemm", domain=MICROSOFT)
def _fused_gemm(node: Node) -> Expr:
    a, b = node.input(0), node.input(1)
    a = node.emit(relax.op.permute_dims(a, [1, 0])) if node.attrs.get("transA", 0) else a
    b = node.emit(relax.op.permute_dims(b, [1, 0])) if node.attrs.get("transB", 0) else b
    y = relax.op.multiply(relax.op.matmul(a, b), constant(float(node.attrs.get("alpha", 1.0)), "float32"))
    if node.has(2):
        beta = constant(float(node.attrs.get("beta", 1.0)), "float32")
        y = relax.op.add(y, relax.op.multiply(node.input(2), beta))
    alpha = node.attrs.get("activation_alpha")
    return _activated(node, node.emit(y), str(node.attrs.get("activation", "")), alpha and [alpha])


@converts("FusedMatMul", domain=MICROSOFT)
def _fused_matmul(node: Node) -> Expr:
    a, b = node.input(0), node.input(1)
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0):
        raise Refusal("moved batch axes are not compiled")
    a = node.emit(_swapped(a)) if node.attrs.get("transA", 0) else a
    b = node.emit(_swapped(b)) if node.attrs.get("transB", 0) else b
    return relax.op.multiply(relax.op.matmul(a, b), scalar(float(node.attrs.get("alpha", 1.0)), a))


def _swapped(x: Expr) -> Expr:
    axes = list(range(len(shape_of(x))))
    axes[-2:] = axes[:-3:-1]
    return relax.op.permute_dims(x, axes)


def _activated(node: Node, y: Expr, name: str, params: list[float] | None) -> Expr:
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
    raise Refusal(f"its activation {name!r} is unknown")


@converts("QuickGelu", domain=MICROSOFT)
def _quick_gelu(node: Node) -> Expr:
    x = node.input(0)
    alpha = float(node.attrs.get("alpha", 1.702))
    return relax.op.multiply(x, relax.op.sigmoid(relax.op.multiply(x, scalar(alpha, x))))


@converts("OneHot")
def _one_hot(node: Node) -> Expr:
    depth_value, values = node.array(1), node.input(2)
    if depth_value is None:
        raise Refusal("its depth is missing")
    depth = int(depth_value.reshape(-1)[0])
    indices = node.input(0)
    rank = len(shape_of(indices)) + 1
    axis = axis_of(int(node.attrs.get("axis", -1)), rank)
    shape = list(shape_of(indices))
    shape.insert(axis, 1)
    spread = [1] * rank
    spread[axis] = depth
    wide = node.emit(relax.op.astype(indices, "int64"))
    size = constant(depth, "int64")
    wide = relax.op.where(relax.op.less(wide, constant(0, "int64")), relax.op.add(wide, size), wide)
    classes = constant(np.arange(depth, dtype="int64").reshape(spread))
    hit = node.emit(relax.op.equal(reshaped(node.emit(wide), shape), classes))
    off, on = (_element(node, values, i) for i in (0, 1))
    return relax.op.where(hit, on, off)


def _element(node: Node, vector: Expr, position: int) -> Expr:
    if is_constant(vector):
        return constant(value_of(vector).reshape(-1)[position])
    return node.emit(reshaped(node.emit(sliced(node, vector, {0: slice(position, position + 1)})), []))


@converts("Celu")
def _celu(node: Node) -> Expr:
    x, alpha = node.input(0), float(node.attrs.get("alpha", 1.0))
    zero = scalar(0.0, x)
    below = relax.op.multiply(
        relax.op.subtract(relax.op.exp(relax.op.divide(x, scalar(alpha, x))), scalar(1.0, x)),
        scalar(alpha, x),
    )
    return relax.op.add(relax.op.maximum(x, zero), relax.op.minimum(below, zero))
