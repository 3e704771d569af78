"""Products of every kind of operands against exact integers: by the instruction where this machine has it, and without.

The numbers are integers that every type holds, and sums stay below 2**24: no result may differ by a bit.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm

from edgec.compiler.backends.cpu import compute, specs
from edgec.compiler.backends.cpu.dot_instructions import INSTRUCTIONS, operands_for
from edgec.compiler.backends.cpu.layouts.packing import block_channels, pack_conv, pack_dense
from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.backends.cpu.specs import ConvSpec, DenseSpec, Window
from edgec.compiler.backends.cpu.templates import conv2d, conv2d_candidates, dense
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.tir_pipeline import PIPELINE
from edgec.compiler.operands.operands import (
    BFLOAT16,
    INT8,
    OPERANDS,
    UINT8_INT8,
    UINT8_INT8_PAIRS,
    Operands,
    numpy_dtype,
)
from edgec.targets import Target, detect, list_targets, load_target
from tests.compiler.backends.cpu.kernels import run

NATIVE = [operands for operands in OPERANDS.values() if operands.instruction]
ORDINARY = [operands for operands in OPERANDS.values() if not operands.instruction]


def integers(shape: tuple[int, ...], dtype: str, most: int = 128) -> np.ndarray:
    """All values of a type of 8 bits, extremes first; few of the others, which then sum without rounding.

    `most` bounds weights: no pair of 64 leaves 16 bits.
    """
    low, high = {"int8": (-most, min(most, 127)), "uint8": (0, 255)}.get(dtype, (-15, 15))
    made = np.random.default_rng(0).integers(low, high, shape, endpoint=True)
    made.flat[:2] = low, high
    return made


def largest(operands: Operands) -> int:
    """The largest weight that the instruction takes beside any other."""
    return 64 if "pmaddubsw" in (operands.instruction or "") else 128


def dense_spec(operands: Operands, lanes: int) -> DenseSpec:
    return DenseSpec(5, 24, lanes + 3, lanes, operands.accumulator, operands)


def conv_spec(operands: Operands, lanes: int) -> ConvSpec:
    window = Window((3, 3), pad=(1, 1), out=(6, 7))
    return ConvSpec(
        1, 2 * lanes, (6, 7), lanes + 1, window, lanes, lanes, 1, False, operands.accumulator, operands
    )


def check_dense(operands: Operands, target: Target) -> None:
    spec = dense_spec(operands, target.fp32_lanes)
    x, w = (
        integers((spec.rows, spec.inner), operands.data),
        integers((spec.inner, spec.cols), operands.weight, largest(operands)),
    )
    epilogue = split_epilogue(compute.dense(spec))
    assert epilogue is not None
    packed = operands.pack(pack_dense(w, spec.lanes))
    for schedule in dense.candidates(spec, target, 1)[:4:2]:
        kernel = dense.emit(spec, epilogue, schedule, 1)
        made = run(kernel, target, x.astype(numpy_dtype(operands.data)), packed)
        np.testing.assert_array_equal(made, x @ w)


def check_conv2d(operands: Operands, target: Target) -> None:
    spec = conv_spec(operands, target.fp32_lanes)
    x = integers((1, spec.in_channels, *spec.in_size), operands.data)
    w = integers((spec.out_channels, spec.in_channels, 3, 3), operands.weight, largest(operands))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    wanted = np.einsum("nchwij,ocij->nohw", windows, w)
    epilogue = split_epilogue(compute.conv2d(spec))
    assert epilogue is not None
    blocked = block_channels(x, spec.lanes).astype(numpy_dtype(operands.data))
    packed = operands.pack(pack_conv(w, spec.lanes, spec.chunk))
    for schedule in conv2d_candidates.candidates(spec, target, 1, flattens=True)[:1]:
        made = run(conv2d.emit(spec, epilogue, schedule, 1), target, blocked, packed)
        unblocked = made.transpose(0, 1, 4, 2, 3).reshape(1, -1, *spec.window.out)
        np.testing.assert_array_equal(unblocked[:, : spec.out_channels], wanted)


@pytest.mark.parametrize("operands", ORDINARY, ids=lambda operands: operands.name)
def test_ordinary_arithmetic_computes_the_product_on_any_machine(operands: Operands) -> None:
    check_dense(operands, detect())
    check_conv2d(operands, detect())


@pytest.mark.parametrize("operands", NATIVE, ids=lambda operands: operands.name)
def test_the_instruction_computes_the_product(operands: Operands) -> None:
    able = [t for t in list_targets() if operands_for(operands, t) == operands and runs_here(t)]
    if not able:
        pytest.skip(f"hardware: this machine has no {operands.instruction}")
    check_dense(operands, able[0])
    check_conv2d(operands, able[0])


@pytest.mark.parametrize(
    ("operands", "name", "wanted"),
    [
        (BFLOAT16, "x86-avx512-bf16", "vdpbf16ps"),
        (UINT8_INT8, "x86-avx512-vnni", r"vpdpbusd\b.*zmm"),
        (UINT8_INT8, "n100", r"vpdpbusd\b.*ymm"),
        (UINT8_INT8_PAIRS, "x86-64-v4", r"vpmaddubsw\b.*zmm"),
        (UINT8_INT8_PAIRS, "x86-64-v3", r"vpmaddubsw\b.*ymm"),
        (UINT8_INT8_PAIRS, "x86-64-v2", r"pmaddubsw\b.*xmm"),
        (UINT8_INT8, "x86-64-v4", r"vpmaddwd\b.*zmm"),
        (UINT8_INT8, "x86-64-v3", r"vpmaddwd\b.*ymm"),
        (UINT8_INT8, "x86-64-v2", r"pmaddwd\b.*xmm"),
        (INT8, "rpi5", "sdot"),
        (INT8, "cortex-a55", "sdot"),
        (INT8, "rpi4", "smlal"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_target_gets_its_instruction(operands: Operands, name: str, wanted: str) -> None:
    target = load_target(name)
    operands = operands_for(operands, target)
    spec = dense_spec(operands, target.fp32_lanes)
    epilogue = split_epilogue(compute.dense(spec))
    assert epilogue is not None
    kernel = dense.emit(spec, epilogue, dense.candidates(spec, target, 1)[0], 1)
    module = tvm.IRModule({"kernel": kernel.with_attr("global_symbol", "kernel")})
    built = tvm.tirx.build(module, target=tvm.target.Target(dict(target.tvm)), pipeline=PIPELINE)
    assert re.search(rf"\b{wanted}", built.inspect_source("s"))


@pytest.mark.parametrize(
    ("operands", "name"),
    [(BFLOAT16, "x86-avx512-vnni"), (BFLOAT16, "rpi5")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_target_without_the_instruction_emulates_it(operands: Operands, name: str) -> None:
    assert operands_for(operands, load_target(name)) == operands.emulated


def test_targets_know_the_rate_of_every_instruction_that_they_have() -> None:
    for target in list_targets():
        known = [i for i in INSTRUCTIONS.values() if not i.share]
        having = {i.rate or i.name for i in known if i.feature in target.features}
        assert set(target.core.dots) == having, target.name


def test_the_name_of_operands_survives_an_annotation() -> None:
    for operands in OPERANDS.values():
        for spec in (dense_spec(operands, 8), conv_spec(operands, 8)):
            assert specs.decode(specs.encode(spec)) == spec
