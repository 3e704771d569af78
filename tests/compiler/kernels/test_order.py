"""The first elements of rows, exactly: of equal ones the foremost, NaN above all numbers, zeros equal."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.order import SLACK, first_of_rows
from tests.compiler.kernels.compiled import call

ODD = (np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40)


def _first(x: np.ndarray, count: int, *, largest: bool) -> np.ndarray:
    """Places of the first elements of each row, by a stable sort."""
    if x.dtype.kind == "f":
        ranks = np.unique(np.where(np.isnan(x), np.inf, x), return_inverse=True)[1].reshape(x.shape)
        ranks = ranks + np.isnan(x)
    else:
        ranks = np.unique(x, return_inverse=True)[1].reshape(x.shape)
    return np.argsort(-ranks if largest else ranks, axis=-1, kind="stable")[:, :count]


def _rows(dtype: str, kind: str, length: int) -> np.ndarray:
    rng = np.random.default_rng(length)
    if dtype == "float32":
        x = rng.standard_normal((3, length)).astype(dtype)
        if kind == "rectified":
            x = np.maximum(x, 0) * np.where(rng.random(x.shape) < 0.5, -1, 1).astype(dtype)
            x = np.where(rng.random(x.shape) < 0.97, x * 0, x)
        if kind == "odd":
            x[:, rng.integers(0, length, 60)] = rng.choice(np.array(ODD, dtype), 60)
        return x.astype(dtype)
    info = np.iinfo(dtype)
    low, high = (0, 3) if kind == "rectified" else (info.min, info.max)
    return rng.integers(low, high, (3, length), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("count", [5, 30])
@pytest.mark.parametrize("dtype", ["float32", "int8", "int64"])
def test_equals_a_stable_sort(dtype: str, largest: bool, count: int) -> None:
    length = 4 * SLACK + 5
    x = np.concatenate([_rows(dtype, kind, length) for kind in ("usual", "rectified", "odd")])
    values, places = np.zeros((9, count, 1), dtype), np.zeros((9, count, 1), "int64")
    call(
        first_of_rows("first", [9, x.shape[1], 1], count, dtype, largest=largest),
        x[:, :, None],
        values,
        places,
    )
    expected = _first(x, count, largest=largest)
    np.testing.assert_array_equal(places[:, :, 0], expected)
    np.testing.assert_array_equal(values[:, :, 0], np.take_along_axis(x, expected, 1))
