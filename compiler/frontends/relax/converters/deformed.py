"""DeformConv: samples beside the windows' own places, then a product with the weights."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import CannotConvert, Node, converts, reshaped
from edgec.compiler.kernels.deformed import DeformedWindow

X, W, OFFSETS, BIAS, MASK = range(5)


@converts("DeformConv")
def _deformed(node: Node) -> Expr:
    shape, weights, offsets = node.shape(X), node.shape(W), node.shape(OFFSETS)
    if len(shape) != 4:
        raise CannotConvert("deformed windows of other than images are not compiled")
    if node.dtype(X) not in ("float32", "float64"):
        raise CannotConvert(f"deformed windows of {node.dtype(X)} are not compiled")

    def pair(name: str, default: list[int]) -> tuple[int, int]:
        first, second = (int(v) for v in (node.attrs.get(name) or default)[:2])
        return first, second

    group = int(node.attrs.get("group", 1))
    window = DeformedWindow(
        (weights[2], weights[3]),
        pair("strides", [1, 1]),
        pair("dilations", [1, 1]),
        pair("pads", [0, 0, 0, 0]),
        int(node.attrs.get("offset_group", 1)),
    )
    size = offsets[2:]

    def define(x: Expr, places: Expr, *mask: Expr) -> Expr:
        return window.columns(x, places, *mask, shape=size)

    mask = [node.input(MASK)] if node.has(MASK) else []
    columns = node.builder.emit_te(define, node.input(X), node.input(OFFSETS), *mask)
    taps = weights[2] * weights[3]
    inner = weights[1] * taps
    columns = node.emit(reshaped(columns, [shape[0], group, inner, size[0] * size[1]]))
    factors = node.emit(reshaped(node.input(W), [1, group, weights[0] // group, inner]))
    y = node.emit(relax.op.matmul(factors, columns))
    y = node.emit(reshaped(y, [shape[0], weights[0], *size]))
    if not node.has(BIAS):
        return y
    return relax.op.add(y, node.emit(reshaped(node.input(BIAS), [1, weights[0], 1, 1])))
