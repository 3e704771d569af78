"""Layouts of tvm-ffi: what the structures read is what tvm-ffi wrote."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from edgec.runtime.execution.compiled_functions import empty_aligned
from edgec.runtime.execution.ffi_layout import (
    DATA,
    DESCRIBED,
    OFFSET,
    TENSOR,
    Array,
    DLTensor,
    Header,
    Value,
    byte_size,
    memory_of,
    words_at,
)
from edgec.runtime.execution.shared_libraries import interface


def aligned(array: Array) -> Array:
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def test_sizes_are_those_of_the_headers() -> None:
    """`TVMFFIAny` and `TVMFFIObject` of c_api.h, `DLTensor` of dlpack.h on a 64-bit machine."""
    assert [ctypes.sizeof(one) for one in (Value, Header, DLTensor)] == [16, 24, 48]


@pytest.mark.parametrize("dtype", ["float32", "int8", "float64", "bool"])
def test_a_tensor_describes_its_array(dtype: str) -> None:
    array = aligned((np.arange(6).reshape(2, 3) % 2).astype(dtype))
    tensor = interface().tensor(array)
    described = DLTensor.from_address(tensor.handle + DESCRIBED)
    assert Header.from_address(tensor.handle).kind == TENSOR
    assert [described.shape[number] for number in range(described.ndim)] == [2, 3]
    assert (byte_size(described), described.bits) == (array.nbytes, 8 * array.itemsize)
    words = words_at(tensor.handle + DESCRIBED)
    assert words[DATA] + words[OFFSET] == array.ctypes.data == tensor.data_ptr()


def test_memory_of_a_tensor_is_the_arrays() -> None:
    array = aligned(np.arange(4, dtype=np.uint16))
    tensor = interface().tensor(array)
    memory = memory_of(tensor.handle)
    assert memory.tolist() == [0, 0, 1, 0, 2, 0, 3, 0]
    memory[0] = 7
    assert array[0] == 7


def test_bfloat16_is_labelled_as_such() -> None:
    tensor = interface().tensor(aligned(np.zeros(3, np.uint16)), bfloat16=True)
    described = DLTensor.from_address(tensor.handle + DESCRIBED)
    assert (described.code, described.bits) == (4, 16)
