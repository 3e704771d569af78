"""tvm-ffi through its C interface: the few calls that loading and running a model need, with ctypes.

The Python package `tvm_ffi` offers all of them, but on a device its import takes longer than all other imports
together, and several megabytes. Nothing of the package is imported or changed here, so a program may import it (or tvm)
before, after or at the same time: both use the same `libtvm_ffi.so`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from edgec.runtime.execution.ffi_layout import (
    BFLOAT16,
    BOOL,
    FLOAT,
    FUNCTION,
    HEADER_BYTES,
    INT,
    MODULE,
    NONE,
    OBJECT,
    RAW_STR,
    SMALL_STR,
    STR,
    TENSOR,
    Array,
    ByteArray,
    DLTensor,
    ErrorCell,
    Header,
    ManagedTensor,
    SequenceCell,
    Value,
    byte_size,
)
from edgec.runtime.versions import TVM_FFI_LIBRARY

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


def _python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401 - ctypes' types
    # not an attribute of ctypes.pythonapi: the whole process shares those, and any library may change their types
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new_capsule = _python("PyCapsule_New", ctypes.py_object, c_void_p, c_char_p, c_void_p)
_pointer_of = _python("PyCapsule_GetPointer", c_void_p, ctypes.py_object, c_char_p)
_is_capsule = _python("PyCapsule_IsValid", c_int, ctypes.py_object, c_char_p)
_rename = _python("PyCapsule_SetName", c_int, ctypes.py_object, c_char_p)


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

    def _described(self) -> DLTensor:
        return DLTensor.from_address(self.handle + HEADER_BYTES)

    def data_ptr(self) -> int:
        """The address of its first element."""
        tensor = self._described()
        return int((tensor.data or 0) + tensor.byte_offset)

    @property
    def nbytes(self) -> int:
        """Its elements' size in bytes."""
        return byte_size(self._described())


class Function(Object):
    """A function whose arguments and result are numbers, strings, arrays or objects."""

    __slots__ = ("_library",)

    def __init__(self, library: Interface, handle: int) -> None:
        super().__init__(library, handle)
        self._library = library

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - any result
        """Call the function.

        Raises:
            RuntimeError: it failed. An error that carries the name of one of Python's own is raised as that.
        """
        call = Call(self, len(arguments))
        kept = [call.put(number, argument) for number, argument in enumerate(arguments)]
        call()
        del kept
        return self._library.to_python(call.result)


class Module(Object):
    """A loaded library, or a part of the runtime that has functions."""

    __slots__ = ("_library",)

    def __init__(self, library: Interface, handle: int) -> None:
        super().__init__(library, handle)
        self._library = library

    def __getitem__(self, name: str) -> Function:
        """Look up a function by name.

        Raises:
            AttributeError: the module has no such function.
        """
        function = self._library.function("ffi.ModuleGetFunction")(self, name, False)
        if function is None:
            raise AttributeError(f"Module has no function '{name}'")
        return function  # type: ignore[no-any-return]


class Call:
    """A function with slots for its arguments, to be called repeatedly by one thread at a time.

    Attributes:
        result: the last call's result; the caller owns its reference.
        passed: the converted arguments of `invoke`.
    """

    __slots__ = ("_arguments", "_function", "invoke", "library", "passed", "result")

    def __init__(self, function: Function, count: int) -> None:
        self._function, self.library = function, function._library
        self._arguments, self.result = (Value * count)(), Value()
        # converted once, which halves the cost of a call
        self.passed = (
            c_void_p(function.handle),
            c_void_p(ctypes.addressof(self._arguments)),
            c_int32(count),
            c_void_p(ctypes.addressof(self.result)),
        )
        self.invoke = self.library.invoke

    def put(self, number: int, argument: Any) -> Any:  # noqa: ANN401 - what functions take
        """Set an argument; the caller keeps the returned object until the call has ended."""
        place = self._arguments[number]
        if isinstance(argument, np.ndarray):
            argument = self.library.tensor(argument)
        elif isinstance(argument, list):
            argument = self.library.function("ffi.Array")(*argument)
        if isinstance(argument, Object):
            place.kind, place.value = Header.from_address(argument.handle).kind, argument.handle
        elif argument is None:
            place.kind, place.value = NONE, 0
        elif isinstance(argument, bool):
            place.kind, place.value = BOOL, argument
        elif isinstance(argument, int):
            place.kind, place.value = INT, argument
        elif isinstance(argument, str):
            argument = ctypes.create_string_buffer(argument.encode())
            place.kind, place.value = RAW_STR, ctypes.addressof(argument)
        elif hasattr(argument, "__chandle__"):  # an object that the package tvm_ffi made
            handle = argument.__chandle__()
            place.kind, place.value = Header.from_address(handle).kind, handle
        else:
            raise TypeError(f"compiled code takes no {type(argument).__name__}")
        return argument

    def pass_tensor(self, number: int, tensor: Tensor) -> None:
        """Set an argument as `put` does; the caller keeps the tensor until the call has ended."""
        place = self._arguments[number]
        place.kind, place.value = TENSOR, tensor.handle

    def __call__(self) -> None:
        """Call the function.

        Raises:
            RuntimeError: see `Function.__call__`.
        """
        self.result.kind = NONE
        if self.invoke(*self.passed):
            raise self.library.error()


class Interface:
    """The functions of a loaded `libtvm_ffi.so`.

    Raises:
        RuntimeError: it is not the version whose layouts `ffi_layout` describes.
        AttributeError: it lacks a function.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        version = (c_uint32 * 3)()
        library["TVMFFIGetVersion"](version)
        if tuple(version) != TVM_FFI_LIBRARY:
            found, wanted = (".".join(map(str, numbers)) for numbers in (version, TVM_FFI_LIBRARY))
            raise RuntimeError(f"it is of version {found}, not {wanted}: install apache-tvm-ffi again")

        def declare(name: str, *arguments: Any) -> Callable[..., int]:  # noqa: ANN401 - ctypes' types
            function = getattr(library, name)
            function.restype, function.argtypes = c_int, arguments
            return function  # type: ignore[no-any-return]

        self.release = declare("TVMFFIObjectDecRef", c_void_p)
        self._retain = declare("TVMFFIObjectIncRef", c_void_p)
        self.invoke = library["TVMFFIFunctionCall"]
        self._get_global = declare("TVMFFIFunctionGetGlobal", c_void_p, c_void_p)
        self._raised = declare("TVMFFIErrorMoveFromRaised", c_void_p)
        library.TVMFFIErrorMoveFromRaised.restype = None
        self._import = declare("TVMFFITensorFromDLPackVersioned", c_void_p, c_int32, c_int32, c_void_p)
        self._export = declare("TVMFFITensorToDLPackVersioned", c_void_p, c_void_p)

    def find(self, name: str) -> Function | None:
        """Look up a global function; None where there is none of this name."""
        content = name.encode()
        text = ctypes.create_string_buffer(content)
        key, handle = ByteArray(ctypes.addressof(text), len(content)), c_void_p()
        if self._get_global(ctypes.byref(key), ctypes.byref(handle)):
            raise self.error()
        return Function(self, handle.value) if handle.value else None

    def function(self, name: str) -> Function:
        """Look up a global function.

        Raises:
            ValueError: there is none of this name.
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
        # never unloaded: objects that it made may outlive the last reference to it
        self.function("ffi.ModuleGlobalsAdd")(module)
        return module

    def tensor(self, array: Array, *, bfloat16: bool = False) -> Tensor:
        """Wrap an array as a tensor over the same memory, which the tensor keeps alive.

        Args:
            array: bfloat16 comes as its bits, uint16. It may be read-only if the callee only reads it.
            bfloat16: label the elements as bfloat16.
        """
        # the version that numpy requires for read-only memory
        capsule, handle = array.__dlpack__(max_version=(1, 0)), c_void_p()
        managed = _pointer_of(capsule, _CAPSULE)
        if bfloat16:
            ManagedTensor.from_address(managed).tensor.code = BFLOAT16
        if self._import(managed, 0, 0, ctypes.byref(handle)):
            raise self.error()
        _rename(
            capsule, _USED
        )  # marks the capsule as consumed, so that its destructor leaves the memory alone
        assert handle.value is not None
        return Tensor(self, handle.value)

    def shared(self, handle: int) -> Tensor:
        """Another reference to a tensor that something else holds."""
        self._retain(handle)
        return Tensor(self, handle)

    def array(self, handle: int) -> Array:
        """View a tensor's elements as an array, which keeps them alive.

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
            if _is_capsule(capsule, _CAPSULE):  # numpy did not consume it
                ManagedTensor.from_address(managed.value or 0).deleter(managed.value)

    def items(self, handle: int) -> list[int]:
        """Handles of the objects in a tuple or array, borrowed from it."""
        cell = SequenceCell.from_address(handle)
        words = ctypes.sizeof(Value) // 8  # the last of which is the pointer
        found: list[int] = (c_int64 * (words * cell.size)).from_address(cell.data or handle)[
            words - 1 :: words
        ]
        return found

    def to_python(self, result: Value) -> Any:  # noqa: ANN401 - any result
        """Convert a call's result, whose reference this takes over."""
        kind, value = result.kind, result.value
        if kind in (NONE, INT, BOOL):
            return None if kind == NONE else value if kind == INT else bool(value)
        if kind == FLOAT:
            return ctypes.c_double.from_buffer(c_int64(value)).value
        if kind == SMALL_STR:
            return value.to_bytes(8, "little", signed=True)[: result.zero].decode()
        if kind == STR:
            text = ByteArray.from_address(value + HEADER_BYTES)
            try:
                return ctypes.string_at(text.data or 0, text.size).decode()
            finally:
                self.release(value)
        if kind < OBJECT:
            raise TypeError(f"compiled code returned a value of kind {kind}")
        return {FUNCTION: Function, TENSOR: Tensor, MODULE: Module}.get(kind, Object)(self, value)

    def error(self) -> Exception:
        """Take the error of the call that failed in this thread."""
        handle = c_void_p()
        self._raised(ctypes.byref(handle))
        if not handle.value:
            return RuntimeError("a call into the runtime failed without a reason")
        held = ErrorCell.from_address(handle.value)
        kind, message = (
            ctypes.string_at(part.data or 0, part.size).decode(errors="replace")
            for part in (held.kind, held.message)
        )
        self.release(handle.value)
        return _ERRORS.get(kind, RuntimeError)(message)


class _Export:
    """An object that numpy imports through DLPack."""

    __slots__ = ("_capsule",)

    def __init__(self, capsule: Any) -> None:  # noqa: ANN401 - a capsule
        self._capsule = capsule

    def __dlpack__(self, **_wanted: Any) -> Any:  # noqa: ANN401 - what a consumer may ask for, and a capsule
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0
