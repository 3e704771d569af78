"""Weights are found at the place where kernels look for them, and what fills up a block is zero."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.backends.cpu.layouts.packing import (
    block_channels,
    merge_groups,
    pack_conv,
    pack_dense,
    pack_depthwise,
)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("outputs", "inputs", "chunk"), [(16, 8, 8), (11, 16, 8), (3, 5, 5)])
def test_convolution(outputs: int, inputs: int, chunk: int) -> None:
    w = weights(outputs, inputs, 3, 2)
    packed = pack_conv(w, 8, chunk)
    assert packed.shape == (-(-outputs // 8), inputs // chunk, 3, 2, chunk, 8)
    for o, i, y, x in [(0, 0, 0, 0), (outputs - 1, inputs - 1, 2, 1), (outputs // 2, inputs // 2, 1, 0)]:
        assert packed[o // 8, i // chunk, y, x, i % chunk, o % 8] == w[o, i, y, x]
    assert np.count_nonzero(packed) == np.count_nonzero(w)


def test_depthwise() -> None:
    w = weights(11, 1, 3, 3)
    packed = pack_depthwise(w, 8)
    assert packed[1, 2, 0, 2] == w[10, 0, 2, 0]
    assert not packed[1, :, :, 3:].any()


def test_dense() -> None:
    w = weights(6, 11)
    packed = pack_dense(w, 8)
    assert packed.shape == (2, 6, 8)
    assert packed[1, 4, 2] == w[4, 10]
    assert not packed[1, :, 3:].any()


def test_channels_of_an_activation() -> None:
    x = weights(2, 11, 3, 4)
    blocked = block_channels(x, 8)
    assert blocked[1, 1, 2, 3, 2] == x[1, 10, 2, 3]
    assert not blocked[:, 1, :, :, 3:].any()


def test_groups_join_until_they_fill_blocks() -> None:
    groups, each = 8, 4
    w = weights(groups * each, each, 1, 1)
    merged, left = merge_groups(w, groups, groups * each, 16)
    assert left == 2
    assert merged.shape == (32, 16, 1, 1)
    x = weights(groups * each)
    wanted = np.concatenate(
        [w[g * each : (g + 1) * each, :, 0, 0] @ x[g * each : (g + 1) * each] for g in range(groups)]
    )
    made = np.concatenate(
        [merged[g * 16 : (g + 1) * 16, :, 0, 0] @ x[g * 16 : (g + 1) * 16] for g in range(left)]
    )
    np.testing.assert_allclose(made, wanted, rtol=1e-5)
