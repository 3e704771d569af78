"""Operands: names that specifications keep, sizes, and packing that loses and moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.operands.operands import BFLOAT16, FLOAT32, OPERANDS, UINT8_INT8, Operands, numpy_dtype

every = pytest.mark.parametrize("operands", OPERANDS.values(), ids=OPERANDS)


@every
@settings(max_examples=20, deadline=None)
@given(blocks=st.integers(1, 3), steps=st.integers(1, 5), lanes=st.sampled_from([4, 8, 16]))
def test_packed_weights_are_found_where_kernels_look(
    operands: Operands, blocks: int, steps: int, lanes: int
) -> None:
    inner = steps * operands.depth
    rng = np.random.default_rng(inner)
    weights = rng.integers(-100, 100, (blocks, inner, lanes)).astype(np.float32)
    packed = operands.pack(weights)
    assert packed.dtype == numpy_dtype(operands.weight)
    assert packed.shape == (blocks, *operands.packed_shape(inner, lanes))
    k, lane = rng.integers(inner), rng.integers(lanes)
    place = (blocks - 1, *operands.packed_place(k, lane))
    assert packed[place] == weights[blocks - 1, k, lane]
    np.testing.assert_array_equal(operands.unpack(packed).astype(np.float32), weights)


@every
def test_a_step_of_several_elements_is_a_word_in_memory(operands: Operands) -> None:
    lanes = 4
    weights = np.arange(operands.depth * lanes).reshape(operands.depth, lanes)
    packed = operands.pack(weights).view(np.uint8).reshape(-1)
    assert packed.size == lanes * operands.depth * operands.weight_bytes
    if operands.step > 1:
        assert operands.step * operands.data_bytes == 4
        parts = packed.reshape(operands.step if operands.by_row else lanes, -1)
        second = weights[1] if operands.by_row else weights[:, 1]
        assert parts[1].tobytes() == second.astype(numpy_dtype(operands.weight)).tobytes()


def test_emulation_changes_how_products_are_made_and_nothing_else() -> None:
    emulated = BFLOAT16.emulated
    assert emulated.instruction is None
    assert emulated.name == "bfloat16-emulated"  # the name that keys of tuned kernels contain
    assert (emulated.data, emulated.step, emulated.label) == (BFLOAT16.data, BFLOAT16.step, "bf16")
    assert FLOAT32.emulated is FLOAT32


def test_a_step_that_fills_no_word_is_refused() -> None:
    with pytest.raises(ValueError, match="3 elements of int8 do not fill 32 bits"):
        Operands("thirds", "", "int8", "int8", "int32", 3)


def test_a_reduced_axis_has_to_be_whole_steps() -> None:
    assert [n for n in range(1, 9) if UINT8_INT8.divides(n)] == [4, 8]
    assert all(FLOAT32.divides(n) for n in range(1, 9))
