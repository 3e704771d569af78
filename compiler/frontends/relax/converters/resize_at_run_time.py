"""Resize of tensors whose sizes, or of sizes that, are known only at run time: one axis after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax, tirx

from edgec.compiler.frontends.relax.amounts import amounts
from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    axis_of,
    converts_dynamic,
    dtype_of,
)
from edgec.compiler.frontends.relax.dims import Dim, bound, dims_of, is_same
from edgec.compiler.kernels import resizing
from edgec.compiler.kernels.resizing import Resizing


@converts_dynamic("Resize", "Upsample")
def _resize(node: Node) -> Expr:
    x, kind = node.input(0), dtype_of(node.input(0))
    own = dims_of(x)
    old = node.op_type == "Upsample" or node.opset < 11
    way = "asymmetric" if old else str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    mode = {"bilinear": "linear"}.get(
        str(node.attrs.get("mode", "nearest")), str(node.attrs.get("mode", "nearest"))
    )
    if way not in resizing.COORDINATES or node.attrs.get("antialias", 0):
        what = "antialias" if node.attrs.get("antialias", 0) else way
        raise CannotConvert(f"Resize with {what} is not compiled for sizes known only at run time")
    axes = [axis_of(int(a), len(own)) for a in node.attrs.get("axes") or range(len(own))]
    sizes, factors = _wanted(node, own, axes, 1 if old else 2)
    rounding = "floor" if old else str(node.attrs.get("nearest_mode", "round_prefer_floor"))
    how = Resizing(
        mode,
        way,
        rounding,
        float(node.attrs.get("cubic_coeff_a", -0.75)),
        bool(node.attrs.get("exclude_outside", 0)),
    )
    changed = [axis for axis in axes if not is_same(sizes[axis], own[axis])]
    if mode != "nearest" and not kind.startswith("float"):
        x = node.emit(relax.op.astype(x, "float32"))
    for axis in changed:
        shape = [*dims_of(x)[:axis], sizes[axis], *dims_of(x)[axis + 1 :]]
        x = _along(node, x, axis, shape, how, factors.get(axis))
    return x if dtype_of(x) == kind else relax.op.astype(x, kind)


def _along(node: Node, x: Expr, axis: int, shape: Sequence[Dim], how: Resizing, factor: float | None) -> Expr:
    # symbolic sizes are arguments, so that the kernel gets them
    def define(data: Expr, sizes: Sequence[Dim]) -> Expr:
        return resizing.resized(data, axis, sizes, how, factor)

    return node.builder.emit_te(define, x, list(shape))


def _wanted(
    node: Node, own: Sequence[Dim], axes: list[int], place: int
) -> tuple[list[Dim], dict[int, float]]:
    """The sizes of the result, and the factors of axes for which one is given."""
    sizes = list(own)
    scales = node.attrs.get("scales") or (node.array(place) if node.has(place) and not node.has(3) else None)
    if node.has(3):
        wanted = amounts(node, 3) or []
        policy = str(node.attrs.get("keep_aspect_ratio_policy", "stretch"))
        if policy != "stretch":
            wanted = _in_proportion([own[a] for a in axes], wanted, smallest=policy == "not_larger")
        for axis, length in zip(axes, wanted, strict=True):
            sizes[axis] = bound(node.builder, length)
        return sizes, {}
    if scales is None or not np.size(scales):
        raise CannotConvert("its scales are known only at run time")
    factors = dict(zip(axes, np.asarray(scales).reshape(-1).astype(float).tolist(), strict=True))
    for axis, factor in factors.items():
        sizes[axis] = bound(node.builder, _scaled(own[axis], factor))
    return sizes, factors


def _in_proportion(own: Sequence[Dim], wanted: Sequence[Dim], *, smallest: bool) -> list[Dim]:
    """Sizes that keep the proportions of `own`: within `wanted`, or around it."""
    ratios = [_real(w) / _real(o) for w, o in zip(wanted, own, strict=True)]
    factor = ratios[0]
    for one in ratios[1:]:
        factor = tirx.min(factor, one) if smallest else tirx.max(factor, one)
    half = tirx.FloatImm("float64", 0.5)
    return [tirx.Cast("int64", tirx.floor(factor * _real(o) + half)) for o in own]


def _real(value: Dim) -> Expr:
    return tirx.FloatImm("float64", float(value)) if isinstance(value, int) else tirx.Cast("float64", value)


def _scaled(length: Dim, factor: float) -> Dim:
    if isinstance(length, int):
        return int(np.floor(np.float32(length) * np.float32(factor)))
    if factor == int(factor):
        return length * int(factor)
    inverse = 1 / factor
    if inverse == int(inverse):
        return tirx.floordiv(length, tirx.IntImm("int64", int(inverse)))
    exact = tirx.floor(tirx.Cast("float32", length) * tirx.FloatImm("float32", factor))
    return tirx.Cast("int64", exact)
