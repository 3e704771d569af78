"""NVIDIA's run-time compiler, NVRTC, which makes machine code for any GPU on a machine without one.

It comes as wheels of PyPI (`pip install 'edgec[cuda]'`): the compiler, and the headers of fp16 and bfloat16.
Source: NVRTC documentation.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgec.compiler.errors import InternalError, ToolMissing

_INSTALL = "pip install 'edgec[cuda]'"
_LIBRARIES = ("cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.so.13")
_INCLUDES = ("cuda_runtime/include", "cuda_cccl/include", "cu13/include")
_HEADERS = ("cuda_fp16.h", "cuda_fp16.hpp", "cuda_bf16.h", "cuda_bf16.hpp", "cuda/std/cstdint")
_OPTIONS = ("-std=c++17", "-default-device", "--fmad=true", "--ptxas-options=-v")
_FRAME = re.compile(r"(\d+) bytes stack frame")


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of a source text.

    Attributes:
        content: a cubin, or PTX.
        log: its messages.
    """

    content: bytes
    log: str

    @property
    def frame_bytes(self) -> int:
        """The largest stack frame of a kernel in a cubin, by the assembler: where registers did not suffice."""
        return max(map(int, _FRAME.findall(self.log)), default=0)


def _folders() -> list[Path]:
    spec = find_spec("nvidia")
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


@cache
def library_path() -> Path:
    """The installed NVRTC.

    Raises:
        ToolMissing: there is none.
    """
    for folder in _folders():
        for name in _LIBRARIES:
            if (folder / name).is_file():
                return folder / name
    raise ToolMissing(f"code for NVIDIA GPUs needs NVRTC, which is not installed here.\nRun {_INSTALL}")


@cache
def include_folders() -> tuple[Path, ...]:
    """Folders of headers.

    Raises:
        ToolMissing: those of the runtime or of the C++ core libraries are missing.
    """
    found = [folder / name for folder in _folders() for name in _INCLUDES if (folder / name).is_dir()]
    for header in ("cuda_fp16.h", "cuda/std/cstdint"):
        if not any((folder / header).is_file() for folder in found):
            raise ToolMissing(
                f"NVRTC needs the header {header}, which is not installed here.\nRun {_INSTALL}"
            )
    return tuple(found)


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(library_path()))
    library.nvrtcGetErrorString.restype = c_char_p
    library.nvrtcCreateProgram.argtypes = (c_void_p, c_char_p, c_char_p, c_int, c_void_p, c_void_p)
    library.nvrtcCompileProgram.argtypes = (c_void_p, c_int, c_void_p)
    for name in ("nvrtcGetCUBIN", "nvrtcGetPTX", "nvrtcGetProgramLog"):
        getattr(library, name).argtypes = (c_void_p, c_char_p)
        getattr(library, f"{name}Size").argtypes = (c_void_p, c_void_p)
    return library


@cache
def version() -> tuple[int, int]:
    """NVRTC's version, that of its CUDA toolkit."""
    major, minor = c_int(), c_int()
    _library().nvrtcVersion(byref(major), byref(minor))
    return major.value, minor.value


@cache
def architectures() -> frozenset[int]:
    """The architectures it compiles for: 87 for `sm_87`."""
    count = c_int()
    _library().nvrtcGetNumSupportedArchs(byref(count))
    found = (c_int * count.value)()
    _library().nvrtcGetSupportedArchs(found)
    return frozenset(found)


@cache
def identity() -> str:
    """What a binary depends on beside its source and architecture: version and build of NVRTC, options, headers.

    Raises:
        ToolMissing: as `compile_source`.
    """
    used = (library_path(), *(folder / name for folder in include_folders() for name in _HEADERS))
    digest = hashlib.sha256()
    for path in used:
        if path.is_file():
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"NVRTC {version()} {' '.join(_OPTIONS)} {digest.hexdigest()}"


def check_architecture(arch: str) -> None:
    """Check that NVRTC knows an architecture such as `sm_87`.

    Raises:
        ToolMissing: it does not.
    """
    number = int("".join(filter(str.isdigit, arch)))
    if number not in architectures():
        known = ", ".join(f"sm_{one}" for one in sorted(architectures()))
        made = ".".join(map(str, version()))
        raise ToolMissing(
            f"NVRTC {made}, which is installed here, compiles for {known}, not for {arch}.\n"
            "Choose another target, or install the NVRTC of a CUDA that knows it."
        )


def compile_source(source: str, arch: str, *, ptx: bool = False) -> Compiled:
    """Compile CUDA C++ to a cubin for `arch` (such as `sm_87`), or to PTX for it and later ones.

    Raises:
        ToolMissing: NVRTC or its headers are not installed, or it does not know the architecture.
        InternalError: it refuses the text.
    """
    check_architecture(arch)
    library = _library()
    program = c_void_p()
    _check(library.nvrtcCreateProgram(byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        name = arch.replace("sm_", "compute_") if ptx else arch
        options = [f"--gpu-architecture={name}", *_OPTIONS, *(f"-I{path}" for path in include_folders())]
        array = (c_char_p * len(options))(*(option.encode() for option in options))
        failed = library.nvrtcCompileProgram(program, len(options), array)
        log = _text(program, "nvrtcGetProgramLog").decode("utf-8", "replace").strip("\0\n")
        if failed:
            first = next((line for line in log.splitlines() if "error" in line), log[:300])
            raise InternalError(f"NVRTC refuses a kernel for {arch}: {first}")
        return Compiled(_text(program, "nvrtcGetPTX" if ptx else "nvrtcGetCUBIN"), log)
    finally:
        library.nvrtcDestroyProgram(byref(program))


def _text(program: c_void_p, name: str) -> bytes:
    size = c_size_t()
    _check(getattr(_library(), f"{name}Size")(program, byref(size)))
    content = ctypes.create_string_buffer(max(1, size.value))
    _check(getattr(_library(), name)(program, content))
    return content.raw[: size.value]


def _check(code: Any) -> None:  # noqa: ANN401 - a result of ctypes
    if code:
        raise InternalError(f"NVRTC failed: {_library().nvrtcGetErrorString(code).decode()}")
