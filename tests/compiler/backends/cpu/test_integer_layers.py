"""Quantised layers are exact: equal to integer arithmetic in every bit, on every instruction set that runs here."""

from __future__ import annotations

import hashlib
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

from edgec.compiler.backends.cpu.layouts import stored_winograd
from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.emulation.emulator import find_emulator
from edgec.targets import load_target
from tests.compiler.backends.cpu.integer_nets import Net, compiled, run, run_elsewhere

NAMES = (
    "x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-avx512-vnni", "aarch64", "rpi5",
)  # fmt: skip
HERE = [name for name in NAMES if runs_here(load_target(name))]
EVERY_BIT = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def filled(shape: tuple[int, ...], dtype: str, *, extreme: bool) -> np.ndarray:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(sum(shape))
    if extreme:
        return rng.choice([limits.min, limits.max], shape).astype(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


@dataclass(frozen=True)
class Layer:
    """A convolution of any kind with its tail; `behind` another layer, whose results it reads as they are stored."""

    dtype: str
    extreme: bool
    groups: int
    per_group: int
    out: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    pads: tuple[int, int, int, int]
    zero: int
    stride: int
    result: str
    spread: float
    behind: bool
    small: bool  # weights that `pmaddubsw` takes

    def build(self) -> Net:
        """The layer as a network."""
        net = Net(filled((1, self.per_group * self.groups, *self.size), self.dtype, extreme=self.extreme))
        x, channels = net.input, self.per_group * self.groups
        if self.behind:
            first = net.conv(x, net.weights(channels, channels, 1, 1, extreme=self.extreme, small=self.small))
            x = net.requantise(first, self.zero, self.dtype, self.spread)
        x = net.pad(x, *self.pads, self.zero) if any(self.pads) else x
        weights = net.weights(self.out, self.per_group, *self.kernel, extreme=self.extreme, small=self.small)
        sums = net.conv(x, weights, self.stride, self.groups)
        net.finish(net.requantise(sums, self.zero, self.result, self.spread))
        return net


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Odd shapes, extreme numbers, tails that saturate."""
    kind, dtype = (
        draw(st.sampled_from(["dense", "depthwise", "grouped"])),
        draw(st.sampled_from(["uint8", "int8"])),
    )
    groups = {"dense": 1, "depthwise": draw(st.sampled_from([3, 16, 24])), "grouped": 2}[kind]
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 2), (5, 1)]))
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    limits = np.iinfo(dtype)
    return Layer(
        dtype,
        draw(st.booleans()),
        groups,
        1 if kind == "depthwise" else draw(st.sampled_from([1, 3, 4, 17, 24])),
        groups if kind == "depthwise" else groups * draw(st.sampled_from([1, 5, 16, 33])),
        kernel,
        draw(st.sampled_from([(5, 5), (9, 4), (6, 17)])),
        (pads[0], pads[1], pads[2], pads[3]),
        int(draw(st.sampled_from([limits.min, limits.max, 0, 3]))),
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from(["uint8", "int8"])),
        draw(st.sampled_from([40.0, 1e6])),
        draw(st.booleans()),
        draw(st.booleans()),
    )


def check(layer: Layer, name: str, folder: Path) -> None:
    net = layer.build()
    assert net.module is not None
    made = run(compiled(net.module, load_target(name)), folder, [net.x])
    np.testing.assert_array_equal(made, net.wanted, err_msg=name)


@pytest.mark.parametrize("name", HERE)
@given(layer=layers())
@EVERY_BIT
def test_a_convolution_is_exact(name: str, layer: Layer, tmp_path: Path) -> None:
    check(layer, name, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1200)
@given(layer=layers())
@settings(EVERY_BIT, max_examples=40, derandomize=False)
def test_convolutions_are_exact(layer: Layer, tmp_path: Path) -> None:
    for name in HERE:
        check(layer, name, tmp_path)


def product(rows: int, inner: int, cols: int, *, extreme: bool, small: bool = False) -> Net:
    """A product of rows with a matrix."""
    net = Net(filled((rows, inner), "int8", extreme=extreme))
    net.finish(
        net.requantise(
            net.matmul(net.input, net.weights(inner, cols, extreme=extreme, small=small)), 5, "int8"
        )
    )
    return net


@pytest.mark.parametrize("name", HERE)
@given(
    rows=st.sampled_from([1, 5]),
    inner=st.sampled_from([3, 32, 41]),
    cols=st.sampled_from([1, 17, 48]),
    extreme=st.booleans(),
    small=st.booleans(),
)
@EVERY_BIT
def test_a_product_with_a_matrix_is_exact(
    name: str, rows: int, inner: int, cols: int, extreme: bool, small: bool, tmp_path: Path
) -> None:
    net = product(rows, inner, cols, extreme=extreme, small=small)
    assert net.module is not None
    made = run(compiled(net.module, load_target(name)), tmp_path, [net.x])
    np.testing.assert_array_equal(made, net.wanted)


def pixels(channels: int, out: int, size: tuple[int, int], groups: int, *, extreme: bool) -> Net:
    """A 1×1 convolution."""
    net = Net(filled((1, channels, *size), "int8", extreme=extreme))
    sums = net.conv(net.input, net.weights(out, channels // groups, 1, 1, extreme=extreme), groups=groups)
    net.finish(net.requantise(sums, -7, "int8"))
    return net


def check_squares(net: Net, folder: Path) -> None:
    """The network is exact on a processor with products of squares, and multiplies by them."""
    target = load_target("graviton3")
    if find_emulator(target) is None:
        pytest.skip("emulation: no emulator runs graviton3")
    assert net.module is not None
    made = compiled(net.module, target, threads=2)
    smmla = (np.frombuffer(made.code[: len(made.code) // 4 * 4], "<u4") & 0xFFE0FC00) == 0x4E80A400
    assert smmla.any()
    result = run_elsewhere(made, target, folder / uuid.uuid4().hex, [net.x], 2)
    np.testing.assert_array_equal(result, net.wanted)


def test_products_of_squares_are_exact(tmp_path: Path) -> None:
    """Pairs of columns or rows, and one without a partner."""
    check_squares(pixels(16, 24, (5, 7), 1, extreme=True), tmp_path)
    check_squares(product(5, 24, 17, extreme=True), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(2400)
@given(
    steps=st.integers(1, 40),
    out=st.integers(1, 70),
    size=st.sampled_from([(1, 2), (3, 3), (7, 7), (6, 17), (14, 14), (2, 40)]),
    matrix=st.booleans(),
    groups=st.sampled_from([1, 1, 2]),
    extreme=st.booleans(),
)
@settings(EVERY_BIT, max_examples=30, derandomize=False)
def test_products_of_squares_of_any_size_are_exact(
    steps: int, out: int, size: tuple[int, int], matrix: bool, groups: int, extreme: bool, tmp_path: Path
) -> None:
    if matrix:
        check_squares(product(size[0] + 1, 8 * steps, out, extreme=extreme), tmp_path)
    else:
        channels = 8 * steps * groups
        check_squares(pixels(channels, 4 * groups * -(-out // 4), size, groups, extreme=extreme), tmp_path)


def block(dtype: str, zero: int, size: tuple[int, int] = (20, 21)) -> Net:
    """A residual block: layers of all kinds, a sum of two tensors of different scales, a product with a matrix."""
    net = Net(filled((1, 3, *size), dtype, extreme=False))
    x = net.pad(net.input, 1, 1, 1, 1, zero)
    first = net.requantise(net.conv(x, net.weights(32, 3, 3, 3), 2), zero, dtype)
    x = net.pad(first, 1, 1, 1, 1, zero)
    x = net.requantise(net.conv(x, net.weights(32, 1, 3, 3), 1, 32), zero, dtype)
    x = net.requantise(net.conv(x, net.weights(40, 32, 1, 1)), zero, dtype)
    x = net.pad(x, 1, 1, 1, 1, zero)
    x = net.requantise(net.conv(x, net.weights(32, 40, 3, 3)), zero, dtype)
    net.finish(net.narrow(net.add(net.widen(first, zero, 0.5), net.widen(x, zero, 0.3)), zero, dtype))
    return net


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 113), ("int8", -7)])
def test_a_residual_block_is_exact_and_stays_in_eight_bits(
    name: str, dtype: str, zero: int, tmp_path: Path
) -> None:
    net = block(dtype, zero)
    assert net.module is not None
    made = compiled(net.module, load_target(name), threads=2)
    np.testing.assert_array_equal(run(made, tmp_path, [net.x]), net.wanted)
    kinds = sorted(kernel.kind for kernel in made.kernels.values())
    # Nothing between the layers: each is one kernel with its tail, the sum that of the last one. Around them the
    # input is packed, the output unpacked, and both change their signedness where the processor wants the other one.
    assert len(kinds) == 6
    assert kinds.count("conv2d") + kinds.count("winograd") == 3
    assert kinds.count("depthwise") == 1


KINDS = [("uint8", "uint8", 600), ("uint8", "int8", 64), ("int8", "int8", 1025)]


@pytest.mark.parametrize(
    ("name", "left", "right", "inner"), [(name, *kind) for name, kind in zip(HERE, KINDS, strict=False)]
)
def test_products_of_two_computed_tensors_are_exact_at_the_ends_of_their_types(
    name: str, left: str, right: str, inner: int, tmp_path: Path
) -> None:
    """Real numbers hold the sums of a part of the products; the parts are added in int32."""
    a, b = filled((2, 3, 7, inner), left, extreme=True), filled((2, 3, inner, 21), right, extreme=True)
    a[0, 0], b[0, 0] = np.iinfo(left).max, np.iinfo(right).min  # all sums are the largest there
    made = compiled(product_of(a, b), load_target(name), threads=2)
    assert "matmul" in {kernel.kind for kernel in made.kernels.values()}
    np.testing.assert_array_equal(run(made, tmp_path, [a, b]), a.astype(np.int32) @ b.astype(np.int32))


def product_of(a: np.ndarray, b: np.ndarray) -> tvm.IRModule:
    """A product of two inputs, in int32."""
    builder = relax.BlockBuilder()
    params = [relax.Var(n, relax.TensorType(x.shape, str(x.dtype))) for n, x in (("a", a), ("b", b))]
    with builder.function("main", params):
        with builder.dataflow():
            made = builder.emit_output(relax.op.matmul(*params, out_dtype="int32"))
        builder.emit_func_output(made)
    return builder.finalize()


@pytest.mark.parametrize(
    ("name", "dtype", "zero"),
    [
        ("x86-64-v3", "uint8", 113),
        ("aarch64", "int8", -7),
        ("x86-64-v4", "uint8", 0),
    ],
)
def test_products_saved_by_winograds_algorithm_change_no_bit(
    name: str, dtype: str, zero: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_winograd, "WORTHWHILE", 0.5)  # small layers take it as well
    net = Net(filled((1, 32, 15, 14), dtype, extreme=True))
    first = net.conv(net.pad(net.input, 1, 1, 1, 1, zero), net.weights(32, 32, 3, 3))
    x = net.requantise(first, zero, dtype)
    net.finish(net.requantise(net.conv(net.pad(x, 1, 1, 1, 1, zero), net.weights(41, 32, 3, 3)), zero, dtype))
    assert net.module is not None
    target = load_target(name)
    made = compiled(net.module, target, threads=2)
    assert [kernel.kind for kernel in made.kernels.values()].count("winograd") == 2
    if runs_here(target):
        result = run(made, tmp_path, [net.x])
    elif find_emulator(target) is None:
        pytest.skip(f"emulation: no emulator runs {name}")
    else:
        result = run_elsewhere(made, target, tmp_path / "there", [net.x], 2)
    np.testing.assert_array_equal(result, net.wanted)


SETS = {
    "x86-64-v2": "SSE4", "x86-64-v3": "AVX2", "x86-64-v4": "AVX-512", "x86-avx512-vnni": "VNNI",
    "aarch64": "NEON", "rpi5": "dot product", "graviton3": "i8mm",
}  # fmt: skip


def test_outputs_have_the_same_hash_on_other_processors(tmp_path: Path) -> None:
    check_hashes(tmp_path, ("x86-64-v2", "x86-avx512-vnni", "rpi5"), [("int8", -7, 2)])


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_outputs_have_the_same_hash_on_every_instruction_set(tmp_path: Path) -> None:
    check_hashes(
        tmp_path, tuple(SETS), [("uint8", 113, 1), ("uint8", 113, 2), ("int8", -7, 1), ("int8", -7, 2)]
    )


def check_hashes(folder: Path, names: tuple[str, ...], kinds: list[tuple[str, int, int]]) -> None:
    """The same bits of a residual block on all targets, those that this machine lacks being emulated."""
    for dtype, zero, threads in kinds:
        net = block(dtype, zero, (10, 11))
        assert net.module is not None
        for name in names:
            target = load_target(name)
            if not runs_here(target) and find_emulator(target) is None:
                warnings.warn(f"neither this machine nor an emulator runs {SETS[name]}", stacklevel=1)
                continue
            made = compiled(net.module, target, threads=threads)
            if runs_here(target):
                result = run(made, folder, [net.x])
            else:
                result = run_elsewhere(made, target, folder / f"{dtype}-{name}-{threads}", [net.x], threads)
            assert digest(result) == digest(net.wanted), f"{SETS[name]}, {threads} threads, {dtype}"


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
