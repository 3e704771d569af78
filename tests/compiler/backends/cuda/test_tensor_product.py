"""Products on tensor cores: the kernels' CUDA C++, run thread by thread on this processor; their machine code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from tvm import te, topi
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda import nvrtc
from edgec.compiler.backends.cuda.backend import CudaBackend
from edgec.compiler.backends.cuda.lowering import DeviceKernel, lower_kernel
from edgec.compiler.backends.cuda.templates.tensor_product import TensorProduct, product_of
from edgec.compiler.backends.cuda.templates.tiles import Product, Tile, cost, tiles_for
from edgec.compiler.backends.cuda.templates.windows import schedule_window
from edgec.compiler.backends.interface import Workload
from edgec.compiler.backends.object_cache import ObjectCache
from edgec.compiler.progress import Silent
from edgec.targets import load_target
from tests.compiler.backends.cuda.emulator.run import run_kernel
from tests.compiler.backends.cuda.machine_code import said, usage_of

RNG = np.random.default_rng(20)
TARGET = load_target("l4")
Pair: TypeAlias = tuple[int, int]
Array: TypeAlias = npt.NDArray[Any]
GPU = CudaBackend(TARGET).gpu


def convolution(
    types: tuple[str, str, str], channels: int, filters: int, size: int, kernel: int, stride: int = 1
) -> PrimFunc:
    """A convolution with channels innermost, a bias and an activation."""
    data, weights, sums = types
    x = te.placeholder((1, size, size, channels), data, "x")
    w = te.placeholder((filters, kernel, kernel, channels), weights, "w")
    b = te.placeholder((filters,), sums, "b")
    y = topi.nn.conv(x, w, stride, kernel // 2, 1, 1, "NHWC", "OHWI", sums)
    return te.create_prim_func([x, w, b, topi.nn.relu(topi.add(y, b))])


def product(rows: int, columns: int, depth: int, batch: int = 1, start: int = 0) -> PrimFunc:
    """A batched product; the first operand begins at row `start` of a larger one."""
    a = te.placeholder((batch, rows + start, depth), "float16", "a")
    b = te.placeholder((batch, depth, columns), "float16", "b")
    inner = te.compute((batch, rows, depth), lambda n, i, k: a[n, i + start, k])
    k = te.reduce_axis((0, depth), "k")
    y = te.compute(
        (batch, rows, columns),
        lambda n, i, j: te.sum(inner[n, i, k].astype("float32") * b[n, k, j].astype("float32"), axis=k),
    )
    return te.create_prim_func([a, b, y])


def values(shape: tuple[int, ...], dtype: str) -> Array:
    if dtype in ("int8", "uint8"):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return RNG.integers(low, high + 1, shape).astype(dtype)
    return RNG.standard_normal(shape).astype(getattr(ml_dtypes, dtype, dtype))


def tile(warps: Pair, steps: Pair, *, stages: int = 3, split: int = 1, itemsize: int = 2) -> Tile:
    return Tile(warps, steps, 2, stages, split, itemsize)


def lowered(func: PrimFunc, cut: Tile) -> DeviceKernel:
    return lower_kernel("k", TensorProduct(func).emit(cut), CudaBackend(TARGET).tvm_target)


def reference(x: Array, w: Array, b: Array, stride: int) -> Array:
    """The convolution in double precision, without the batch."""
    size, kernel = x.shape[1], w.shape[1]
    pad = kernel // 2
    padded = np.pad(x.astype("float64"), ((0, 0), (pad, pad), (pad, pad), (0, 0)))[0]
    out = (size + 2 * pad - kernel) // stride + 1
    total = np.zeros((out, out, w.shape[0]))
    for i in range(kernel):
        for j in range(kernel):
            window = padded[i : i + stride * out : stride, j : j + stride * out : stride][:out, :out]
            total += window @ w[:, i, j].astype("float64").T
    return np.maximum(total + b, 0)


CONVOLUTIONS = [
    (("float16", "float16", "float32"), 16, 24, 9, 3, 1, tile((2, 2), (1, 1))),
    (("float16", "float16", "float32"), 32, 40, 7, 1, 1, tile((1, 2), (2, 2), stages=2)),
    (("float16", "float16", "float32"), 3, 20, 9, 3, 2, tile((4, 1), (1, 2))),  # copied element by element
    (
        ("float16", "float16", "float32"),
        64,
        24,
        5,
        3,
        1,
        tile((1, 1), (2, 2), split=3),
    ),  # a second launch adds
    (("bfloat16", "bfloat16", "float32"), 32, 24, 6, 3, 1, tile((2, 1), (1, 2))),
    (("float32", "float32", "float32"), 16, 24, 6, 3, 1, tile((2, 1), (1, 2), itemsize=4)),  # rounded to tf32
    (("int8", "int8", "int32"), 32, 24, 6, 3, 1, tile((1, 2), (2, 1), itemsize=1)),
    (("uint8", "int8", "int32"), 36, 17, 5, 1, 1, tile((1, 2), (1, 1), itemsize=1)),
]


@pytest.mark.parametrize(("types", "channels", "filters", "size", "kernel", "stride", "cut"), CONVOLUTIONS)
def test_convolutions_as_the_device_computes_them(
    types: tuple[str, str, str],
    channels: int,
    filters: int,
    size: int,
    kernel: int,
    stride: int,
    cut: Tile,
    tmp_path: Path,
) -> None:
    data, weights, sums = types
    made = lowered(convolution(types, channels, filters, size, kernel, stride), cut)
    x, w = values((1, size, size, channels), data), values((filters, kernel, kernel, channels), weights)
    b = values((filters,), "int8" if sums == "int32" else sums).astype(sums)
    wanted = reference(x, w, b, stride)
    y = np.full((1, *wanted.shape), 7, sums)
    run_kernel(made, [x, w, b, y], tmp_path)
    assert len(made.launches) == 1 + (cut.split > 1)
    if sums == "int32":
        np.testing.assert_array_equal(y[0], wanted)
    else:
        accepted = 1e-3 if data == "float32" else 4e-6  # tf32 has 10 bits
        np.testing.assert_allclose(y[0], wanted, rtol=0, atol=accepted * np.abs(wanted).max())
        assert data != "float32" or np.abs(y[0] - wanted).max() > 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("rows", "columns", "depth", "batch", "start"),
    [(17, 33, 40, 2, 0), (5, 70, 64, 1, 1), (33, 16, 36, 1, 0), (16, 16, 64, 1, 3)],
)
def test_products_as_the_device_computes_them(
    rows: int, columns: int, depth: int, batch: int, start: int, tmp_path: Path
) -> None:
    """Sizes that fill no tile, and rows that begin anywhere: a copy of several elements has to be aligned."""
    func = product(rows, columns, depth, batch, start)
    made = lowered(func, tile((2, 1), (1, 2)))
    a, b = values((batch, rows + start, depth), "float16"), values((batch, depth, columns), "float16")
    y = np.full((batch, rows, columns), np.nan, "float32")
    run_kernel(made, [a, b, y], tmp_path)
    wanted = a[:, start:].astype("float64") @ b.astype("float64")
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_operands_that_lie_the_other_way_round(tmp_path: Path) -> None:
    """The terms of a sum lie apart in the first operand, and in the second one of bytes: they are copied one by one."""
    k = te.reduce_axis((0, 64), "k")
    a = te.placeholder((64, 20), "int8", "a")
    b = te.placeholder((64, 24), "int8", "b")
    y = te.compute((20, 24), lambda i, j: te.sum(a[k, i].astype("int32") * b[k, j].astype("int32"), axis=k))
    made = lowered(te.create_prim_func([a, b, y]), tile((1, 1), (2, 2), itemsize=1))
    x, w = values((64, 20), "int8"), values((64, 24), "int8")
    result = np.zeros((20, 24), "int32")
    run_kernel(made, [x, w, result], tmp_path)
    np.testing.assert_array_equal(result, x.T.astype("int32") @ w.astype("int32"))


def test_special_values_reach_the_sums(tmp_path: Path) -> None:
    made = lowered(product(16, 16, 32), tile((1, 1), (1, 1)))
    a, b = values((1, 16, 32), "float16"), values((1, 32, 16), "float16")
    a[0, 3, 5], a[0, 7, 1] = np.nan, np.inf
    y = np.zeros((1, 16, 16), "float32")
    run_kernel(made, [a, b, y], tmp_path)
    with np.errstate(invalid="ignore"):
        wanted = a.astype("float32") @ b.astype("float32")
    assert np.isnan(y[0, 3]).all()
    assert not np.isfinite(y[0, 7]).any()
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(wanted))


def test_what_is_no_product_is_left_to_others() -> None:
    x = te.placeholder((8, 8), "float16", "x")
    k = te.reduce_axis((0, 8), "k")
    row_sums = te.create_prim_func([x, te.compute((8,), lambda i: te.sum(x[i, k].astype("float32"), axis=k))])
    assert product_of(row_sums) is None
    in_fp32 = product_of(convolution(("float32", "float32", "float32"), 8, 8, 4, 1))
    assert in_fp32 is not None
    assert not in_fp32.for_tensor_cores


def test_windows_with_an_epilogue_are_one_launch(tmp_path: Path) -> None:
    x = te.placeholder((1, 9, 9, 12), "float16", "x")
    w = te.placeholder((12, 3, 3, 1), "float16", "w")
    y = topi.nn.conv(x, w, 1, 1, 1, 12, "NHWC", "OHWI", "float32")
    scheduled = schedule_window(te.create_prim_func([x, w, topi.cast(topi.nn.relu(y), "float16")]))
    assert scheduled is not None
    made = lower_kernel("k", scheduled, CudaBackend(TARGET).tvm_target)
    data, filters = values((1, 9, 9, 12), "float16"), values((12, 3, 3, 1), "float16")
    result = np.zeros((1, 9, 9, 12), "float16")
    run_kernel(made, [data, filters, result], tmp_path)
    padded = np.pad(data.astype("float64")[0], ((1, 1), (1, 1), (0, 0)))
    wanted = sum(
        padded[i : i + 9, j : j + 9] * filters[:, i, j, 0].astype("float64")
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(result[0].astype("float64"), np.maximum(wanted, 0), rtol=1e-3, atol=1e-3)


# Machine code.


MACHINE_CODE = [
    ("sm_75", ("float16", "float16", "float32"), "HMMA.1688.F32", False),
    ("sm_87", ("float16", "float16", "float32"), "HMMA.16816.F32", True),
    ("sm_89", ("bfloat16", "bfloat16", "float32"), "HMMA.16816.F32.BF16", True),
    ("sm_90", ("float16", "float16", "float32"), "HMMA.16816.F32", True),
    ("sm_80", ("float32", "float32", "float32"), "HMMA.1688.F32.TF32", True),
    ("sm_75", ("uint8", "int8", "int32"), "IMMA.8816.U8.S8", False),
    ("sm_87", ("int8", "int8", "int32"), "IMMA.16816.S8.S8", True),
    ("sm_120", ("float16", "float16", "float32"), "HMMA.16816.F32", True),
]


@pytest.mark.parametrize(("arch", "types", "instruction", "asynchronous"), MACHINE_CODE)
def test_machine_code_uses_the_hardware(
    arch: str, types: tuple[str, str, str], instruction: str, asynchronous: bool, tmp_path: Path
) -> None:
    """Tensor cores, `ldmatrix` and asynchronous copies are there; nothing spills, and a block fits."""
    itemsize = {"float32": 4, "int8": 1}.get(types[1], 2)
    cut = tile((2, 2), (2, 2), itemsize=itemsize)
    made = lowered(convolution(types, 64, 128, 28, 3), cut)
    cubin = tmp_path / "k.cubin"
    cubin.write_bytes(nvrtc.compile_source(made.source, arch).content)
    code = said("nvdisasm", "-c", cubin)
    assert instruction in code
    assert "LDSM.16.M88" in code
    assert ("LDGSTS" in code) == asynchronous
    usage = usage_of(cubin)
    assert (usage.stack, usage.local) == (0, 0)
    assert usage.registers <= 255
    assert usage.registers * cut.threads <= 65536
    assert usage.shared + made.launches[0].shared_bytes <= (65536 if arch == "sm_75" else 101376)


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_volta_has_fragments_of_its_own() -> None:
    made = lowered(convolution(("float16", "float16", "float32"), 16, 16, 8, 1), tile((1, 1), (1, 1)))
    text = nvrtc.compile_source(made.source, "sm_72", ptx=True).content
    assert b"wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32" in text


def test_a_tile_whose_registers_do_not_suffice_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compiled to see it is not compiled again for the artifact."""
    product = TensorProduct(convolution(("float32",) * 3, 64, 128, 28, 3))
    spilling, other = tile((2, 1), (2, 4), itemsize=4), tile((2, 2), (2, 2), itemsize=4)
    work = Workload("k", "k", "conv2d", 0, 0, 1, (spilling, other), product.emit)
    backend, notes = CudaBackend(load_target("a100")), Notes()
    assert backend.settle({"layer": (work, spilling)}, tmp_path, notes) == {"layer": other}
    assert notes.texts == [f"layer: {spilling} needs 16 bytes beyond its registers; dropped"]
    text = lower_kernel("layer", product.emit(other), backend.tvm_target).source
    monkeypatch.setattr(nvrtc, "compile_source", lambda *_, **__: pytest.fail("NVRTC ran again"))
    cubin = tmp_path / "k.cubin"
    cubin.write_bytes(backend._compile_once(ObjectCache(tmp_path), text, "cubin", "sm_80"))
    assert usage_of(cubin).stack == 0
    assert backend.settle({"layer": (work, spilling)}, tmp_path, notes) == {"layer": other}


# The model of costs.


def test_tiles_fit_and_follow_the_size_of_a_product() -> None:
    most = GPU.shared_bytes_per_block
    deep = tiles_for(Product(1, 49, 512, 4608), GPU, most)
    wide = tiles_for(Product(1, 4096, 4096, 1024), GPU, most)
    assert all(one.shared_bytes <= most for one in (*deep, *wide))
    assert deep[0].split > 1  # too few blocks for the multiprocessors otherwise
    assert wide[0].split == 1
    assert wide[0].rows * wide[0].columns > deep[0].rows * deep[0].columns / 2
    costs = [cost(one, Product(1, 49, 512, 4608), GPU) for one in deep]
    assert costs == sorted(costs)
