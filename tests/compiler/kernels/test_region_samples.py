"""The largest or the mean sample of a region's cells against a walk in numpy, to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.region_samples import RegionGrid
from tests.compiler.kernels.compiled import call


def walked(x: np.ndarray, region: np.ndarray, grid: RegionGrid) -> np.ndarray:
    """One region `(left, top, right, bottom)` of `x [channels, height, width]`."""
    shift = 0.5 if grid.half_pixel else 0.0
    left, top, right, bottom = region * grid.scale - shift
    size = [bottom - top, right - left]
    size = size if grid.half_pixel else [max(s, 1.0) for s in size]
    counts = [grid.samples or max(int(np.ceil(s / n)), 0) for s, n in zip(size, grid.cells, strict=True)]
    y = np.full((x.shape[0], *grid.cells), -np.inf if grid.largest else 0.0)
    for row, column, i, j in np.ndindex(*grid.cells, *counts):
        place = [
            begin + (cell + (k + 0.5) / count) * length / cells
            for begin, cell, k, count, length, cells in zip(
                (top, left), (row, column), (i, j), counts, size, grid.cells, strict=True
            )
        ]
        inside = all(-1 <= p <= n for p, n in zip(place, x.shape[1:], strict=True))
        at = [min(max(p, 0.0), n - 1.0) for p, n in zip(place, x.shape[1:], strict=True)]
        (r0, c0), (dr, dc) = (int(at[0]), int(at[1])), (at[0] % 1, at[1] % 1)
        r1, c1 = min(r0 + 1, x.shape[1] - 1), min(c0 + 1, x.shape[2] - 1)
        parts = [
            x[:, r0, c0] * (1 - dr) * (1 - dc),
            x[:, r0, c1] * (1 - dr) * dc,
            x[:, r1, c0] * dr * (1 - dc),
            x[:, r1, c1] * dr * dc,
        ]
        if grid.largest:
            y[:, row, column] = np.maximum(y[:, row, column], np.max(parts, axis=0) if inside else 0.0)
        else:
            y[:, row, column] += (np.sum(parts, axis=0) if inside else 0.0) / np.prod(counts)
    return y.astype("float32")


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("samples", [2, 0])
@pytest.mark.parametrize("half_pixel", [False, True])
def test_regions_within_and_beyond_the_image(half_pixel: bool, samples: int, largest: bool) -> None:
    x = np.random.default_rng(4).standard_normal((2, 3, 6, 7)).astype("float32")
    regions = np.array([[1.3, 0.9, 9.7, 7.1], [4.0, 2.0, 30.0, 20.0], [2.0, 3.0, 2.2, 3.1]], "float32")
    batch = np.array([1, 0, 1], "int64")
    grid = RegionGrid((2, 3), samples, 0.5, half_pixel, largest)
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    got = np.zeros((3, 2, 3, 3), "float32")
    call(grid.kernel("regions", turned.shape, 3), turned, regions, batch, got)
    wanted = np.stack([walked(x[b], r, grid) for b, r in zip(batch, regions, strict=True)])
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), wanted, rtol=0, atol=2e-6)
