"""tvm-ffi by its C interface: the few calls that loading and running a model need, through ctypes.

The Python package `tvm_ffi` offers all of them, but importing it takes a device longer than all else that it
imports, and several megabytes. Nothing of it is imported or changed here, so a program may import it (or tvm)
before, after or at the same time: both then speak to the same `libtvm_ffi.so`.

The layouts are those of `tvm/ffi/c_api.h` and `dlpack.h` of the one version that
`edgec.runtime.execution.shared_libraries.check_ffi` lets through.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from ctypes import (
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as this module
    import numpy.typing as npt

    Array = npt.NDArray[Any]
else:
    Array = np.ndarray

# What a value is: TVMFFITypeIndex.
NONE, _INT, _BOOL, _FLOAT, _RAW_STR, _SMALL_STR = 0, 1, 2, 3, 8, 11
OBJECT, _STR, _FUNCTION, TENSOR, ARRAY, _MODULE = 64, 65, 68, 70, 71, 73
_BFLOAT16 = 4  # the code of DLPack's type; numpy hands over its bits as uint16
_CAPSULE, _USED = b"dltensor_versioned", b"used_dltensor_versioned"
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        AssertionError,
        AttributeError,
        IndexError,
        KeyError,
        MemoryError,
        TypeError,
        ValueError,
    )
}
# What the library of apache-tvm-ffi 0.1.14.post1 says that it is.
_VERSION = (0, 1, 15)


class Value(ctypes.Structure):
    """TVMFFIAny: a number, or a pointer to an object."""

    _fields_ = (("kind", c_int32), ("zero", c_uint32), ("value", c_int64))


class _Header(ctypes.Structure):  # TVMFFIObject, with which each object begins
    _fields_ = (("references", c_uint64), ("kind", c_int32), ("padding", c_uint32), ("deleter", c_uint64))


class _Bytes(ctypes.Structure):  # TVMFFIByteArray
    _fields_ = (("data", c_void_p), ("size", c_size_t))


class _Sequence(ctypes.Structure):  # TVMFFISeqCell
    _fields_ = (("header", _Header), ("data", c_void_p), ("size", c_int64))


class _Error(ctypes.Structure):  # TVMFFIErrorCell
    _fields_ = (("header", _Header), ("kind", _Bytes), ("message", _Bytes))


class _DLTensor(ctypes.Structure):
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


class _Managed(ctypes.Structure):  # DLManagedTensorVersioned
    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager", c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, c_void_p)),
        ("flags", c_uint64),
        ("tensor", _DLTensor),
    )


_HEADER = ctypes.sizeof(_Header)
# A tensor's description in words: this far behind its handle, and the places in it of the address at which its memory
# begins and of how many bytes behind that its elements do.
DESCRIBED = _HEADER
words_at = (c_uint64 * (ctypes.sizeof(_DLTensor) // 8)).from_address
DATA, OFFSET = _DLTensor.data.offset // 8, _DLTensor.byte_offset.offset // 8


def _python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401 - ctypes' types
    # not an attribute of ctypes.pythonapi: every library of the process shares those, and may change their types
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new_capsule = _python("PyCapsule_New", ctypes.py_object, c_void_p, c_char_p, c_void_p)
_pointer_of = _python("PyCapsule_GetPointer", c_void_p, ctypes.py_object, c_char_p)
_is_capsule = _python("PyCapsule_IsValid", c_int, ctypes.py_object, c_char_p)
_rename = _python("PyCapsule_SetName", c_int, ctypes.py_object, c_char_p)


def memory_of(handle: int) -> Array:
    """The bytes of a tensor's elements, uint8 `[n]`, which go with it."""
    tensor = _DLTensor.from_address(handle + _HEADER)
    start = (tensor.data or 0) + tensor.byte_offset
    return np.frombuffer((c_uint8 * _size(tensor)).from_address(start), np.uint8)  # type: ignore[call-overload, no-any-return]


def _size(tensor: _DLTensor) -> int:
    count = math.prod(tensor.shape[number] for number in range(tensor.ndim))
    return int(count * ((tensor.bits * tensor.lanes + 7) // 8))


class Object:
    """A reference to an object of tvm-ffi, which lives at least as long as this does."""

    __slots__ = ("_release", "handle")

    def __init__(self, library: Interface, handle: int) -> None:
        self.handle = handle
        # held here: globals may be gone when the interpreter ends and the last objects with it
        self._release = library.release

    def __del__(self) -> None:
        self._release(self.handle)


class Tensor(Object):
    """An array as compiled code sees it."""

    __slots__ = ()

    def _described(self) -> _DLTensor:
        return _DLTensor.from_address(self.handle + _HEADER)

    def data_ptr(self) -> int:
        """The address of its first element."""
        tensor = self._described()
        return int((tensor.data or 0) + tensor.byte_offset)

    @property
    def nbytes(self) -> int:
        """Its elements' size in bytes."""
        return _size(self._described())


class Function(Object):
    """A function that takes and gives numbers, strings, arrays and objects."""

    __slots__ = ("_library",)

    def __init__(self, library: Interface, handle: int) -> None:
        super().__init__(library, handle)
        self._library = library

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - whatever it gives
        """Call it.

        Raises:
            RuntimeError: it failed (or another of Python's own errors, by the name that it gives its error).
        """
        call = Call(self, len(arguments))
        kept = [call.put(number, argument) for number, argument in enumerate(arguments)]
        call()
        del kept
        return self._library.taken(call.result)


class Module(Object):
    """A loaded library, or a part of the runtime that has functions."""

    __slots__ = ("_library",)

    def __init__(self, library: Interface, handle: int) -> None:
        super().__init__(library, handle)
        self._library = library

    def __getitem__(self, name: str) -> Function:
        """Its function of this name.

        Raises:
            AttributeError: it has none.
        """
        function = self._library.function("ffi.ModuleGetFunction")(self, name, False)
        if function is None:
            raise AttributeError(f"Module has no function '{name}'")
        return function  # type: ignore[no-any-return]


class Call:
    """A function and places for its arguments, to be called again and again, by one thread at a time.

    `result` is what the last call gave: whoever calls takes it over.
    """

    __slots__ = ("_arguments", "_function", "invoke", "library", "passed", "result")

    def __init__(self, function: Function, count: int) -> None:
        self._function, self.library = function, function._library
        self._arguments, self.result = (Value * count)(), Value()
        # what a call passes, converted once: that halves what it costs
        self.passed = (
            c_void_p(function.handle),
            c_void_p(ctypes.addressof(self._arguments)),
            c_int32(count),
            c_void_p(ctypes.addressof(self.result)),
        )
        self.invoke = self.library.invoke

    def put(self, number: int, argument: Any) -> Any:  # noqa: ANN401 - what functions take
        """Place an argument; what is returned has to be kept until the call has ended."""
        place = self._arguments[number]
        if isinstance(argument, np.ndarray):
            argument = self.library.tensor(argument)
        elif isinstance(argument, list):
            argument = self.library.function("ffi.Array")(*argument)
        if isinstance(argument, Object):
            place.kind, place.value = _Header.from_address(argument.handle).kind, argument.handle
        elif argument is None:
            place.kind, place.value = NONE, 0
        elif isinstance(argument, bool):
            place.kind, place.value = _BOOL, argument
        elif isinstance(argument, int):
            place.kind, place.value = _INT, argument
        elif isinstance(argument, str):
            argument = ctypes.create_string_buffer(argument.encode())
            place.kind, place.value = _RAW_STR, ctypes.addressof(argument)
        elif hasattr(argument, "__chandle__"):  # an object that the package tvm_ffi made
            handle = argument.__chandle__()
            place.kind, place.value = _Header.from_address(handle).kind, handle
        else:
            raise TypeError(f"compiled code takes no {type(argument).__name__}")
        return argument

    def __call__(self) -> None:
        """Call the function.

        Raises:
            RuntimeError: as `Function.__call__`.
        """
        self.result.kind = NONE
        if self.invoke(*self.passed):
            raise self.library.error()


class Interface:
    """The functions of a loaded `libtvm_ffi.so`.

    Raises:
        RuntimeError: it is of another version than the one whose layouts are written down here.
        AttributeError: it lacks a function.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        version = (c_uint32 * 3)()
        library["TVMFFIGetVersion"](version)
        if tuple(version) != _VERSION:
            found, wanted = (".".join(map(str, numbers)) for numbers in (version, _VERSION))
            raise RuntimeError(f"it is of version {found}, not {wanted}: install apache-tvm-ffi again")

        def declare(name: str, *arguments: Any) -> Callable[..., int]:  # noqa: ANN401 - ctypes' types
            function = getattr(library, name)
            function.restype, function.argtypes = c_int, arguments
            return function  # type: ignore[no-any-return]

        self.release = declare("TVMFFIObjectDecRef", c_void_p)
        self.invoke = library["TVMFFIFunctionCall"]
        self._get_global = declare("TVMFFIFunctionGetGlobal", c_void_p, c_void_p)
        self._raised = declare("TVMFFIErrorMoveFromRaised", c_void_p)
        library.TVMFFIErrorMoveFromRaised.restype = None
        self._import = declare("TVMFFITensorFromDLPackVersioned", c_void_p, c_int32, c_int32, c_void_p)
        self._export = declare("TVMFFITensorToDLPackVersioned", c_void_p, c_void_p)

    def find(self, name: str) -> Function | None:
        """The global function of this name, or None."""
        content = name.encode()
        text = ctypes.create_string_buffer(content)
        key, handle = _Bytes(ctypes.addressof(text), len(content)), c_void_p()
        if self._get_global(ctypes.byref(key), ctypes.byref(handle)):
            raise self.error()
        return Function(self, handle.value) if handle.value else None

    def function(self, name: str) -> Function:
        """The global function of this name.

        Raises:
            ValueError: there is none.
        """
        found = self.find(name)
        if found is None:
            raise ValueError(f"Cannot find global function {name}")
        return found

    def load_module(self, path: Path) -> Module:
        """Load a compiled library; its code can run from here on.

        Raises:
            RuntimeError: the dynamic linker or the runtime refuses it.
        """
        module: Module = self.function("ffi.ModuleLoadFromFile")(str(path))
        # for good: what it has made may still be in use when the last reference to it goes
        self.function("ffi.ModuleGlobalsAdd")(module)
        return module

    def tensor(self, array: Array, *, bfloat16: bool = False) -> Tensor:
        """The array as compiled code sees it: the same memory, kept alive as long as the tensor is.

        Args:
            array: of bfloat16 its bits, as uint16. It may be read-only, if what it is passed to only reads it.
            bfloat16: call its elements so.
        """
        # the version with which numpy hands over read-only memory too
        capsule, handle = array.__dlpack__(max_version=(1, 0)), c_void_p()
        managed = _pointer_of(capsule, _CAPSULE)
        if bfloat16:
            _Managed.from_address(managed).tensor.code = _BFLOAT16
        if self._import(managed, 0, 0, ctypes.byref(handle)):
            raise self.error()
        _rename(capsule, _USED)  # as who takes a capsule over does: its destructor leaves it alone then
        assert handle.value is not None
        return Tensor(self, handle.value)

    def array(self, handle: int) -> Array:
        """The tensor's elements where they are; they stay as long as the array does.

        Raises:
            BufferError: numpy has no type for them.
        """
        managed = c_void_p()
        if self._export(handle, ctypes.byref(managed)):
            raise self.error()
        capsule = _new_capsule(managed, _CAPSULE, None)
        try:
            return np.from_dlpack(_Export(capsule))
        finally:
            if _is_capsule(capsule, _CAPSULE):  # it was not taken over
                _Managed.from_address(managed.value or 0).deleter(managed.value)

    def items(self, handle: int) -> list[int]:
        """The objects in a tuple or array, which go with it."""
        cell = _Sequence.from_address(handle)
        words = ctypes.sizeof(Value) // 8  # the last of which is the pointer
        found: list[int] = (c_int64 * (words * cell.size)).from_address(cell.data or handle)[
            words - 1 :: words
        ]
        return found

    def taken(self, result: Value) -> Any:  # noqa: ANN401 - whatever a function gave
        """What a call gave, as Python knows it."""
        kind, value = result.kind, result.value
        if kind in (NONE, _INT, _BOOL):
            return None if kind == NONE else value if kind == _INT else bool(value)
        if kind == _FLOAT:
            return ctypes.c_double.from_buffer(c_int64(value)).value
        if kind == _SMALL_STR:
            return value.to_bytes(8, "little", signed=True)[: result.zero].decode()
        if kind == _STR:
            text = _Bytes.from_address(value + _HEADER)
            try:
                return ctypes.string_at(text.data or 0, text.size).decode()
            finally:
                self.release(value)
        if kind < OBJECT:
            raise TypeError(f"compiled code gave a value of kind {kind}")
        return {_FUNCTION: Function, TENSOR: Tensor, _MODULE: Module}.get(kind, Object)(self, value)

    def error(self) -> Exception:
        """The error of the call that has failed in this thread."""
        handle = c_void_p()
        self._raised(ctypes.byref(handle))
        if not handle.value:
            return RuntimeError("a call into the runtime failed without a reason")
        held = _Error.from_address(handle.value)
        kind, message = (
            ctypes.string_at(part.data or 0, part.size).decode(errors="replace")
            for part in (held.kind, held.message)
        )
        self.release(handle.value)
        return _ERRORS.get(kind, RuntimeError)(message)


class _Export:
    """What numpy takes an array from."""

    __slots__ = ("_capsule",)

    def __init__(self, capsule: Any) -> None:  # noqa: ANN401 - a capsule
        self._capsule = capsule

    def __dlpack__(self, **_wanted: Any) -> Any:  # noqa: ANN401 - what a consumer may ask for, and a capsule
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0
