"""DLPack: tensors of PyTorch and others without a copy, in both directions."""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint64,
    c_void_p,
    py_object,
)
from math import prod
from typing import Any, NamedTuple

_CPU = 1
_TYPES = {"bool": (6, 8), "int8": (0, 8), "uint8": (1, 8), "int16": (0, 16), "uint16": (1, 16), "int32": (0, 32),
          "uint32": (1, 32), "int64": (0, 64), "uint64": (1, 64), "float16": (2, 16), "bfloat16": (4, 16),
          "float32": (2, 32), "float64": (2, 64)}  # fmt: skip
_NAMES = {code: name for name, code in _TYPES.items()}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p))


_api = ctypes.pythonapi
_api.PyCapsule_New.argtypes, _api.PyCapsule_New.restype = (c_void_p, c_char_p, c_void_p), py_object
_api.PyCapsule_GetPointer.argtypes, _api.PyCapsule_GetPointer.restype = (py_object, c_char_p), c_void_p
# Within a destructor, which is given a capsule that must not be referenced again.
_valid = ctypes.PYFUNCTYPE(c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", _api))
_OPEN = ctypes.c_char_p(b"dltensor")  # a capsule keeps the pointer to its name

_exported: dict[int, tuple[object, ...]] = {}
"""What exported tensors need, by their addresses, until their receivers give them back."""


def _give_back(address: int) -> None:
    """For the receiver of a tensor."""
    _exported.pop(address, None)


def _drop(capsule: int) -> None:
    """Give back a tensor that nobody received."""
    if _valid(capsule, _OPEN):
        _exported.pop(_pointer(capsule, _OPEN), None)


_returned = CFUNCTYPE(None, c_void_p)(_give_back)
_dropped = ctypes.PYFUNCTYPE(None, c_void_p)(_drop)


def export(
    owner: object, address: int, shape: tuple[int, ...], dtype: str, device: tuple[int, int] = (_CPU, 0)
) -> object:
    """A capsule with the memory at `address`, which `owner` keeps alive; `device` is DLPack's kind and number."""
    sizes = (c_int64 * max(1, len(shape)))(*shape)
    code, bits = _TYPES[dtype]
    managed = _Managed(
        _Tensor(address, *device, len(shape), code, bits, 1, sizes, None, 0),
        None,
        ctypes.cast(_returned, c_void_p).value,
    )
    place = ctypes.addressof(managed)
    _exported[place] = (owner, sizes, managed)
    capsule: object = _api.PyCapsule_New(place, _OPEN, ctypes.cast(_dropped, c_void_p).value)
    return capsule


class Described(NamedTuple):
    """A tensor in a capsule.

    Attributes:
        capsule: stays unused: it gives the tensor back when it goes.
        address: of its first element.
        strides: in elements; None where the elements lie side by side.
        dtype: its name; a description of a type without one.
    """

    capsule: object
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str


def described(capsule: object) -> Described:
    """What a capsule holds."""
    place = _api.PyCapsule_GetPointer(capsule, _OPEN)
    tensor = ctypes.cast(place, POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else ()
    dtype = _NAMES.get((tensor.code, tensor.bits), f"type {tensor.code} of {tensor.bits} bits")
    if tensor.lanes != 1:
        dtype = f"{dtype} in vectors of {tensor.lanes}"
    gaps = strides if strides and not _is_dense(shape, strides) else None
    return Described(capsule, (tensor.data or 0) + tensor.byte_offset, shape, gaps, dtype)


def imported(value: object) -> tuple[object, int, tuple[int, ...], str] | None:
    """What keeps a tensor's memory alive, its address, shape and data type; None without DLPack or off the host."""
    device = getattr(value, "__dlpack_device__", None)
    if device is None or device()[0] != _CPU:
        return None
    contiguous = getattr(value, "contiguous", None)  # PyTorch's
    source: Any = contiguous() if callable(contiguous) else value
    detach = getattr(source, "detach", None)
    source = detach() if callable(detach) else source
    try:
        found = described(source.__dlpack__())
    except BufferError:  # what cannot be exported, such as memory that must not be written to
        return None
    return None if found.strides is not None else (found.capsule, found.address, found.shape, found.dtype)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return (
        all(size == 1 or strides[axis] == prod(shape[axis + 1 :]) for axis, size in enumerate(shape))
        or 0 in shape
    )
