"""Memory layouts of tvm-ffi and DLPack: `tvm/ffi/c_api.h` and `dlpack.h` as ctypes structures.

They are those of the one version of apache-tvm-ffi that `edgec.runtime.execution.shared_libraries.check_ffi` accepts.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # its import takes as long as this module's
    import numpy.typing as npt

    Array = npt.NDArray[Any]
else:
    Array = np.ndarray

# TVMFFITypeIndex: what a value holds.
NONE, INT, BOOL, FLOAT, RAW_STR, SMALL_STR = 0, 1, 2, 3, 8, 11
OBJECT, STR, FUNCTION, TENSOR, ARRAY, MODULE = 64, 65, 68, 70, 71, 73
BFLOAT16 = 4  # DLPack's type code; numpy exchanges the bits as uint16


class Value(ctypes.Structure):
    """TVMFFIAny: a number, or a pointer to an object."""

    _fields_ = (("kind", c_int32), ("zero", c_uint32), ("value", c_int64))


class Header(ctypes.Structure):
    """TVMFFIObject: the beginning of every object."""

    _fields_ = (("references", c_uint64), ("kind", c_int32), ("padding", c_uint32), ("deleter", c_uint64))


class ByteArray(ctypes.Structure):
    """TVMFFIByteArray: a view of bytes, without ownership."""

    _fields_ = (("data", c_void_p), ("size", c_size_t))


class SequenceCell(ctypes.Structure):
    """TVMFFISeqCell: a tuple or an array of values."""

    _fields_ = (("header", Header), ("data", c_void_p), ("size", c_int64))


class ErrorCell(ctypes.Structure):
    """TVMFFIErrorCell: an error's kind and message."""

    _fields_ = (("header", Header), ("kind", ByteArray), ("message", ByteArray))


class DLTensor(ctypes.Structure):
    """DLTensor: where a tensor's elements are, and of which shape and type."""

    _fields_ = (
        ("data", c_void_p),
        ("device", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class ManagedTensor(ctypes.Structure):
    """DLManagedTensorVersioned: a tensor with the means to free it."""

    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager", c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, c_void_p)),
        ("flags", c_uint64),
        ("tensor", DLTensor),
    )


HEADER_BYTES = ctypes.sizeof(Header)
# A tensor's DLTensor read as 64-bit words, which is faster than a structure: its offset from the handle, and the
# indices of the words that hold the data pointer and the byte offset.
DESCRIBED = HEADER_BYTES
words_at = (c_uint64 * (ctypes.sizeof(DLTensor) // 8)).from_address
DATA, OFFSET = DLTensor.data.offset // 8, DLTensor.byte_offset.offset // 8


def memory_of(handle: int) -> Array:
    """View a tensor's elements as bytes, uint8 `[n]`; valid as long as the tensor."""
    tensor = DLTensor.from_address(handle + HEADER_BYTES)
    start = (tensor.data or 0) + tensor.byte_offset
    return np.frombuffer((c_uint8 * byte_size(tensor)).from_address(start), np.uint8)  # type: ignore[call-overload, no-any-return]


def byte_size(tensor: DLTensor) -> int:
    """The size of a tensor's elements in bytes."""
    count = math.prod(tensor.shape[number] for number in range(tensor.ndim))
    return int(count * ((tensor.bits * tensor.lanes + 7) // 8))
