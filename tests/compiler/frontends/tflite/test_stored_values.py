"""Sparse tensors and element types of less than 8 bits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.frontends.tflite.stored_values import dense, values_of


def stored_sparsely(
    array: np.ndarray, order: list[int], blocks: dict[int, int], formats: list[int]
) -> tuple[np.ndarray, SimpleNamespace]:
    """A dense array in the schema's form, level by level (the slow way).

    Args:
        order: of the axes, blocks' axes included, which are numbered after the array's.
        blocks: lengths of blocks by axis.
        formats: 0 for dense and 1 for sparse levels, in that order.
    """
    split, position = [], {}
    for axis, size in enumerate(array.shape):
        position[axis] = len(split)
        split.append(size // blocks.get(axis, 1))
        if axis in blocks:
            position[array.ndim + list(blocks).index(axis)] = len(split)
            split.append(blocks[axis])
    moved = array.reshape(split).transpose([position[axis] for axis in order])
    levels = []
    entries: list[tuple[int, ...]] = [()]
    for level, kind in enumerate(formats):
        size = moved.shape[level]
        children, segments, indices = [], [0], []
        for entry in entries:
            for k in range(size):
                if kind == 0 or np.any(moved[(*entry, k)]):
                    children.append((*entry, k))
                    indices.append(k)
            segments.append(len(indices))
        one = SimpleNamespace(format=kind, denseSize=size, arraySegments=None, arrayIndices=None)
        if kind:
            one.arraySegments, one.arrayIndices = (SimpleNamespace(values=v) for v in (segments, indices))
        levels.append(one)
        entries = children
    values = np.array([moved[entry] for entry in entries], array.dtype)
    return values, SimpleNamespace(traversalOrder=order, blockMap=list(blocks), dimMetadata=levels)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_sparse_tensors_have_their_zeros_back(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 4))
    blocks = {a: data.draw(st.sampled_from([2, 4])) for a in range(rank) if data.draw(st.booleans())}
    shape = [data.draw(st.integers(1, 3)) * blocks.get(a, 1) for a in range(rank)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    array = rng.standard_normal(shape).astype("float16") * (rng.random(shape) < data.draw(st.floats(0, 1)))
    order = data.draw(st.permutations(range(rank))) + data.draw(
        st.permutations(range(rank, rank + len(blocks)))
    )
    formats = [data.draw(st.integers(0, 1)) if axis < rank else 0 for axis in order]
    values, sparsity = stored_sparsely(array, list(order), blocks, formats)
    np.testing.assert_array_equal(dense(values, sparsity, shape), array)


def test_sparse_tensors_that_contradict_themselves_are_refused() -> None:
    values, sparsity = stored_sparsely(np.eye(4, dtype="float32"), [0, 1], {}, [0, 1])
    with pytest.raises(ValueError, match="fewer values"):
        dense(values[:2], sparsity, (4, 4))
    with pytest.raises(ValueError, match="listed once"):
        dense(values, SimpleNamespace(**{**vars(sparsity), "traversalOrder": [0, 0]}), (4, 4))
    with pytest.raises(ValueError, match="would have the shape"):
        dense(values, sparsity, (1 << 15, 1 << 15))
    sparsity.dimMetadata[1].arraySegments.values = [0, 3, 2, 3, 4]
    with pytest.raises(ValueError, match="not in order"):
        dense(values, sparsity, (4, 4))


def test_types_of_less_than_eight_bits() -> None:
    assert values_of(b"\x1f\xf2\x08", "INT4", "int8", 5).tolist() == [-1, 1, 2, -1, -8]
    assert values_of(b"\x1f", "UINT4", "uint8", 2).tolist() == [15, 1]
    assert values_of(b"\xe4", "INT2", "int8", 4).tolist() == [0, 1, -2, -1]
    assert values_of(b"\x80\x3f\x00\xc0", "BFLOAT16", "float32", 2).tolist() == [1.0, -2.0]
