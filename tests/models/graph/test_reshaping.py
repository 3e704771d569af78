"""Operators that move values: the same ones at other places, with their moments."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.models.graph import Graph, Value
from tests.models.graph.operators import compute, normal

X = normal(1, 6, 2, 3)


def test_concat_and_split_are_inverse() -> None:
    def swapped(g: Graph, x: Value) -> Value:
        first, second = g.split(x, (2, 4))
        return g.concat([second, first])

    values, y, _ = compute(swapped, X)
    assert np.array_equal(values, np.concatenate([X[:, 2:], X[:, :2]], axis=1))
    assert y.moments is not None
    assert y.moments.mean.shape == (6,)


def test_moments_follow_their_channels() -> None:
    def network(g: Graph, x: Value) -> Value:
        return g.channel_shuffle(g.conv(x, 6, 1, "c"), 2)

    graph = Graph("test")
    before = graph.conv(graph.input("x0", X.shape), 6, 1, "c")
    values, y, _ = compute(network, X)
    assert before.moments is not None
    assert y.moments is not None
    assert y.moments.var.tolist() == before.moments.var[[0, 3, 1, 4, 2, 5]].tolist()
    assert values.shape == X.shape


def test_flatten_repeats_the_moments_of_a_channel() -> None:
    values, y, _ = compute(lambda g, x: g.flatten(x), X)
    assert np.array_equal(values, X.reshape(1, 36))
    assert y.moments is not None
    assert y.moments.mean.shape == (36,)


def test_transpose_slice_and_squeeze() -> None:
    values, _, _ = compute(lambda g, x: g.squeeze(g.slice(g.transpose(x, 0, 2, 3, 1), 1, 1, 2), 1), X)
    assert np.array_equal(values, X.transpose(0, 2, 3, 1)[:, 1])


def test_matmul_is_batched_and_counted() -> None:
    a, b = normal(2, 3, 4), normal(2, 4, 5)
    values, _, graph = compute(lambda g, a, b: g.matmul(a, b), a, b)
    np.testing.assert_allclose(values, a @ b, rtol=1e-5, atol=1e-6)
    assert graph.cost.macs == 2 * 3 * 4 * 5


def test_a_reshape_that_loses_values_is_refused() -> None:
    values, _, _ = compute(lambda g, x: g.reshape(x, (1, 36)), X)
    assert np.array_equal(values, X.reshape(1, 36))
    with pytest.raises(ValueError, match=r"cannot reshape \(1, 6, 2, 3\) to \(1, 35\)"):
        compute(lambda g, x: g.reshape(x, (1, 35)), X)
