"""Transposed convolutions and depth to space keep their blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.targets import detect
from tests.compiler.backends.cpu.layouts.test_layouts_in_models import Chain

LANES = detect().fp32_lanes


@pytest.mark.parametrize(
    ("outputs", "kernel", "attributes"),
    [
        (2 * LANES - 1, 2, {}),
        (LANES, 3, {"pads": [0, 1, 1, 0], "output_padding": [1, 1]}),
        (3 * LANES, 4, {"pads": [1, 1, 1, 1]}),
    ],
)
def test_pixels_of_a_transposed_convolution_move_in_blocks(
    tmp_path: Path, outputs: int, kernel: int, attributes: dict[str, list[int]]
) -> None:
    net = Chain(1, LANES, 9, 14)
    net.add("Conv", net.random(2 * LANES, LANES, 1, 1))
    weight = net.random(2 * LANES, outputs, kernel, kernel)
    net.add("ConvTranspose", weight, net.random(outputs), strides=[2, 2], **attributes)
    net.add("Relu")
    net.add("Conv", net.random(LANES, outputs, 3, 3), pads=[1] * 4)
    ops = net.kernels(tmp_path)
    assert ops.count("conv2d") == 3, ops
    assert len(ops) <= 3 + 1 + 2, ops  # the pixels; and the ways into blocks and out of them
    assert not {"transpose", "reshape"} & set(ops), ops


def test_one_output_channel_is_not_computed_as_a_block(tmp_path: Path) -> None:
    net = Chain(1, LANES, 9, 14)
    net.add("Conv", net.random(2 * LANES, LANES, 1, 1))
    net.add("ConvTranspose", net.random(2 * LANES, 1, 2, 2), strides=[2, 2])
    net.add("Sigmoid")
    assert net.kernels(tmp_path).count("conv2d") == 2


def test_depth_becomes_space_in_blocks(tmp_path: Path) -> None:
    net = Chain(1, LANES, 9, 14)
    net.add("Conv", net.random(4 * LANES, LANES, 3, 3), pads=[1] * 4)
    net.add("DepthToSpace", blocksize=2, mode="DCR")
    net.add("Relu")
    net.add("Conv", net.random(LANES, LANES, 3, 3), pads=[1] * 4)
    ops = net.kernels(tmp_path)
    assert len(ops) <= 2 + 1 + 2, ops


def test_a_reshape_that_only_looks_like_it_stays(tmp_path: Path) -> None:
    """The same split and transpose, joined otherwise."""
    net = Chain(1, LANES, 4, 4)
    net.add("Conv", net.random(4 * LANES, LANES, 1, 1))
    net.add("Reshape", np.array([1, 2, 2, LANES, 4, 4]))
    net.add("Transpose", perm=[0, 3, 4, 1, 5, 2])
    net.add("Reshape", np.array([1, 4 * LANES, 4, 4]))
    net.add("Conv", net.random(LANES, 4 * LANES, 1, 1))
    assert net.kernels(tmp_path)
