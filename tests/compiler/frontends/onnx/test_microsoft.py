"""Operators of com.microsoft, natively compiled, against ONNX Runtime's own kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import load_target
from tests.compiler.onnx_models import build, model_of, save

Array = np.ndarray
BATCH, ROWS, HEADS, SIZE = 2, 5, 2, 4
WIDTH = HEADS * SIZE


def draw(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("float32")


def check(
    op_type: str,
    inputs: list[Array | None],
    folder: Path,
    outputs: int = 1,
    fixed: tuple[int, ...] = (),
    atol: float = 1e-4,
    **attrs: Any,
) -> None:
    """Compile one node without fallback, and compare with ONNX Runtime."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    given = {
        n: x for i, (n, x) in enumerate(zip(names, inputs, strict=True)) if x is not None and i not in fixed
    }
    made = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, made, name="node", domain="com.microsoft", **attrs)],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in given.items()
        ],
        [helper.make_tensor_value_info(name, 1, None) for name in made],
        [numpy_helper.from_array(x, f"x{i}") for i, x in enumerate(inputs) if i in fixed and x is not None],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, given)
    options = CompileOptions(tune="none", threads=1, fallback=False)
    _, artifact = build(save(model, folder), folder, options)
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run(given)
    for name, wanted in zip(made, expected, strict=True):
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=atol, err_msg=name)


LENGTHS = np.array([5, 3], "int32")
KEYS = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], "int32")
PAIRS = (np.random.default_rng(3).random((BATCH, ROWS, ROWS)) < 0.8).astype("int32")


@pytest.mark.parametrize("mask", [None, LENGTHS, KEYS, PAIRS], ids=["all", "lengths", "keys", "pairs"])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_from_one_product(mask: Array | None, causal: int, tmp_path: Path) -> None:
    weights, bias = draw(6, 3 * WIDTH), draw(3 * WIDTH)
    inputs = [draw(BATCH, ROWS, 6), weights, bias, mask]
    check("Attention", inputs, tmp_path, fixed=(1, 2), num_heads=HEADS, unidirectional=causal)


def test_attention_with_a_past(tmp_path: Path) -> None:
    past = draw(2, BATCH, HEADS, 3, SIZE)
    inputs = [draw(BATCH, ROWS, 6), draw(6, 3 * WIDTH), draw(3 * WIDTH), None, past]
    check("Attention", inputs, tmp_path, 2, (1, 2), num_heads=HEADS, unidirectional=1)


@pytest.mark.parametrize("mask", [None, LENGTHS, KEYS], ids=["all", "lengths", "keys"])
def test_attention_of_three_inputs(mask: Array | None, tmp_path: Path) -> None:
    parts = [draw(BATCH, ROWS, WIDTH, seed=seed) for seed in range(3)]
    inputs = [*parts, draw(3 * WIDTH), mask, draw(1, HEADS, ROWS, ROWS)]
    check("MultiHeadAttention", inputs, tmp_path, num_heads=HEADS)


def test_attention_of_three_inputs_with_a_past(tmp_path: Path) -> None:
    parts = [draw(BATCH, ROWS, WIDTH, seed=seed) for seed in range(3)]
    past = [draw(BATCH, HEADS, 4, SIZE, seed=seed) for seed in range(2)]
    inputs = [*parts, None, None, None, *past]
    check("MultiHeadAttention", inputs, tmp_path, 3, num_heads=HEADS, scale=0.3)


@pytest.mark.parametrize("zero", ["none", "packed", "real"])
@pytest.mark.parametrize(("bits", "columns"), [(4, 40), (8, 32)])
def test_products_with_narrow_weights(bits: int, columns: int, zero: str, tmp_path: Path) -> None:
    rng, rows, block = np.random.default_rng(5), 6, 16
    blocks = -(-columns // block)
    packed = rng.integers(0, 256, (rows, blocks, block * bits // 8)).astype("uint8")
    scales = rng.uniform(0.01, 0.1, rows * blocks).astype("float32")
    zeros = {
        "none": None,
        "packed": rng.integers(0, 256, rows * -(-blocks * bits // 8)).astype("uint8"),
        "real": rng.uniform(3, 9, rows * blocks).astype("float32"),
    }[zero]
    if zero == "real" and bits == 8:
        pytest.skip("hardware: ONNX Runtime takes real zero points of 8 bits on some processors only")
    sizes = {"N": rows, "K": columns, "bits": bits, "block_size": block}
    check("MatMulNBits", [draw(3, columns), packed, scales, zeros], tmp_path, fixed=(1, 2, 3), **sizes)


def test_products_of_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    b, scale = rng.integers(-60, 60, (8, 5)).astype("int8"), rng.uniform(0.01, 0.02, 5).astype("float32")
    zero, bias = rng.integers(-3, 3, 5).astype("int8"), draw(5)
    check("DynamicQuantizeMatMul", [draw(3, 8), b, scale, zero, bias], tmp_path, fixed=(1, 2, 3, 4))
    a = rng.integers(0, 120, (3, 8)).astype("uint8")
    inputs = [a, b, np.float32(0.1), scale, np.uint8(7), zero, bias]
    check("MatMulIntegerToFloat", [np.asarray(x) for x in inputs], tmp_path, fixed=(1, 2, 3, 4, 5, 6))


def test_norms_of_sums(tmp_path: Path) -> None:
    inputs = [draw(2, 3, 8), draw(2, 3, 8, seed=2), draw(8), draw(8, seed=2)]
    check("SkipSimplifiedLayerNormalization", inputs, tmp_path, epsilon=1e-6)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("offset", [False, True])
def test_rotary_positions(interleaved: int, offset: bool, tmp_path: Path) -> None:
    places = np.array([2], "int64") if offset else np.tile(np.arange(ROWS), (BATCH, 1)).astype("int64")
    caches = [draw(16, SIZE // 2), draw(16, SIZE // 2, seed=2)]
    check("RotaryEmbedding", [draw(BATCH, ROWS, WIDTH), places, *caches], tmp_path, interleaved=interleaved)
    turned = draw(BATCH, HEADS, ROWS, SIZE)
    check("RotaryEmbedding", [turned, places, *caches], tmp_path, interleaved=interleaved)


@pytest.mark.parametrize(("rows", "past", "lengths"), [(5, 0, [4, 4]), (1, 6, [6, 4]), (2, 6, [7])])
@pytest.mark.parametrize("rotary", [0, 1])
def test_attention_of_groups_with_a_cache(
    rows: int, past: int, lengths: list[int], rotary: int, tmp_path: Path
) -> None:
    """Two heads of queries share one of keys; each sequence has a length of its own."""
    size, keys, batch = 16, past + rows, len(lengths)
    parts = [draw(batch, rows, n * size, seed=n) for n in (4, 2, 2)]
    cache = [draw(batch, 2, past, size, seed=seed) if past else None for seed in (5, 6)]
    angles = [draw(keys + 2, size // 2, seed=seed) if rotary else None for seed in (7, 8)]
    ends: list[Array | None] = [np.array(lengths, "int32"), np.array(keys, "int32")]
    attrs = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": rotary, "local_window_size": 4 if rotary else -1}
    check("GroupQueryAttention", [*parts, *cache, *ends, *angles], tmp_path, 3, **attrs)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (1, 1)])
def test_inverses(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Of a matrix whose first pivot is zero, too."""
    x = draw(*shape)
    if shape[-1] > 1:
        x[..., 0, 0] = 0
    check("Inverse", [x], tmp_path, atol=1e-3)


def test_an_inverse_is_verified_on_matrices_that_have_one(tmp_path: Path) -> None:
    node = helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")
    path = save(model_of([node], {"x": [2, 3, 3]}, ["y"], {}), tmp_path)
    done = compile_model(path, load_target("host"), CompileOptions(threads=1), output=tmp_path / "m.edge")
    assert done.evidence["verified"], "a matrix of zeros has no inverse: runtimes differ on it"
