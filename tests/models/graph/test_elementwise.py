"""Element-wise operators: values by numpy, and moments by sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgec.models.graph import Graph, Value
from tests.models.graph.operators import Floats, compute, normal

ERF = np.vectorize(math.erf)
OPERATORS: dict[str, tuple[Callable[[Graph, Value], Value], Callable[[Any], Any]]] = {
    "relu": (lambda g, x: g.relu(x), lambda v: np.maximum(v, 0)),
    "relu6": (lambda g, x: g.relu6(x), lambda v: np.clip(v, 0, 6)),
    "sigmoid": (lambda g, x: g.sigmoid(x), lambda v: 1 / (1 + np.exp(-v))),
    "tanh": (lambda g, x: g.tanh(x), np.tanh),
    "silu": (lambda g, x: g.silu(x), lambda v: v / (1 + np.exp(-v))),
    "hard sigmoid": (lambda g, x: g.hard_sigmoid(x), lambda v: np.clip(v / 6 + 0.5, 0, 1)),
    "hard swish": (lambda g, x: g.hard_swish(x), lambda v: v * np.clip(v / 6 + 0.5, 0, 1)),
    "gelu": (lambda g, x: g.gelu(x), lambda v: v * 0.5 * (1 + ERF(v / math.sqrt(2)))),
    "exp": (lambda g, x: g.exp(x), np.exp),
    "scale": (lambda g, x: g.scale(x, 3, -1), lambda v: 3 * v - 1),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_values_and_moments(name: str) -> None:
    make, reference = OPERATORS[name]
    x = normal(1, 3, 60, 60)
    values, y, _ = compute(make, x)
    np.testing.assert_allclose(values, reference(x.astype(np.float64)), rtol=1e-4, atol=1e-5)
    if y.moments is not None:
        np.testing.assert_allclose(values.mean((0, 2, 3)), y.moments.mean, atol=0.1)
        np.testing.assert_allclose(values.var((0, 2, 3)), y.moments.var, rtol=0.15, atol=1e-3)
    else:
        assert name in ("gelu", "exp")


@pytest.mark.parametrize("name", ["add", "mul"])
def test_moments_of_two_independent_values(name: str) -> None:
    a, b = normal(1, 2, 80, 80), normal(1, 2, 80, 80, seed=1)
    values, y, _ = compute(lambda g, a, b: getattr(g, name)(a, b), a, b)
    np.testing.assert_allclose(values, a + b if name == "add" else a * b, rtol=1e-6)
    assert y.moments is not None
    np.testing.assert_allclose(values.var((0, 2, 3)), y.moments.var, rtol=0.1)


def test_shapes_are_broadcast() -> None:
    a, b = normal(2, 3, 4, 5), normal(3, 1, 1)
    values, _, _ = compute(lambda g, a, b: g.sub(a, b), a, b)
    np.testing.assert_allclose(values, a - b, rtol=1e-6)


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_sums_to_one(axis: int) -> None:
    x: Floats = normal(2, 5, 7) * 10
    values, _, _ = compute(lambda g, x: g.softmax(x, axis), x)
    np.testing.assert_allclose(values.sum(axis), 1, rtol=1e-5)
    assert (values.argmax(axis) == x.argmax(axis)).all()
