"""Memory that goes in and comes out: buffers of any library, and arrays that any library can read without a copy."""

from __future__ import annotations

import ctypes
import struct
from math import prod
from typing import Any

from .dlpack import export, imported
from .errors import InputError

# What `struct` and the buffer protocol call the data types; bfloat16 has no letter, and its bits are those of uint16.
LETTERS = {"bool": "?", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I",
           "int64": "q", "uint64": "Q", "float16": "e", "bfloat16": "H", "float32": "f", "float64": "d"}  # fmt: skip
_SAME = {"l": "q", "L": "Q", "n": "q", "N": "Q", "c": "B"}
_KINDS = {"b": "i", "h": "i", "i": "i", "q": "i", "e": "f", "f": "f", "d": "f", "?": "b"}
ALIGNMENT = 64  # at which libedgec reads and writes in place


class Array:
    """An output: `numpy.asarray`, `torch.from_dlpack` and `memoryview(array.data)` read it without a copy.

    Attributes:
        shape: its sizes.
        dtype: numpy's name of its element type.
        data: its bytes, flat and in C order, as a writable view.
    """

    __slots__ = ("__weakref__", "_held", "data", "dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        size = prod(shape) * struct.calcsize(LETTERS[dtype])
        self._held = bytearray(size + ALIGNMENT)
        start = -address_of(self._held) % ALIGNMENT
        self.shape, self.dtype = shape, dtype
        self.data = memoryview(self._held)[start : start + size]

    @property
    def address(self) -> int:
        """Where its bytes are."""
        return address_of(self.data) if self.data.nbytes else address_of(self._held)

    def tolist(self) -> Any:  # noqa: ANN401 - as deep as the array has axes
        """Its values as nested lists of Python's numbers; a number if it has no axes."""
        values: list[Any] = [value for (value,) in struct.iter_unpack(LETTERS[self.dtype], self.data)]
        if self.dtype == "bfloat16":
            values = [struct.unpack("<f", struct.pack("<I", bits << 16))[0] for bits in values]
        if not self.shape:
            return values[0]
        for axis in range(len(self.shape) - 1, 0, -1):
            size, count = self.shape[axis], prod(self.shape[:axis])
            values = [values[k * size : (k + 1) * size] for k in range(count)]
        return values

    @property
    def __array_interface__(self) -> dict[str, Any]:
        letter = LETTERS[self.dtype]
        kind = f"{_KINDS.get(letter, 'u')}{struct.calcsize(letter)}"
        return {"version": 3, "shape": self.shape, "typestr": f"{'|' if kind[1] == '1' else '<'}{kind}",
                "data": (self.address, False)}  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_: object) -> object:
        return export(self, self.address, self.shape, self.dtype)

    def __repr__(self) -> str:
        return f"Array({self.dtype}{list(self.shape)})"


class Given:
    """An input's memory, held for as long as a run needs it.

    Args:
        value: an object with the buffer protocol, or a tensor in host memory with DLPack.

    Attributes:
        shape, dtype: what it says of itself; the data type is empty for bytes that say nothing.

    Raises:
        InputError: it is neither; the message says what can be given.
    """

    def __init__(self, value: object) -> None:
        self._held: object
        self.dtype, self.bits = "", False
        if isinstance(value, Array):
            self._held, self.address = value, value.address
            self.shape, self.dtype, self.nbytes = value.shape, value.dtype, value.data.nbytes
            return
        try:
            view = memoryview(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, BufferError) as error:
            found = imported(value)
            if found is None:
                raise InputError(
                    f"{type(value).__name__} is no array: give an object with the buffer protocol (array.array, bytes, "
                    "a numpy array), or a tensor in host memory with DLPack"
                ) from error
            self._held, self.address, self.shape, self.dtype = found
            self.nbytes = prod(self.shape) * struct.calcsize(LETTERS.get(self.dtype, "B"))
            return
        self._read(view)

    def _read(self, view: memoryview) -> None:
        letter = view.format.lstrip("@=<")
        letter = _SAME.get(letter, letter)
        self.dtype = next((name for name, known in LETTERS.items() if known == letter), view.format)
        self.bits = letter == "H"
        self.shape, self.nbytes = tuple(view.shape or ()), view.nbytes
        if not view.c_contiguous:
            view = memoryview(view.tobytes())
        self._held, self.address = view, address_of(view) if view.nbytes else ALIGNMENT

    def fits(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Whether it is such an array: of that shape or flat, of that type, or plain bytes of that size."""
        size = prod(shape) * struct.calcsize(LETTERS[dtype])
        if self.dtype == "uint8" and dtype != "uint8":
            return self.shape == (size,)  # bytes
        if self.dtype != dtype and not (self.bits and dtype == "bfloat16"):
            return False
        return self.shape == shape or (self.shape == (prod(shape),) and self.nbytes == size)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class _Buffer(ctypes.Structure):
    """CPython's `Py_buffer`, part of its stable interface."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("rest", ctypes.c_void_p * 5),
    )


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes, _get.restype = (ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int), ctypes.c_int
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes, _release.restype = (ctypes.POINTER(_Buffer),), None


def address_of(held: bytearray | memoryview) -> int:
    """Where a contiguous buffer lies, read-only ones too; it stays there while `held` is referenced."""
    view = _Buffer()
    _get(held, ctypes.byref(view), 0)
    address = view.buf
    _release(ctypes.byref(view))
    return address or 0
