"""Operators whose results have sizes that depend on the data: what is not zero, different, among the first, or free."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.compiler.samples.sample import Array, Draw, Sample, family

TYPES = ("float32", "float32", "float64", "float16", "int32", "int64", "uint8", "int8")


def few_values(draw: Draw, shape: list[int], dtype: str) -> Array:
    """Numbers of which many are equal, some of them zero."""
    return draw.rng.integers(0 if np.dtype(dtype).kind == "u" else -2, 3, tuple(shape)).astype(dtype)


@family
def nonzero(draw: Draw) -> Sample:
    dtype = draw.pick((*TYPES, "bool"))
    x = few_values(draw, draw.shape(1, 4, 5), dtype if dtype != "bool" else "int8").astype(dtype)
    if x.dtype.kind == "f":  # what is no number is not zero
        x = np.where(draw.rng.random(x.shape) < 0.1, np.nan, x).astype(dtype)
    return Sample("NonZero", (x,), {}, draw.pick((9, 13)), kinds=(7,))


@family
def compress(draw: Draw) -> Sample:
    x = draw.numbers(draw.shape(1, 4, 5), draw.pick((*TYPES, "bool")), draw.extremes())
    axis = draw.axis(x.ndim) if draw.chance(0.7) else None
    size = x.size if axis is None else x.shape[axis]
    condition = draw.rng.random(draw.within(1, size)) < 0.5
    attrs = {} if axis is None else {"axis": axis}
    return Sample("Compress", (x, condition), attrs, draw.pick((9, 13)), frozenset({draw.pick((1, 9))}))


@family
def unique(draw: Draw) -> Sample:
    x = few_values(draw, draw.shape(1, 4, 5), draw.pick(TYPES))
    attrs: dict[str, Any] = {"sorted": draw.within(0, 1)}
    axis = draw.axis(x.ndim) if draw.chance() else None
    if axis is not None:
        attrs["axis"] = axis
    values, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = np.asarray(inverse).reshape(-1)
    if not attrs["sorted"]:  # in the order in which they appear
        order = np.argsort(first)
        place = np.argsort(order)
        values, inverse = np.take(values, order, 0 if axis is None else axis), place[inverse]
        first, counts = first[order], counts[order]
    truth = (values, *(np.asarray(one, "int64") for one in (first, inverse, counts)))
    return Sample("Unique", (x,), attrs, 11, outputs=4, kinds=(0, 7, 7, 7), truth=truth)


@family
def top_k(draw: Draw) -> Sample:
    """With equal elements, of which the foremost come first."""
    dtype = draw.pick((*TYPES, "int16", "uint16", "uint32", "uint64"))
    shape = draw.shape(1, 3, draw.pick((5, 5, 40)))
    if draw.chance(0.2):
        shape[draw.within(0, len(shape) - 1)] = draw.within(60, 3000)
    many = draw.chance()
    x = few_values(draw, shape, dtype) if many else draw.numbers(shape, dtype)
    axis, largest = draw.axis(x.ndim), draw.within(0, 1)
    count = draw.within(1, x.shape[axis])
    keys = x.astype("float64") if x.dtype.kind == "f" else x.astype(object)
    order = np.argsort(-keys if largest else keys, axis, kind="stable")
    places = np.take(order, np.arange(count), axis).astype("int64")
    truth = (np.take_along_axis(x, places, axis), places)
    inputs = (x, np.asarray([count], "int64"))
    attrs = {"axis": axis, "largest": largest}
    return Sample("TopK", inputs, attrs, 11, frozenset({draw.pick((1, 1, 9))}), 2, kinds=(0, 7), truth=truth)


def suppressed(boxes: Array, scores: Array, most: int, overlap: float, least: float | None) -> Array:
    """NonMaxSuppression by the definition, of boxes by their corners."""
    listed = []
    for image, kind in np.ndindex(scores.shape[:2]):
        kept: list[int] = []
        for place in np.argsort(-scores[image, kind], kind="stable"):
            box, known = boxes[image, place], boxes[image, kept]
            if len(kept) == most or (
                least is not None and not scores[image, kind, place] > np.float32(least)
            ):
                break
            low, high = np.maximum(box[:2], known[:, :2]), np.minimum(box[2:], known[:, 2:])
            shared = np.prod(np.maximum(high - low, 0), 1, dtype="float32")
            areas = np.prod(known[:, 2:] - known[:, :2], 1, dtype="float32")
            union = np.prod(box[2:] - box[:2]) + areas - shared
            if not (shared > np.float32(overlap) * union).any():
                kept.append(int(place))
        listed += [(image, kind, place) for place in kept]
    return np.asarray(listed, "int64").reshape(-1, 3)


@family
def suppression(draw: Draw) -> Sample:
    images, classes, count = draw.within(1, 2), draw.within(1, 3), draw.within(1, 70)
    low = draw.rng.uniform(0, 1, (images, count, 2))
    corners = np.concatenate([low, low + draw.rng.uniform(0.01, 0.6, low.shape)], -1).astype("float32")
    scores = draw.reals([images, classes, count])
    if draw.chance(0.3):
        scores = np.round(scores)
    most, overlap = draw.pick((1, 3, 8, 100)), draw.pick((0.0, 0.3, 0.5, 0.9))
    least = draw.pick((None, -1.0, 0.5))
    truth = suppressed(corners, scores, most, overlap, least)
    boxes, attrs = corners, {}
    if draw.chance(0.3):
        attrs = {"center_point_box": 1}
        sizes = corners[..., 2:] - corners[..., :2]
        centre = (corners[..., 2:] + corners[..., :2]) / 2
        boxes = np.concatenate([centre[..., ::-1], sizes[..., ::-1]], -1).astype("float32")
    elif draw.chance(0.4):  # the corners in another order
        boxes = corners[..., [2, 1, 0, 3]]
    given = [np.asarray([most], "int64"), np.asarray([overlap], "float32")]
    given += [np.asarray([least], "float32")] if least is not None else []
    inputs = (boxes, scores, *given)
    return Sample(
        "NonMaxSuppression", inputs, attrs, draw.pick((10, 11)), frozenset(draw.pick(((2, 3, 4), (9,)))),
        kinds=(7,), truth=(truth,),
    )  # fmt: skip
