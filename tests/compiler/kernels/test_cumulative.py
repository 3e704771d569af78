"""Cumulative sums and products in every direction, to 1e-6 of their size; integers exactly."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.cumulative import cumulative
from tests.compiler.kernels.compiled import call

SHAPE = (2, 5, 3)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(("dtype", "product"), [("float32", False), ("int64", True)])
def test_along_the_middle_axis(dtype: str, product: bool, backwards: bool, exclusive: bool) -> None:
    x = (np.random.default_rng(1).integers(-3, 4, SHAPE)).astype(dtype)
    y = np.zeros_like(x)
    call(
        cumulative("k", SHAPE, dtype, product=product, backwards=backwards, exclusive=exclusive), x.copy(), y
    )
    turned = x[:, ::-1] if backwards else x
    neutral = np.full_like(x[:, :1], int(product))
    if exclusive:
        turned = np.concatenate([neutral, turned[:, :-1]], axis=1)
    wanted = (np.cumprod if product else np.cumsum)(turned, axis=1)
    np.testing.assert_allclose(y, wanted[:, ::-1] if backwards else wanted, rtol=0, atol=1e-6)
