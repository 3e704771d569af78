"""Layers with weights: values, shapes, costs, and moments near those of real activations."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.models.graph import Graph, Value
from tests.models.graph.operators import compute, normal


def test_a_convolution_counts_weights_and_products() -> None:
    x = normal(1, 8, 9, 7)
    values, y, graph = compute(lambda g, x: g.conv(x, 16, 3, "c", stride=2, padding=1, bias=True), x)
    assert y.shape == (1, 16, 5, 4)
    assert graph.cost.params == 16 * 8 * 9 + 16
    assert graph.cost.macs == 5 * 4 * 16 * 8 * 9
    assert np.isfinite(values).all()


@pytest.mark.parametrize(("groups", "kernel", "padding"), [(1, (3, 1), (1, 0, 1, 0)), (4, 3, 1), (8, 1, 0)])
def test_a_trained_convolution_computes_what_its_weights_say(
    groups: int, kernel: int | tuple[int, int], padding: int | tuple[int, int, int, int]
) -> None:
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = normal(8, 8 // groups, kh, kw, seed=1)
    x = normal(1, 8, 5, 5)
    values, _, _ = compute(
        lambda g, x: g.conv(x, 8, kernel, "c", padding=padding, groups=groups),
        x,
        weights={"c.weight": weight},
    )
    top, left, bottom, right = (padding,) * 4 if isinstance(padding, int) else padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(2, 3))
    grouped = windows.reshape(1, groups, 8 // groups, *windows.shape[2:])
    expected = np.einsum(
        "ngchwij,gocij->ngohw", grouped, weight.reshape(groups, 8 // groups, 8 // groups, kh, kw)
    )
    np.testing.assert_allclose(values, expected.reshape(values.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 20])
def test_batch_norms_keep_activations_near_one_at_any_depth(layers: int) -> None:
    def network(g: Graph, x: Value) -> Value:
        for number in range(layers):
            x = g.relu(g.batch_norm(g.conv(x, 32, 3, f"c{number}", padding=1), f"b{number}"))
        return g.batch_norm(g.conv(x, 32, 3, "last", padding=1), "b")

    values, y, _ = compute(network, normal(1, 3, 24, 24))
    assert 0.5 < values.std() < 2.0
    assert y.moments is not None
    assert 0.5 < np.sqrt(y.moments.var).mean() < 2.0


def test_moments_after_a_convolution_are_those_of_many_values() -> None:
    def network(g: Graph, x: Value) -> Value:
        return g.conv(x, 6, 1, "c", bias=False)

    values, y, _ = compute(network, normal(1, 4, 100, 100))
    assert y.moments is not None
    np.testing.assert_allclose(values.mean((0, 2, 3)), y.moments.mean, atol=0.05)
    np.testing.assert_allclose(values.var((0, 2, 3)), y.moments.var, rtol=0.1)


def test_dense_layers_agree_with_each_other() -> None:
    x = normal(3, 5)
    weight, bias = normal(4, 5, seed=1), normal(4, seed=2)
    dense, _, graph = compute(
        lambda g, x: g.dense(x, 4, "d"), x, weights={"d.weight": weight, "d.bias": bias}
    )
    linear, _, _ = compute(
        lambda g, x: g.linear(x, 4, "l"), x, weights={"l.weight": weight.T.copy(), "l.bias": bias}
    )
    np.testing.assert_allclose(dense, x @ weight.T + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(linear, dense, rtol=1e-5, atol=1e-6)
    assert (graph.cost.params, graph.cost.macs) == (24, 60)


def test_layer_norm_normalises_the_last_axis() -> None:
    x = normal(2, 3, 16) * 5 + 2
    ones = {"n.weight": np.ones(16, np.float32), "n.bias": np.zeros(16, np.float32)}
    values, _, _ = compute(lambda g, x: g.layer_norm(x, "n"), x, weights=ones)
    np.testing.assert_allclose(values.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(-1), 1, atol=1e-3)


def test_an_up_convolution_fills_each_cell() -> None:
    weight = np.ones((1, 1, 2, 2), np.float32)
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    values, _, _ = compute(
        lambda g, x: g.conv_transpose(x, 1, 2, 2, "u"), x,
        weights={"u.weight": weight, "u.bias": np.zeros(1, np.float32)},
    )  # fmt: skip
    assert values[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_trained_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"d\.weight has shape \(4, 6\), the architecture requires \(4, 5\)"):
        compute(lambda g, x: g.dense(x, 4, "d"), normal(3, 5), weights={"d.weight": normal(4, 6)})
    with pytest.raises(KeyError, match=r"d\.weight"):
        compute(lambda g, x: g.dense(x, 4, "d"), normal(3, 5), weights={})
    graph = Graph("test")
    graph.dense(graph.input("x", (1, 5)), 4, "d")
    with pytest.raises(ValueError, match="two parameters named"):
        graph.dense(graph.input("z", (1, 5)), 4, "d")
