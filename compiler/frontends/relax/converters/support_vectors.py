"""Support vector machines: one matrix product with the support vectors, whatever the kernel."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    ML,
    CannotConvert,
    Node,
    converts,
    dtype_of,
    shape_of,
)


@converts("SVMRegressor", domain=ML)
def _svm_regressor(node: Node) -> Expr:
    """Formulas: ai.onnx.ml operator SVMRegressor-1, as ONNX Runtime reads it."""
    x, shape = node.input(0), node.shape(0)
    if len(shape) != 2:
        raise CannotConvert("its input is not a matrix")
    if str(node.attrs.get("post_transform", "NONE")) != "NONE":
        raise CannotConvert("a transform of its result is not compiled")
    x = x if dtype_of(x) == "float32" else node.emit(relax.op.astype(x, "float32"))
    weights = np.asarray(node.attrs["coefficients"], "float32").reshape(-1, 1)
    count = int(node.attrs.get("n_supports", 0))
    if count:
        vectors = np.asarray(node.attrs["support_vectors"], "float32").reshape(count, shape[1])
        near = kernel(node, x, vectors)
    else:
        near = x
    rho = np.asarray(node.attrs["rho"], "float32")[:1]
    y = node.emit(relax.op.add(relax.op.matmul(near, constant(weights)), constant(rho)))
    if int(node.attrs.get("one_class", 0)):
        positive = relax.op.greater(y, constant(0.0, "float32"))
        return relax.op.where(positive, constant(1.0, "float32"), constant(-1.0, "float32"))
    return y


def kernel(node: Node, x: Expr, vectors: Array) -> Expr:
    """The kernel of each row of `x` and each support vector: `[rows, vectors]`.

    The radial kernel's squared distance is a sum of squared differences: |x|² - 2xv + |v|² loses precision where both
    are far from zero.
    """
    kind = str(node.attrs.get("kernel_type", "LINEAR"))
    gamma, offset, degree = (float(p) for p in (node.attrs.get("kernel_params") or [0.0, 0.0, 0.0]))
    rows, features = shape_of(x)
    if kind == "RBF":
        spread = node.emit(relax.op.reshape(x, (rows, 1, features)))
        apart = node.emit(relax.op.subtract(spread, constant(vectors[None])))
        squares = node.emit(relax.op.sum(relax.op.multiply(apart, apart), axis=[2]))
        return node.emit(relax.op.exp(relax.op.multiply(squares, constant(-gamma, "float32"))))
    product = node.emit(relax.op.matmul(x, constant(np.ascontiguousarray(vectors.T))))
    if kind == "LINEAR":
        return product
    line = relax.op.add(relax.op.multiply(product, constant(gamma, "float32")), constant(offset, "float32"))
    if kind == "POLY":
        return node.emit(relax.op.power(node.emit(line), constant(degree, "float32")))
    if kind == "SIGMOID":
        return node.emit(relax.op.tanh(node.emit(line)))
    raise CannotConvert(f"its kernel {kind!r} is unknown")
