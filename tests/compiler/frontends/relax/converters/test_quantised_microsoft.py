"""com.microsoft's quantised operators, compiled, against their definition in exact arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of
from tests.compiler.onnx_models import build, save

Array = np.ndarray
RNG = np.random.default_rng(31)
F = np.float32


class Model:
    """Nodes with outputs of their own in one model, and the exact value and scale of each output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.exact: dict[str, tuple[Array, float]] = {}
        self.outputs: dict[str, str] = {}

    def constant(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def grid(self, scale: float, zero: int, dtype: str = "uint8") -> list[str]:
        return [self.constant(np.array(scale, F)), self.constant(np.array(zero, dtype))]

    def add(
        self, kind: str, inputs: list[str], exact: Array, scale: float, dtype: str = "uint8", **attrs: Any
    ) -> None:
        name = f"y{len(self.nodes)}_{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [name], domain="com.microsoft", **attrs))
        self.exact[name], self.outputs[name] = (exact, scale), dtype


def real(x: Array, scale: float, zero: int) -> Array:
    return (x.astype(np.int64) - zero) * np.float64(F(scale))


def assert_within_a_step(model: Model, inputs: dict[str, Array], folder: Path) -> None:
    made = model_of(model.nodes, inputs, model.outputs, model.constants)
    options = CompileOptions(tune="none", threads=1, fallback=False)
    _, artifact = build(save(made, folder), folder, options)
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run(inputs)
    for name, (codes, tolerance) in model.exact.items():
        limits = np.iinfo(got[name].dtype) if got[name].dtype.kind in "iu" else None
        exact = codes if limits is None else np.clip(codes, limits.min, limits.max)
        assert got[name].shape == exact.shape, name
        assert np.abs(got[name].astype(np.float64) - exact).max() <= tolerance, name


def test_element_wise_operators_and_pools(tmp_path: Path) -> None:
    m = Model()
    x, b = (RNG.integers(0, 256, (1, 4, 6, 6)).astype("uint8") for _ in range(2))
    rx, rb = real(x, 0.02, 130), real(b, 0.05, 7)
    one, other, out = m.grid(0.02, 130), m.grid(0.05, 7), m.grid(0.03, 100)

    def codes(value: Array) -> Array:
        return value / np.float64(F(0.03)) + 100

    step = 0.5 + 1e-3  # the nearest integer, or either of two where an edge is near
    m.add("QLinearAdd", ["x", *one, "b", *other, *out], codes(rx + rb), step)
    m.add("QLinearMul", ["x", *one, "b", *other, *out], codes(rx * rb), step)
    half = [m.constant(np.array(30, "uint8")), *m.grid(0.05, 20)]  # a number without axes
    m.add("QLinearMul", ["x", *one, *half, *out], codes(rx * 10 * np.float64(F(0.05))), step)
    m.add("QLinearSigmoid", ["x", *one, *out], codes(1 / (1 + np.exp(-rx))), step)
    m.add("QLinearLeakyRelu", ["x", *one, *out], codes(np.where(rx > 0, rx, 0.1 * rx)), step, alpha=0.1)
    m.add("QLinearGlobalAveragePool", ["x", *one, *out], codes(rx.mean((2, 3), keepdims=True)), step)
    m.add("QLinearReduceMean", ["x", *one, *out], codes(rx.mean((1, 3), keepdims=True)), step, axes=[1, 3])
    m.add("QLinearConcat", [*out, "x", *one, "b", *other], codes(np.concatenate([rx, rb], 1)), step, axis=1)
    chosen = np.arange(6) % 2 == 0
    where = [m.constant(chosen), "x", *one, "b", *other, *out]
    m.add("QLinearWhere", where, codes(np.where(chosen, rx, rb)), step)
    e = np.exp(rx)
    share = m.grid(1 / 256, 0)
    m.add("QLinearSoftmax", ["x", *one, *share], e / e.sum(1, keepdims=True) * 256, step, axis=1, opset=13)
    flat = e / e.sum((1, 2, 3), keepdims=True) * 256
    m.add("QLinearSoftmax", ["x", *one, *share], flat, step, axis=1, opset=11)
    padded = np.pad(rx, ((0, 0), (0, 0), (1, 0), (1, 0)))
    sums = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2].sum((4, 5))
    for counted in (0, 1):
        rows = np.array([3 if counted else 2, 3, 3])
        pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": counted}
        counts = rows[:, None] * rows
        m.add("QLinearAveragePool", ["x", *one, *out], codes(sums / counts), step, **pool)
    assert_within_a_step(m, {"x": x, "b": b}, tmp_path)


def test_products(tmp_path: Path) -> None:
    m = Model()
    a, w = RNG.integers(0, 256, (3, 40)).astype("uint8"), RNG.integers(-128, 128, (5, 40)).astype("int8")
    ra, sw = real(a, 0.02, 130), RNG.uniform(0.01, 0.02, 5).astype(F)
    c = RNG.integers(-5000, 5000, 5).astype("int32")
    exact = ra @ (w.astype(np.int64) * sw.astype(np.float64)[:, None]).T + c * sw.astype(
        np.float64
    ) * np.float64(F(0.02))
    scales, zeros = m.constant(sw), m.constant(np.zeros(5, "int8"))
    inputs = ["a", *m.grid(0.02, 130), m.constant(w), scales, zeros, m.constant(c)]
    m.add("QGemm", [*inputs, *m.grid(0.5, 90)], exact / 0.5 + 90, 0.5 + 1e-3, transB=1)
    m.add("QGemm", [*inputs[:7], "", ""][:7], exact, 1e-5 * np.abs(exact).max(), "float32", transB=1)
    unsigned, zw = RNG.integers(0, 256, (40, 5)).astype("uint8"), 77
    bias = RNG.standard_normal(5).astype(F)
    product = ra @ real(unsigned, 0.03, zw) + bias
    inputs = ["a", m.constant(unsigned), m.constant(np.array(0.02, F)), m.constant(np.array(0.03, F))]
    inputs += [m.constant(np.array(130, "uint8")), m.constant(np.array(zw, "uint8")), m.constant(bias)]
    m.add("MatMulIntegerToFloat", inputs, product, 1e-5 * np.abs(product).max(), "float32")
    x = RNG.standard_normal((3, 40)).astype(F)
    scale = (max(x.max(), 0) - min(x.min(), 0)) / F(255)
    zero = np.rint(-min(x.min(), 0) / scale)
    stored = np.clip(np.rint(x / scale) + zero, 0, 255)
    dynamic = (stored - zero) * np.float64(scale) @ (w.T * np.float64(F(0.01)))
    m.add(
        "DynamicQuantizeMatMul",
        ["x", m.constant(w.T.copy()), m.constant(np.array(0.01, F))],
        dynamic,
        1e-4,
        "float32",
    )
    assert_within_a_step(m, {"a": a, "x": x}, tmp_path)


def test_weights_of_4_and_8_bits_in_blocks(tmp_path: Path) -> None:
    x = RNG.standard_normal((2, 3, 40)).astype(F)
    for bits in (4, 8):
        codes = RNG.integers(0, 1 << bits, (6, 3, 16))
        zeros, scales = RNG.integers(0, 1 << bits, (6, 3)), RNG.uniform(0.01, 0.1, (6, 3)).astype(F)
        expected = (
            x @ ((codes - zeros[..., None]) * scales[..., None].astype(np.float64)).reshape(6, 48)[:, :40].T
        )
        points = np.concatenate([zeros, np.zeros((6, 1), np.int64)], 1) if bits == 4 else zeros
        packed, points = (
            a[..., ::2] | a[..., 1::2] << 4 if bits == 4 else a for a in (codes.reshape(6, 3, -1), points)
        )
        attrs = {"K": 40, "N": 6, "bits": bits, "block_size": 16}
        node = helper.make_node("MatMulNBits", ["x", "w", "s", "z"], ["y"], domain="com.microsoft", **attrs)
        constants = {
            "w": packed.astype("uint8"),
            "s": scales.reshape(-1),
            "z": points.reshape(-1).astype("uint8"),
        }
        model = model_of([node], {"x": x}, {"y": "float32"}, constants)
        assert_native(model, {"x": x}, tmp_path, {"y": expected.astype(F)}, rtol=1e-4, atol=1e-4)


def test_weights_of_4_and_8_bits_that_are_large_stay_narrow(tmp_path: Path) -> None:
    """They are stored as they came, with a bias and more axes before the product's rows, on any number of rows."""
    inner, columns, size = 256, 264, 32
    for bits, shape in ((4, (1, 256)), (8, (2, 20, 256))):
        x = RNG.standard_normal(shape).astype(F)
        codes = RNG.integers(0, 1 << bits, (columns, inner // size, size))
        scales = RNG.uniform(0.01, 0.1, (columns, inner // size)).astype(F)
        bias = RNG.standard_normal(columns).astype(F)
        real = (codes - (1 << bits - 1)) * scales[..., None].astype(np.float64)
        expected = x @ real.reshape(columns, inner).T + bias
        packed = codes[..., ::2] | codes[..., 1::2] << 4 if bits == 4 else codes
        attrs = {"K": inner, "N": columns, "bits": bits, "block_size": size}
        given = ["x", "w", "s", "", "", "b"]
        node = helper.make_node("MatMulNBits", given, ["y"], domain="com.microsoft", **attrs)
        constants = {"w": packed.astype("uint8"), "s": scales.reshape(-1), "b": bias}
        model = model_of([node], {"x": x}, {"y": "float32"}, constants)
        assert_native(model, {"x": x}, tmp_path, {"y": expected.astype(F)}, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bits", "size", "columns", "shape"),
    [(4, 32, 264, (1, 256)), (8, 128, 264, (2, 20, 256)), (4, 16, 264, (3, 256)), (4, 32, 9, (2, 1, 48))],
)
def test_activations_are_rounded_where_the_model_allows_it(
    bits: int, size: int, columns: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """`accuracy_level` 4: 127 steps to the largest of a block, few weights or many, whole blocks or not."""
    inner = shape[-1]
    blocks = -(-inner // size)
    x = RNG.standard_normal(shape).astype(F)
    x[..., 3] *= 9
    codes = RNG.integers(0, 1 << bits, (columns, blocks, size))
    scales = RNG.uniform(0.01, 0.1, (columns, blocks)).astype(F)
    points = RNG.integers(0, 1 << bits, (columns, blocks + blocks % 2))
    packed, zeros = (a[..., ::2] | a[..., 1::2] << 4 if bits == 4 else a for a in (codes, points))
    if bits == 8:
        zeros = points[:, :blocks]
    attrs = {"K": inner, "N": columns, "bits": bits, "block_size": size, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "w", "s", "z"], ["y"], domain="com.microsoft", **attrs)
    constants = {"w": packed.astype("uint8"), "s": scales.reshape(-1), "z": zeros.astype("uint8").reshape(-1)}
    model = model_of([node], {"x": x}, {"y": "float32"}, constants)
    padded = np.pad(x.reshape(-1, inner), ((0, 0), (0, blocks * size - inner))).reshape(-1, blocks, size)
    steps = np.abs(padded).max(2, keepdims=True) / F(127)
    rounded = (np.rint(padded / steps) * steps.astype(np.float64)).reshape(len(padded), -1)
    real = (codes - points[:, :blocks, None]) * scales[..., None].astype(np.float64)
    expected = (rounded @ real.reshape(columns, -1).T).reshape(*shape[:-1], columns)
    assert_native(model, {"x": x}, tmp_path, {"y": expected.astype(F)}, rtol=1e-4, atol=1e-3)


def test_products_with_unsigned_weights_and_a_zero_point_of_the_run(tmp_path: Path) -> None:
    """ConvInteger and MatMulInteger, exactly, at the borders of the image, too."""
    x, w = (
        RNG.integers(0, 256, (1, 4, 5, 5)).astype("uint8"),
        RNG.integers(0, 256, (6, 2, 3, 3)).astype("uint8"),
    )
    zx, zw = np.array(201, "uint8"), np.array(100, "uint8")
    conv = helper.make_node("ConvInteger", ["x", "w", "zx", "zw"], ["y"], group=2, pads=[1, 1, 0, 1])
    flat = helper.make_node("Reshape", ["x", "shape"], ["rows"])
    product = helper.make_node("MatMulInteger", ["rows", "v", "zx", "zw"], ["p"])
    v = RNG.integers(0, 256, (25, 3)).astype("uint8")
    constants = {"w": w, "zw": zw, "v": v, "shape": np.array([4, 25])}
    padded = np.pad(x.astype(np.int64) - 201, ((0, 0), (0, 0), (1, 0), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3)).reshape(
        1, 2, 2, 4, 5, 3, 3
    )
    filters = (w.astype(np.int64) - 100).reshape(2, 3, 2, 3, 3)
    y = np.einsum("ngchvij,gocij->ngohv", windows, filters).reshape(1, 6, 4, 5).astype("int32")
    p = ((x.reshape(4, 25).astype(np.int64) - 201) @ (v.astype(np.int64) - 100)).astype("int32")
    model = model_of([conv, flat, product], {"x": x, "zx": zx}, {"y": "int32", "p": "int32"}, constants)
    assert_native(model, {"x": x, "zx": zx}, tmp_path, {"y": y, "p": p})
