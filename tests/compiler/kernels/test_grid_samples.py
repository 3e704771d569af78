"""Samples of images at the places of a grid, against a plain walk over them."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.grid_samples import GridSampler
from tests.compiler.kernels.compiled import call

Array = np.ndarray


def walked(x: Array, grid: Array) -> Array:
    """Between four pixels, nothing beyond the borders: place by place."""
    batch, channels, height, width = x.shape
    made = np.zeros((batch, channels, *grid.shape[1:3]), "float32")
    for b, row, column in np.ndindex(*grid.shape[:3]):
        across = ((grid[b, row, column, 0] + 1) * width - 1) / 2
        down = ((grid[b, row, column, 1] + 1) * height - 1) / 2
        left, top = int(np.floor(across)), int(np.floor(down))
        for line, pixel in np.ndindex(2, 2):
            share = abs(1 - line - (down - top)) * abs(1 - pixel - (across - left))
            if 0 <= top + line < height and 0 <= left + pixel < width:
                made[b, :, row, column] += share * x[b, :, top + line, left + pixel]
    return made


@pytest.mark.parametrize("shape", [(2, 3, 5, 9), (1, 4, 8, 2), (1, 1, 1, 1)])
def test_samples_of_every_line_and_beyond_the_borders(shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype("float32")
    grid = rng.uniform(-1.4, 1.4, (shape[0], 6, 7, 2)).astype("float32")
    grid[0, 0, 0] = 9
    got = np.empty((*shape[:2], 6, 7), "float32")
    kernel = GridSampler(nearest=False, padding="zeros", align=False).kernel("samples", shape, (6, 7))
    call(kernel, x, grid, got)
    np.testing.assert_allclose(got, walked(x, grid), atol=1e-5)
    call(kernel, np.full_like(x, np.nan), grid, got)
    assert not got[0, :, 0, 0].any()  # nothing of a pixel beyond, not even what is no number
