"""What stands before the kernels in the text that NVRTC compiles."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

# TVM's includes take NVRTC two seconds a kernel, for names of integers.
_INTEGERS = """\
typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t; typedef long long int64_t; typedef unsigned long long uint64_t;
#define __asm__ asm
#define __volatile__ volatile
"""
_BEGIN = "#ifdef __CUDACC_RTC__"
_END = "#else\n  #include <cstdint>\n  #include <type_traits>\n  #include <cuda.h>\n#endif\n"
_TENSOR_CORES = "#include <mma.h>\n"
_TYPES = {"cuda_fp16.h": "EDGEC_HALF", "cuda_bf16.h": "EDGEC_BFLOAT16"}


def with_own_prologue(text: str) -> str:
    """CUDA C++ of TVM with our fragments of tensor cores, and without includes of the C++ core library.

    The includes stay where more than names of integers is used.
    """
    return _with_short_includes(_with_fragments(text))


def _with_fragments(text: str) -> str:
    if _TENSOR_CORES not in text:
        return text
    known = "".join(
        f"#define {macro}\n" for header, macro in _TYPES.items() if f"#include <{header}>" in text
    )
    return text.replace(_TENSOR_CORES, known + fragments())


@cache
def fragments() -> str:
    """The text of `device/instructions.cuh` and `device/fragments.cuh`."""
    folder = files("edgec.compiler.backends.cuda") / "device"
    return "".join((folder / name).read_text("utf-8") for name in ("instructions.cuh", "fragments.cuh"))


def _with_short_includes(text: str) -> str:
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < 0 or "std::" in text[end:] or "#include <cuda" in text[end + len(_END) :]:
        return text
    return text[:begin] + _INTEGERS + text[end + len(_END) :]
