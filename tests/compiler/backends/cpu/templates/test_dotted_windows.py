"""Depthwise layers by the dot product, and bytes that are stored in groups: exact on an emulated board."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm import relax

from edgec.compiler.backends.cpu.specs import Window
from edgec.compiler.backends.cpu.templates import dotted_windows
from edgec.compiler.emulation.emulator import find_emulator
from edgec.targets import load_target
from tests.compiler.backends.cpu.integer_nets import Net, compiled, run_elsewhere

SDOT, SMULL = 0x4E809400, 0x0E60C000


@given(
    kernel=st.integers(2, 9),
    stride=st.integers(1, 3),
    size=st.integers(4, 40),
    pads=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    width=st.sampled_from(dotted_windows.WIDTHS),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_pixel_of_a_window_is_read_once_and_none_beyond_the_image(
    kernel: int, stride: int, size: int, pads: tuple[int, int], width: int
) -> None:
    assume(size >= -(-kernel // 4) * 4 and pads[0] < kernel and pads[1] < kernel)
    out = (size + sum(pads) - kernel) // stride + 1
    assume(out > 0)
    window = Window((3, kernel), (1, stride), pad=(0, pads[0]), out=(4, out))
    read: dict[tuple[int, int], int] = {}
    for piece in dotted_windows.pieces_of(window, size, width):
        for number in range(piece.count):
            start = piece.start + number * piece.width
            for vector in piece.vectors:
                first = start * stride + vector.start
                assert 0 <= first <= size - 4
                for column, taps in vector.columns:
                    for pixel, tap in enumerate(taps, first):
                        if tap != dotted_windows.NONE:
                            assert pixel == (start + column) * stride - pads[0] + tap
                            read[start + column, tap] = read.get((start + column, tap), 0) + 1
    wanted = {(x, tap) for x in range(out) for tap in range(kernel) if 0 <= x * stride - pads[0] + tap < size}
    assert read == dict.fromkeys(wanted, 1)


def depthwise_layers(channels: int) -> Net:
    """Windows with and without padding and stride, 1×1 convolutions, limits within those of a byte; a product."""
    rng = np.random.default_rng(channels)
    net = Net(rng.integers(-128, 128, (1, channels, 15, 17)).astype(np.int8))
    x = net.input
    for kernel, stride, pads, limits in (
        ((3, 3), 1, (1, 1, 1, 1), (-128, 127)),
        ((5, 5), 1, (2, 2, 2, 2), (-100, 127)),
        ((3, 3), 2, (0, 0, 1, 1), (-128, 90)),
        ((2, 4), 1, (0, 1, 1, 3), (3, 40)),
        ((3, 7), 1, (1, 4, 1, 2), (-128, 127)),
    ):
        padded = net.pad(x, *pads, 5) if any(pads) else x
        sums = net.conv(padded, net.weights(channels, 1, *kernel, extreme=True), stride, channels)
        codes = net.requantise(sums, -7, "int8", 300.0, limits=limits)
        sums = net.conv(codes, net.weights(channels, channels, 1, 1), 1)
        x = net.requantise(sums, 5, "int8")
    rows, inner = channels, int(np.prod(net.values[x].shape[2:]))
    x = net.emit(relax.op.reshape(x, (rows, inner)), net.values[x].reshape(rows, inner))
    net.finish(net.requantise(net.matmul(x, net.weights(inner, 23)), -3, "int8"))
    return net


@pytest.mark.parametrize("channels", [10])
def test_depthwise_layers_are_exact_by_the_dot_product(channels: int, tmp_path: Path) -> None:
    target = load_target("rpi5")
    if find_emulator(target) is None:
        pytest.skip("emulation: no emulator runs rpi5")
    net = depthwise_layers(channels)
    assert net.module is not None
    made = compiled(net.module, target)
    words = np.frombuffer(made.code[: len(made.code) // 4 * 4], "<u4")
    assert ((words & 0xFFE0FC00) == SDOT).any()
    assert not ((words & 0xFFE0FC00) == SMULL).any()
    result = run_elsewhere(made, target, tmp_path / "run", [net.x], 1)
    np.testing.assert_array_equal(result, net.wanted)
