"""libedgec's functions (runtime/c/edgec.h), and its codes as exceptions."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

from .errors import ArtifactError, EdgecError, IncompatibleDevice, InputError

NAME = "libedgec.so"
ELSEWHERE = "EDGEC_LIBEDGEC"
"""Environment variable that names another library than the one beside this file."""

# In the order of the codes in edgec.h.
DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16",
          "float32", "float64")  # fmt: skip
_BAD_FILE, _INCOMPATIBLE, _RUN_FAILED, _NO_MEMORY = 3, 4, 5, 2


class TensorInfo(ctypes.Structure):
    """`edgec_tensor`."""

    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("bytes", c_size_t),
    )


class Sized(ctypes.Structure):
    """`edgec_array`."""

    _fields_ = (("data", c_void_p), ("shape", POINTER(c_int64)))


class LayerInfo(ctypes.Structure):
    """`edgec_layer`."""

    _fields_ = (("kernel", c_char_p), ("nodes", c_char_p), ("seconds", c_double))


class Options(ctypes.Structure):
    """`edgec_options`."""

    _fields_ = (
        ("memory", c_void_p),
        ("memory_bytes", c_size_t),
        ("threads", c_int),
        ("parallel", c_void_p),
        ("pool", c_void_p),
    )


_FUNCTIONS = {
    "load": (c_int, [c_char_p, c_int, POINTER(c_void_p)]),
    "unload": (None, [c_void_p]),
    "name": (c_char_p, [c_void_p]),
    "version": (c_char_p, [c_void_p]),
    "target": (c_char_p, [c_void_p]),
    "sets": (c_int, [c_void_p]),
    "inputs": (c_int, [c_void_p]),
    "outputs": (c_int, [c_void_p]),
    "input": (POINTER(TensorInfo), [c_void_p, c_int]),
    "output": (POINTER(TensorInfo), [c_void_p, c_int]),
    "input_most": (POINTER(c_int64), [c_void_p, c_int]),
    "layers": (c_int, [c_void_p]),
    "snapshot_bytes": (c_size_t, [c_void_p]),
    "open": (c_int, [c_void_p, POINTER(Options), POINTER(c_void_p)]),
    "run": (c_int, [c_void_p, c_void_p, c_void_p]),
    "run_sized": (c_int, [c_void_p, POINTER(Sized), POINTER(Sized)]),
    "profile": (c_int, [c_void_p, c_void_p, c_void_p, c_int, POINTER(LayerInfo), c_int]),
    "reset": (c_int, [c_void_p]),
    "snapshot": (c_int, [c_void_p, c_void_p, c_size_t]),
    "restore": (c_int, [c_void_p, c_char_p, c_size_t]),
    "close": (None, [c_void_p]),
    "last_error": (c_char_p, []),
}


@cache
def library() -> ctypes.CDLL:
    """The library, with the types of its functions set.

    Raises:
        IncompatibleDevice: it is not there, or for another machine or C library.
    """
    path = os.environ.get(ELSEWHERE) or str(Path(__file__).with_name(NAME))
    try:
        opened = ctypes.CDLL(path)
    except OSError as error:
        raise IncompatibleDevice(
            f"{path} cannot be loaded ({error}): install the package of `edgec runtime wheel --standalone` "
            f"for this machine's target and C library, or name a library with {ELSEWHERE}"
        ) from error
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(opened, f"edgec_{name}")
        except AttributeError as error:
            raise IncompatibleDevice(
                f"{path} has no edgec_{name}: it is no libedgec of this version"
            ) from error
        function.restype, function.argtypes = result, arguments
    return opened


def check(code: int) -> None:
    """Raise what a function's result stands for, with the text of `edgec_last_error`.

    Raises:
        ArtifactError, IncompatibleDevice, InputError, MemoryError, EdgecError: unless the code is that of success.
    """
    if code == 0:
        return
    text = library().edgec_last_error().decode(errors="replace")
    if code == _NO_MEMORY:
        raise MemoryError(text)
    kinds = {_BAD_FILE: ArtifactError, _INCOMPATIBLE: IncompatibleDevice, _RUN_FAILED: EdgecError}
    raise kinds.get(code, InputError)(text)
