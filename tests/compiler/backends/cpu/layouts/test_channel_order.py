"""Products by `pmaddubsw`: which weights it takes, which order of channels makes them so, and that no bit changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from edgec.compiler.backends.cpu.layouts.byte_pairs import (
    byte_pairs,
    divided,
    order_for_pairs,
    stays_in_16_bits,
)
from edgec.compiler.backends.cpu.layouts.channel_order import with_ordered_channels
from edgec.compiler.backends.cpu.layouts.wide_activations import with_wide_activations
from edgec.compiler.graph.rewrite import array_of, dtype_of, op_name, shape_of
from edgec.targets import load_target
from tests.compiler.backends.cpu.integer_nets import Net, compiled, run
from tests.compiler.backends.cpu.kernels import RUNNABLE

BY_BYTES = [name for name in RUNNABLE if byte_pairs(load_target(name)) is not None]
BYTES = st.integers(-128, 127)
ALIKE = settings(max_examples=60, deadline=None, derandomize=True)


@given(st.lists(BYTES | st.sampled_from([-128, -64, 64, 65, 127]), min_size=1, max_size=6))
@ALIKE
def test_weights_are_taken_if_no_input_saturates(weights: list[int]) -> None:
    w = np.array([*weights, 0] if len(weights) % 2 else weights).reshape(-1, 2)
    x = np.array([[a, b] for a in (0, 255) for b in (0, 255)])
    sums = w @ x.T
    exact = bool(((sums >= -(2**15)) & (sums < 2**15)).all())
    assert stays_in_16_bits(np.array(weights, np.int8)[None], 1) == exact


@given(st.integers(0, 10_000), st.sampled_from([4, 8, 9, 24, 64]), st.sampled_from([1.5, 4.0]))
@ALIKE
def test_an_order_pairs_what_fits(seed: int, channels: int, heavy: float) -> None:
    rng = np.random.default_rng(seed)
    layers = [rng.standard_t(heavy, (rows, channels, 1, 1)) for rows in (5, 16)]
    weights = [np.rint(w / np.abs(w).max() * 127).astype(np.int8) for w in layers]
    order = order_for_pairs(weights)
    assert order is not None or channels < 64
    if order is not None:
        assert set(order) == set(range(channels))
        made = [divided(w, order) for w in weights]
        assert all(stays_in_16_bits(w, 1) for w in made)
        for before, after in zip(weights, made, strict=True):
            sums = np.zeros(before.shape, int)
            np.add.at(sums, (slice(None), order), after)
            np.testing.assert_array_equal(sums, before)


def trained(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Few large weights among small ones; two neighbours that would saturate."""
    made = np.clip(np.rint(rng.standard_normal(shape) * 18), -90, 90).astype(np.int8)
    made[:, :2] = rng.choice([100, 127], (shape[0], 1, *shape[2:])).astype(np.int8)
    made[:, -4:] = rng.integers(-10, 2, made[:, -4:].shape).astype(np.int8)
    return made


def block() -> Net:
    """What MobileNets are made of: expanded, filtered by channel, reduced, added to what came in, expanded."""
    rng = np.random.default_rng(0)
    net = Net(rng.choice(np.array([0, 3, 255], np.uint8), (1, 16, 9, 8)))

    def layer(x: object, w: np.ndarray, groups: int = 1) -> object:
        return net.requantise(net.conv(x, w, groups=groups), 128, "uint8")

    first = layer(net.input, trained(rng, 24, 16, 1, 1))
    wide = net.pad(layer(first, trained(rng, 72, 24, 1, 1)), 1, 1, 1, 1, 128)
    filtered = layer(wide, net.weights(72, 1, 3, 3), 72)
    reducing = trained(rng, 24, 72, 1, 1)
    reducing[:, 5, 0, 0] = np.tile([127, -128], 12)  # beside which nothing fits
    reduced = layer(filtered, reducing)
    total = net.add(net.widen(reduced, 3, 0.5), net.widen(first, 7, 0.3))
    last = layer(net.narrow(total, 100, "uint8"), trained(rng, 13, 24, 1, 1))
    net.finish(last)
    return net


def dense_layers(net: Net) -> list[relax.Call]:
    mod = with_wide_activations(with_ordered_channels(net.module))
    calls = [b.value for b in mod["main"].body.blocks[0].bindings]
    return [call for call in calls if op_name(call) == "nn.conv2d" and call.attrs.groups == 1]


def test_channels_between_layers_are_ordered_and_stay_bytes() -> None:
    net = block()
    assert not any(
        stays_in_16_bits(array_of(b.value.args[1]), 1)
        for b in net.module["main"].body.blocks[0].bindings
        if op_name(b.value) == "nn.conv2d" and b.value.attrs.groups == 1
    )
    layers = dense_layers(net)
    assert [stays_in_16_bits(array_of(call.args[1]), 1) for call in layers] == [False, True, True, True]
    assert [dtype_of(call.args[0]) for call in layers] == ["uint8"] * 4
    assert [shape_of(call.args[0])[1] for call in layers] == [16, 24, 74, 24]  # two of 72 stand twice


def test_the_order_of_results_stays() -> None:
    net = Net(np.random.default_rng(0).integers(0, 256, (1, 8, 4, 4)).astype(np.uint8))
    rng = np.random.default_rng(1)
    middle = net.requantise(net.conv(net.input, trained(rng, 24, 8, 1, 1)), 0, "uint8")
    last = net.requantise(net.conv(middle, trained(rng, 24, 24, 1, 1)), 0, "uint8")
    net.finish(net.emit(relax.op.bitwise_xor(middle, last), net.values[middle] ^ net.values[last]))
    assert with_ordered_channels(net.module) is net.module


@pytest.mark.parametrize("name", BY_BYTES)
def test_no_bit_changes(name: str, tmp_path: Path) -> None:
    net = block()
    made = run(compiled(net.module, load_target(name), threads=2), tmp_path, [net.x])
    np.testing.assert_array_equal(made, net.wanted)


@pytest.mark.parametrize("name", ["x86-avx512-vnni", "n100", "rpi4", "rpi5"])
def test_others_have_no_use_for_it(name: str) -> None:
    assert byte_pairs(load_target(name)) is None
