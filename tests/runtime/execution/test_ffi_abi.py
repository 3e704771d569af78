"""The C interface of tvm-ffi: versions, errors, tensors over memory of others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.runtime.execution import shared_libraries
from edgec.runtime.execution.compiled_functions import load_code
from edgec.runtime.execution.ffi_abi import Interface
from edgec.runtime.execution.shared_libraries import interface
from tests.runtime.processes import probe


def test_a_library_of_another_version_than_its_package_says_is_refused() -> None:
    class Other:
        """A library that says of itself that it is version 0.1.14."""

        def __getitem__(self, name: str) -> Any:
            assert name == "TVMFFIGetVersion"
            return lambda numbers: numbers.__setitem__(slice(0, 3), (0, 1, 14))

    with pytest.raises(
        RuntimeError, match=r"it is of version 0\.1\.14, not 0\.1\.15: install apache-tvm-ffi again"
    ):
        Interface(Other())  # type: ignore[arg-type]


def test_the_types_that_others_give_to_shared_functions_do_not_matter(tiny: Path) -> None:
    """The functions of Python and of tvm-ffi that ctypes keeps once for all libraries of a process."""
    script = """
    import ctypes, tvm_ffi
    for name in ("PyCapsule_New", "PyCapsule_GetPointer", "PyCapsule_IsValid", "PyCapsule_SetName"):
        getattr(ctypes.pythonapi, name).argtypes = (ctypes.c_char_p,)
    model = load()
    for name in ("PyCapsule_New", "PyCapsule_GetPointer", "PyCapsule_IsValid", "PyCapsule_SetName"):
        function = getattr(ctypes.pythonapi, name)
        function.argtypes, function.restype = (ctypes.c_double,), ctypes.c_char
    tvm_ffi.LIB.TVMFFIFunctionCall.argtypes = (ctypes.c_char_p,)
    check(model)
    print("fine")
    """
    assert probe(script, tiny) == "fine"


def test_a_failing_function_says_why(mlp: Any) -> None:
    shared_libraries.load_installed()
    with pytest.raises(ValueError, match="Cannot find global function no such function"):
        shared_libraries.global_function("no such function")
    with pytest.raises(AttributeError, match="no function 'nothing'"):
        load_code(mlp.code)["nothing"]
    with pytest.raises(TypeError, match="compiled code takes no object"):
        shared_libraries.global_function("ffi.Array")(object())
    with pytest.raises(Exception, match=r"nowhere\.so"):
        shared_libraries.interface().load_module(Path("/nowhere.so"))


@pytest.mark.parametrize("shape", [(0, 3), (2, 3), ()])
def test_memory_that_is_read_only_becomes_a_tensor_and_goes_when_it_goes(shape: tuple[int, ...]) -> None:
    for dtype, bfloat16 in (("float32", False), ("uint16", True)):
        array = np.ones(shape, dtype)
        array.flags.writeable = False
        before = sys.getrefcount(array)
        tensors = [interface().tensor(array, bfloat16=bfloat16) for _ in range(100)]
        assert {tensor.nbytes for tensor in tensors} == {array.nbytes}
        assert sys.getrefcount(array) == before + 100
        del tensors
        assert sys.getrefcount(array) == before
