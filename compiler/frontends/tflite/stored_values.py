"""The values of constant tensors: bytes of every element type, and tensors that are stored sparsely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
MOST_GROWTH = 4096  # zeros for each stored value; no pruning leaves fewer
NARROW = {"INT4": (4, True), "UINT4": (4, False), "INT2": (2, True)}  # bits, and whether they are signed


def values_of(raw: bytes, kind: str, dtype: str, count: int | None) -> Values:
    """The values in a buffer, in one dimension.

    Args:
        raw: the bytes, little endian; types of less than 8 bits are packed, the first value lowest.
        kind: the schema's name of the element type.
        dtype: numpy's name of the type to return.
        count: how many values there are; None where the buffer tells it.
    """
    if kind == "BFLOAT16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind not in NARROW:
        return np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder("<")).astype(dtype)
    bits, signed = NARROW[kind]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values: Values = ((np.frombuffer(raw, np.uint8)[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(
        -1
    )
    if signed:
        half = np.int16(1 << (bits - 1))
        values = (values.astype(np.int16) ^ half) - half
    wide: Values = values.astype(dtype)
    return wide[:count]


def dense(values: Values, sparsity: Any, shape: Sequence[int]) -> Values:  # noqa: ANN401 - an object of the schema
    """A tensor that is stored sparsely, with its zeros.

    The levels of the storage are the tensor's axes in a certain order, then the axes of its blocks. At a dense level
    each entry has as many children as the level is long; at a sparse one, segments list the children that are there.

    Args:
        values: the stored values, in the order of the last level.
        sparsity: the order of the axes, the axes that are divided into blocks, and each level's format.
        shape: of the dense tensor.

    Raises:
        ValueError: the parts contradict each other.
    """
    order = [int(axis) for axis in sparsity.traversalOrder]
    blocked = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    levels = sparsity.dimMetadata
    if len(levels) != len(order) or sorted(order) != list(range(len(shape) + len(blocked))):
        raise ValueError("the axes of a sparse tensor are not listed once each")
    if math.prod(shape) > MOST_GROWTH * (values.size + MOST_GROWTH):
        raise ValueError(f"a sparse tensor of {values.size} values would have the shape {list(shape)}")
    at = np.zeros(1, np.int64)
    coordinates: list[Values] = []
    for level in levels:
        parents, own, at = _children(level, at, math.prod(shape))
        coordinates = [c[parents] for c in coordinates] + [own]
    if at.size and int(at.max()) >= values.size:
        raise ValueError("a sparse tensor has fewer values than its index lists")
    place = [coordinates[order.index(axis)] for axis in range(len(shape))]
    for number, axis in enumerate(blocked):
        level = order.index(len(shape) + number)
        if levels[level].format:
            raise ValueError("the blocks of a sparse tensor are sparse")
        place[axis] = place[axis] * int(levels[level].denseSize) + coordinates[level]
    result = np.zeros(tuple(shape), values.dtype)
    result[tuple(place)] = values[at]
    return result


def _children(level: Any, at: Values, most: int) -> tuple[Values, Values, Values]:  # noqa: ANN401
    """For each entry of the next level: its parent, its coordinate, and its place in the storage."""
    if level.format == 0:
        length = int(level.denseSize)
        if length < 0 or at.size * length > most:
            raise ValueError(f"a level of a sparse tensor is {length} long")
        parents = np.repeat(np.arange(at.size), length)
        own = np.tile(np.arange(length), at.size)
        return parents, own, at[parents] * length + own
    segments = np.asarray(level.arraySegments.values, np.int64)
    indices = np.asarray(level.arrayIndices.values, np.int64)
    begins, counts = segments[at], segments[at + 1] - segments[at]
    if (counts < 0).any() or (begins < 0).any() or int(counts.sum()) > indices.size or (indices < 0).any():
        raise ValueError("the segments of a sparse tensor are not in order")
    parents = np.repeat(np.arange(at.size), counts)
    offsets = np.arange(parents.size) - np.repeat(np.cumsum(counts) - counts, counts)
    places = begins[parents] + offsets
    return parents, indices[places], places
