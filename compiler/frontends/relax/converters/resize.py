"""Resize, where TVM's converter fails or deviates from the standard: a constant matrix for each axis that changes.

Interpolation is separable, so that resizing an axis is a product with a matrix of weights `[to, from]` (or, for
the nearest neighbour, a gather). Formulas: ONNX operator Resize-19.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
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
from edgec.compiler.kernels.interpolation import interpolated

# Modes in which TVM's operator follows the standard, for images and scales that yield whole sizes.
PLAIN_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")

MOST_TAPS = 8  # of an interpolation that is written out; cubic ones have 4


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        axis: its position.
        size: elements before.
        out: elements after.
        scale: the factor, not rounded to whole sizes.
        start: where the region to resize begins, as a fraction of the axis.
        end: where it ends.
    """

    axis: int
    size: int
    out: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    @property
    def exact(self) -> float:
        """The size by the factor, not truncated to a whole number."""
        return self.scale * self.size


@converts("Resize", "Upsample")
def _resize(node: Node) -> Expr:
    x = node.input(0)
    axes = _axes(node)
    changed = [a for a in axes if a.out != a.size or a.scale != 1.0 or _mode(node) == "tf_crop_and_resize"]
    if _is_plain(node, changed):
        raise LeaveToTvm
    kind = dtype_of(x)
    method = str(node.attrs.get("mode", "nearest"))
    if method != "nearest" and not kind.startswith("float"):
        x = node.emit(relax.op.astype(x, "float32"))
    outside = np.zeros([1] * rank_of(x), bool)
    for step in changed:
        places = coordinates(step, _mode(node))
        if _mode(node) == "tf_crop_and_resize":
            out_of_range = (places < 0) | (places > step.size - 1)
            outside = outside | out_of_range.reshape(
                [-1 if i == step.axis else 1 for i in range(outside.ndim)]
            )
        if method == "nearest":
            rows = nearest(places, step.size, str(node.attrs.get("nearest_mode", "round_prefer_floor")))
            x = node.emit(relax.op.take(x, constant(rows), axis=step.axis))
        else:
            x = _product(node, x, step, weights(node, places, step, method))
    if outside.any():
        value = scalar(float(node.attrs.get("extrapolation_value", 0.0)), x)
        x = node.emit(relax.op.where(constant(outside), value, x))
    return x if dtype_of(x) == kind else relax.op.astype(x, kind)


def _mode(node: Node) -> str:
    if node.op_type == "Upsample" or (node.op_type == "Resize" and node.opset < 11):
        return "asymmetric"
    return str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))


def _axes(node: Node) -> list[Axis]:
    """Every axis with its sizes, from the node's scales or sizes."""
    shape = node.shape(0)
    old = node.op_type == "Upsample" or node.opset < 11
    given = node.array(1 if old else 2) if "scales" not in node.attrs else np.asarray(node.attrs["scales"])
    sizes = None if old else node.array(3)
    picked = [axis_of(int(a), len(shape)) for a in node.attrs.get("axes") or range(len(shape))]
    if sizes is not None and sizes.size:
        wanted = [int(s) for s in sizes.reshape(-1)]
        scales = [out / shape[a] for a, out in zip(picked, wanted, strict=True)]
        policy = str(node.attrs.get("keep_aspect_ratio_policy", "stretch"))
        if policy != "stretch":
            factor = min(scales) if policy == "not_larger" else max(scales)
            scales = [factor] * len(picked)
            wanted = [math.floor(factor * shape[a] + 0.5) for a in picked]
    elif given is not None and given.size:
        scales = [float(s) for s in given.reshape(-1)]
        # In float32, as ONNX infers shapes: 48 × float32(257 / 48) is 257, and in float64 less than that.
        products = (np.float32(shape[a]) * np.float32(s) for a, s in zip(picked, scales, strict=True))
        wanted = [math.floor(product) for product in products]
    else:
        raise CannotConvert("neither its scales nor its sizes are given")
    if min(wanted) < 1:
        raise CannotConvert(f"its output has an axis of size {min(wanted)}")
    return _with_regions(node, picked, wanted, scales)


def _with_regions(node: Node, picked: list[int], wanted: list[int], scales: list[float]) -> list[Axis]:
    shape, n = node.shape(0), len(picked)
    region = [0.0] * n + [1.0] * n
    if _mode(node) == "tf_crop_and_resize":
        given = node.array(1)
        if given is None or given.size != 2 * n:
            raise CannotConvert("its region is missing")
        region = [float(r) for r in given.reshape(-1)]
    return sorted(
        (Axis(a, shape[a], wanted[i], scales[i], region[i], region[n + i]) for i, a in enumerate(picked)),
        key=lambda step: step.axis,
    )


def _is_plain(node: Node, changed: list[Axis]) -> bool:
    """Whether TVM's own operator, for which there are vector kernels, computes the same."""
    method, shape = str(node.attrs.get("mode", "nearest")), node.shape(0)
    # A factor is a float32, whose rounding only matters to which of two neighbours is nearest.
    slack = 0.0 if method == "nearest" else float(np.finfo(np.float32).eps)
    whole = all(abs(s.exact - s.out) <= 1e-6 + slack * s.out and s.out > 1 for s in changed)
    spatial = len(shape) == 4 and all(step.axis >= 2 for step in changed)
    grows = all(step.out >= step.size for step in changed) or method != "cubic"
    simple = method in ("linear", "nearest") and not node.attrs.get("antialias", 0)
    real = node.dtype(0) == "float32" and len(node.attrs.get("axes") or shape) == len(shape)
    return spatial and whole and grows and simple and real and _mode(node) in PLAIN_COORDINATES


def coordinates(step: Axis, mode: str) -> Array:
    """The source coordinate of each element of the resized axis."""
    i = np.arange(step.out, dtype=np.float64)
    if mode == "align_corners":
        return np.zeros(step.out) if step.exact == 1 else i * (step.size - 1) / (step.exact - 1)
    if mode == "asymmetric":
        return i / step.scale
    if mode == "tf_crop_and_resize":
        return _in_region(step)
    if mode == "tf_half_pixel_for_nn":  # of operator sets 11 and 12
        return (i + 0.5) / step.scale
    if mode == "pytorch_half_pixel" and step.out == 1:
        return np.zeros(1)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / step.scale - 0.5
    if mode == "half_pixel_symmetric":
        offset = step.size / 2 * (1 - step.out / step.exact)
        return offset + (i + 0.5) / step.scale - 0.5
    raise CannotConvert(f"its coordinates {mode!r} are unknown")


def _in_region(step: Axis) -> Array:
    """In float32, in which the region is given: 0.1 of an axis of 6 is halfway between its first two elements."""
    one, i = np.float32, np.arange(step.out, dtype=np.float32)
    start, end, last = one(step.start), one(step.end), one(step.size - 1)
    if step.out == 1:
        return np.full(1, one(0.5) * (start + end) * last, np.float64)
    return (start * last + i * (end - start) * last / one(step.out - 1)).astype(np.float64)


def nearest(places: Array, size: int, mode: str) -> Array:
    """The indices of the elements nearest to some coordinates, within the axis."""
    if mode == "round_prefer_floor":
        rounded = np.ceil(places - 0.5)
    elif mode == "round_prefer_ceil":
        rounded = np.floor(places + 0.5)
    elif mode in ("floor", "ceil"):
        rounded = np.floor(places) if mode == "floor" else np.ceil(places)
    else:
        raise CannotConvert(f"its rounding {mode!r} is unknown")
    return np.clip(rounded, 0, size - 1).astype("int64")


def weights(node: Node, places: Array, step: Axis, method: str) -> Array:
    """The matrix `[to, from]` of linear or cubic interpolation."""
    shrink = min(step.scale, 1.0) if node.attrs.get("antialias", 0) else 1.0
    reach = math.ceil((1 if method == "linear" else 2) / shrink) + 1
    taps = np.floor(places)[:, None] + np.arange(-reach, reach + 1)[None, :]
    distance = np.abs(taps - places[:, None]) * shrink
    if method == "linear":
        share = np.clip(1 - distance, 0, 1)
    elif method == "cubic":
        share = cubic(distance, float(node.attrs.get("cubic_coeff_a", -0.75)))
    else:
        raise CannotConvert(f"its mode {method!r} is unknown")
    if node.attrs.get("exclude_outside", 0):
        share = np.where((taps < 0) | (taps > step.size - 1), 0.0, share)
    share = share / share.sum(axis=1, keepdims=True)
    matrix = np.zeros((step.out, step.size))
    rows = np.repeat(np.arange(step.out), taps.shape[1])
    np.add.at(matrix, (rows, np.clip(taps, 0, step.size - 1).astype(int).reshape(-1)), share.reshape(-1))
    return matrix


def cubic(distance: Array, a: float) -> Array:
    """The weight of a sample at a distance in cubic convolution (Keys 1981)."""
    d = distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    result: Array = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    return result


def _product(node: Node, x: Expr, step: Axis, matrix: Array) -> Expr:
    """An axis resized by a matrix `[to, from]`.

    Of its few elements that are not zero where that is so: a product with all would spread a NaN along the axis.
    """
    shape = list(shape_of(x))
    outer, inner = math.prod(shape[: step.axis]), math.prod(shape[step.axis + 1 :])
    weight = matrix.astype(dtype_of(x))
    out = [*shape[: step.axis], step.out, *shape[step.axis + 1 :]]
    taps = int(np.count_nonzero(weight, axis=1).max(initial=1))
    if taps <= MOST_TAPS:
        # the heaviest first; what fills up a row has no weight, and is read anyway
        order = np.argsort(-np.abs(weight), axis=1, kind="stable")[:, :taps]
        shares = np.take_along_axis(weight, order, 1)
        places = np.where(shares == 0, order[:, :1], order).astype("int32")
        planes = node.emit(reshaped(x, [outer, step.size, inner]))
        y = node.builder.emit_te(interpolated, planes, constant(places), constant(shares))
    elif inner == 1:
        rows = node.emit(reshaped(x, [outer, step.size]))
        y = node.emit(relax.op.matmul(rows, constant(np.ascontiguousarray(weight.T))))
    else:
        planes = node.emit(reshaped(x, [outer, step.size, inner]))
        y = node.emit(relax.op.matmul(constant(weight), planes))
    return node.emit(reshaped(y, out))
