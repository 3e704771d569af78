"""Attention in one kernel: its CUDA C++ run thread by thread on this processor, and its machine code."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from edgec.compiler.backends.cuda import nvrtc
from edgec.compiler.backends.cuda.backend import CudaBackend
from edgec.compiler.backends.cuda.lowering import DeviceKernel, lower_kernel
from edgec.compiler.backends.cuda.templates.attention import emit_attention
from edgec.compiler.backends.cuda.templates.attention_tiles import (
    AttentionTile,
    attention_tiles,
    registers,
    shared_bytes,
)
from edgec.compiler.graph.attention_spec import FIXED, AttentionSpec, AttentionTypes, Band, View
from edgec.targets import load_target
from tests.compiler.backends.cuda.emulator.run import run_kernel
from tests.compiler.backends.cuda.machine_code import said, usage_of

RNG = np.random.default_rng(31)
TARGET = load_target("l4")
GPU = CudaBackend(TARGET).gpu
BATCH, HEADS = 2, 2


def spec_of(rows: int, keys: int, inner: int, cols: int, *, mask: bool = False) -> AttentionSpec:
    """Operands `[batch, tokens, heads, elements]`, as exporters leave them; a mask that all heads share."""

    def view(tokens: int, width: int) -> View:
        return View((BATCH, tokens, HEADS, width), (0, 2, 1, 3), (0,) * 4)

    masked = View((BATCH, 1, keys, rows), (0, FIXED, 3, 2), (0,) * 4) if mask else None
    views = (view(rows, inner), view(keys, inner), view(keys, cols), masked)
    return AttentionSpec((BATCH, HEADS), rows, keys, inner, cols, inner**-0.5, *views, (0, 2, 1, 3), 1)


def lowered(spec: AttentionSpec, types: AttentionTypes, tile: AttentionTile) -> DeviceKernel:
    func = emit_attention(spec, types, tile, tensorised=types.operands != "float32")
    return lower_kernel("k", func, CudaBackend(TARGET).tvm_target)


def expected(spec: AttentionSpec, arrays: list[npt.NDArray[np.float64]], mask: object = None) -> object:
    """In double precision."""
    query, key, value = arrays
    scores = np.einsum("brhi,bkhi->bhrk", query, key) * spec.scale
    if mask is not None:
        here = np.asarray(mask).swapaxes(2, 3)
        scores = np.where(here, scores, -np.inf) if here.dtype == bool else scores + here
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhrk,bkhc->brhc", powers / powers.sum(axis=-1, keepdims=True), value)


CASES = [
    ("float16", 37, 50, 64, 64, "", AttentionTile(2, 32)),
    ("float16", 17, 33, 36, 20, "bool", AttentionTile(1, 16)),  # copied element by element
    ("bfloat16", 33, 40, 40, 48, "float32", AttentionTile(1, 16)),
    # One query, as a decoder has it.
    pytest.param("float16", 1, 70, 128, 128, "float32", AttentionTile(1, 32), marks=pytest.mark.long),
    ("float32", 37, 50, 64, 32, "float32", AttentionTile(2, 32)),
    ("float32", 16, 5, 7, 9, "bool", AttentionTile(1, 16)),
]


@pytest.mark.parametrize(("dtype", "rows", "keys", "inner", "cols", "mask", "tile"), CASES)
def test_as_the_device_computes_it(
    dtype: str, rows: int, keys: int, inner: int, cols: int, mask: str, tile: AttentionTile, tmp_path: Path
) -> None:
    """Sizes that fill no tile, masks that are added and such that choose, operands with heads side by side."""
    spec = spec_of(rows, keys, inner, cols, mask=bool(mask))
    kind, draw = getattr(ml_dtypes, dtype, dtype), np.random.default_rng(31)
    sizes = ((rows, inner), (keys, inner), (keys, cols))
    arrays = [draw.standard_normal((BATCH, n, HEADS, width)).astype(kind) for n, width in sizes]
    masks: list[npt.NDArray[np.generic]] = []
    if mask == "bool":
        seen = draw.random((BATCH, 1, keys, rows)) < 0.7
        seen[:, :, 0] = True  # a query that sees no key has a test of its own
        masks = [seen]
    elif mask:
        later = np.tril(np.full((keys, rows), -np.inf, "float32"), -1)  # a query sees no key behind it
        masks = [later + draw.standard_normal((BATCH, 1, keys, rows)).astype("float32")]
    result = np.full((BATCH, rows, HEADS, cols), 7, kind)
    types = AttentionTypes(dtype, dtype, mask or "float32")
    run_kernel(lowered(spec, types, tile), [*arrays, *masks, result], tmp_path)
    wanted = expected(spec, [one.astype("float64") for one in arrays], masks[0] if masks else None)
    error = np.abs(result.astype("float64") - wanted).max() / np.abs(wanted).max()  # type: ignore[operator, arg-type]
    assert error < {"float16": 2e-3, "bfloat16": 1.5e-2, "float32": 2e-6}[dtype]


@pytest.mark.parametrize(
    ("dtype", "band"),
    [
        ("float16", Band(-99, 30)),
        ("float32", Band(-20, 3)),
        pytest.param("bfloat16", Band(-18, -3), marks=pytest.mark.long),
    ],
)
def test_keys_that_no_query_of_a_block_sees_are_not_visited(dtype: str, band: Band, tmp_path: Path) -> None:
    """Order with a past, local attention, queries without any key: as with all keys visited, bit by bit."""
    rows, keys, kind = 40, 70, getattr(ml_dtypes, dtype, dtype)
    spec, draw = spec_of(rows, keys, 32, 32, mask=True), np.random.default_rng(7)
    away = np.arange(keys)[:, None] - np.arange(rows)
    mask = np.where((away < band.first) | (away > band.last), -np.inf, 0).astype("float32")
    mask = np.tile(mask, (BATCH, 1, 1, 1))
    arrays = [draw.standard_normal((BATCH, n, HEADS, 32)).astype(kind) for n in (rows, keys, keys)]
    tile, found = AttentionTile(1, 16), []
    for given in (None, band):
        result = np.zeros((BATCH, rows, HEADS, 32), kind)
        types = AttentionTypes(dtype, dtype, zeros=band.last < 0, band=given)
        run_kernel(lowered(spec, types, tile), [*arrays, mask, result], tmp_path)
        found.append(result.astype("float32"))
    np.testing.assert_array_equal(*found)
    visited = set().union(*(band.rounds(begin, 16, keys, 16) for begin in (0, 16)))
    assert len(visited) < 5
    for number in (
        set(range(5)) - visited
    ):  # what the first two blocks do not visit cannot reach their results
        arrays[2][:, number * 16 : number * 16 + 16] = np.nan
    result = np.zeros((BATCH, rows, HEADS, 32), kind)
    types = AttentionTypes(dtype, dtype, zeros=band.last < 0, band=band)
    run_kernel(lowered(spec, types, tile), [*arrays, mask, result], tmp_path)
    np.testing.assert_array_equal(result[:, :32].astype("float32"), found[0][:, :32])


@pytest.mark.parametrize("zeros", [False, True])
def test_special_values(zeros: bool, tmp_path: Path) -> None:
    """A query that sees no key gives NaN, as in ONNX Runtime, or zeros where a model asks; NaN stays in its row."""
    spec = spec_of(16, 20, 32, 32, mask=True)
    query, key, value = (RNG.standard_normal((BATCH, n, HEADS, 32)).astype("float16") for n in (16, 20, 20))
    mask = np.zeros((BATCH, 1, 20, 16), "float32")
    mask[0, 0, :, 3], mask[0, 0, ::2, 5] = -np.inf, -np.inf
    mask[1, 0, :17, 9] = -np.inf  # no key of the first round
    query[1, 7, 0, 2] = np.nan
    result = np.zeros((BATCH, 16, HEADS, 32), "float16")
    types = AttentionTypes("float16", "float16", zeros=zeros)
    run_kernel(lowered(spec, types, AttentionTile(1, 16)), [query, key, value, mask, result], tmp_path)
    with np.errstate(invalid="ignore"):
        wanted = np.asarray(expected(spec, [one.astype("float64") for one in (query, key, value)], mask))
    if zeros:
        wanted[0, 3] = 0
    assert np.isnan(result[0, 3]).all() == (not zeros)
    assert np.isnan(result[1, 7, 0]).all()
    np.testing.assert_array_equal(np.isnan(result), np.isnan(wanted))
    np.testing.assert_allclose(np.nan_to_num(result.astype("float64")), np.nan_to_num(wanted), atol=4e-3)


@pytest.mark.parametrize(
    ("arch", "dtype", "width", "instruction"),
    [
        ("sm_75", "float16", 64, "HMMA.1688.F32"),
        pytest.param("sm_80", "bfloat16", 128, "HMMA.16816.F32.BF16", marks=pytest.mark.long),
        pytest.param("sm_87", "float16", 32, "HMMA.16816.F32", marks=pytest.mark.long),
        ("sm_90", "float16", 128, "HMMA.16816.F32"),
        pytest.param("sm_120", "float16", 64, "HMMA.16816.F32", marks=pytest.mark.long),
        ("sm_89", "float32", 64, "FFMA"),
    ],
)
def test_machine_code_uses_the_hardware(
    arch: str, dtype: str, width: int, instruction: str, tmp_path: Path
) -> None:
    """Both products on tensor cores, keys and values by asynchronous copies, no spills, for the model's own choice."""
    spec, tensorised = spec_of(197, 197, width, width), dtype != "float32"
    tile = attention_tiles(spec, dtype, GPU, tensorised=tensorised)[0]
    cubin = tmp_path / "k.cubin"
    made = lowered(spec, AttentionTypes(dtype, dtype), tile)
    cubin.write_bytes(nvrtc.compile_source(made.source, arch).content)
    code = said("nvdisasm", "-c", cubin)
    assert instruction in code
    assert ("LDSM.16.MT88" in code) == tensorised  # values are transposed as they are loaded
    assert ("LDGSTS.E.BYPASS.128" in code) == (tensorised and arch != "sm_75")
    usage = usage_of(cubin)
    assert (usage.stack, usage.local) == (0, 0)
    assert usage.registers * tile.threads <= 65536
    assert usage.shared <= 49152
    assert usage.shared == pytest.approx(shared_bytes(spec, dtype, tile, tensorised=tensorised), rel=0.05)


def test_volta_computes_it_without_its_tensor_cores() -> None:
    made = lowered(spec_of(20, 20, 32, 32), AttentionTypes("float16", "float16"), AttentionTile(1, 16))
    assert nvrtc.compile_source(made.source, "sm_72").content[:4] == b"\x7fELF"


def test_tiles_fit_every_head() -> None:
    """Heads of usual sizes have a tile; what has none stays products and a softmax."""
    for dtype, tensorised in (("float16", True), ("float32", False)):
        for width in (16, 32, 64, 80, 96, 128):
            tiles = attention_tiles(spec_of(128, 128, width, width), dtype, GPU, tensorised=tensorised)
            assert tiles
            assert all(
                shared_bytes(spec_of(128, 128, width, width), dtype, one, tensorised=tensorised) <= 49152
                and registers(spec_of(128, 128, width, width), one, tensorised=tensorised) <= 255
                for one in tiles
            )
    assert not attention_tiles(spec_of(128, 128, 512, 64), "float16", GPU, tensorised=True)
