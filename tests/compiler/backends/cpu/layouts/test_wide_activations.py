"""Activations that are kept in 16 bits: which ones, and that results stay the same in every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tvm import relax

from edgec.compiler.backends.cpu.layouts.wide_activations import wide_operands, with_wide_activations
from edgec.compiler.graph.rewrite import dtype_of, op_name
from edgec.targets import load_target
from tests.compiler.backends.cpu.integer_nets import Net, compiled, run
from tests.compiler.backends.cpu.kernels import RUNNABLE

NARROW_FACTORS = [name for name in RUNNABLE if wide_operands(load_target(name)) is not None]


def layer(net: Net, x: object, channels: int, kernel: int = 1) -> object:
    weights = net.weights(channels, net.values[x].shape[1], kernel, kernel)
    return net.requantise(net.conv(x, weights), 0, "uint8")


def start() -> Net:
    x = np.random.default_rng(1).integers(0, 256, (1, 16, 9, 8)).astype(np.uint8)
    return Net(x)


def types_read_by_convolutions(net: Net) -> list[str]:
    assert net.module is not None
    block = with_wide_activations(net.module)["main"].body.blocks[0]
    return [dtype_of(b.value.args[0]) for b in block.bindings if op_name(b.value) == "nn.conv2d"]


def test_what_a_convolution_reads_of_another_one_is_wide() -> None:
    net = start()
    net.finish(layer(net, layer(net, net.input, 24), 8))
    assert types_read_by_convolutions(net) == ["uint8", "int16"]


def test_what_is_a_result_as_well_is_not() -> None:
    net = start()
    middle = layer(net, net.input, 24)
    last = layer(net, middle, 24)
    net.finish(net.emit(relax.op.bitwise_xor(middle, last), net.values[middle] ^ net.values[last]))
    assert types_read_by_convolutions(net) == ["uint8", "uint8"]


def branches() -> Net:
    """Two layers side by side, joined, pooled and read by a third one; a sum with what came before."""
    net = start()
    first = layer(net, net.input, 24)
    left, right = layer(net, first, 13), layer(net, first, 11)
    both = np.concatenate([net.values[left], net.values[right]], axis=1)
    joined = net.emit(relax.op.concat([left, right], axis=1), both)
    windows = np.lib.stride_tricks.sliding_window_view(both, (2, 2), axis=(2, 3))
    pooled = net.emit(relax.op.nn.max_pool2d(joined, (2, 2)), windows.max(axis=(4, 5)))
    padded = net.pad(pooled, 1, 1, 1, 1, 0)
    last = layer(net, padded, 24, kernel=3)
    total = net.add(net.widen(last, 3, 0.5), net.widen(pooled, 7, 0.3))
    net.finish(net.narrow(total, 5, "uint8"))
    return net


def test_what_moves_wide_tensors_moves_them_as_they_are() -> None:
    assert types_read_by_convolutions(branches()) == ["uint8", "int16", "int16", "int16"]


@pytest.mark.parametrize("name", NARROW_FACTORS)
def test_they_change_no_bit(name: str, tmp_path: Path) -> None:
    net = branches()
    assert net.module is not None
    made = run(compiled(net.module, load_target(name), threads=2), tmp_path, [net.x])
    np.testing.assert_array_equal(made, net.wanted)


@pytest.mark.parametrize("name", ["x86-avx512-vnni", "n100", "rpi4", "rpi5"])
def test_processors_with_a_dot_instruction_and_arm_keep_bytes(name: str) -> None:
    assert wide_operands(load_target(name)) is None


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "zen3", "x86-64-v4"])
def test_others_multiply_pairs(name: str) -> None:
    operands = wide_operands(load_target(name))
    assert operands is not None
    assert (operands.data, operands.weight, operands.step) == ("int16", "int8", 2)
