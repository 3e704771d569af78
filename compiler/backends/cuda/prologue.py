"""What stands before the kernels in the text that NVRTC compiles."""

from __future__ import annotations

import re
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
_HELPER = re.compile(
    r"^__forceinline__ __device__ void ((?:ptx_cp_async_legacy|tvm_builtin_ptx_cp_async)_\w+)\(.*?^\}\n",
    re.M | re.S,
)
_COPY = re.compile(r"ptx_cp_async_legacy_(pred_)?c[ag]_(\d+)_(\d+)_(\d+)")
_WAIT = re.compile(r"tvm_builtin_ptx_cp_async_wait_group_async_wait_group_(\d+)")


def with_own_prologue(text: str) -> str:
    """CUDA C++ of TVM with our fragments of tensor cores and asynchronous copies, which know all architectures.

    The includes of the C++ core library stay only where more than its names of integers is used.
    """
    helpers = _HELPER.findall(text)
    text = _HELPER.sub("", text)
    tensor_cores = _TENSOR_CORES in text
    attention = "edgec_scores_" in text
    parts = ["instructions.cuh"] if tensor_cores or attention or helpers else []
    parts += ["fragments.cuh"] if tensor_cores else []
    parts += ["copies.cuh"] if attention or helpers else []
    parts += ["attention.cuh"] if attention else []
    known = "".join(
        f"#define {macro}\n" for header, macro in _TYPES.items() if f"#include <{header}>" in text
    )
    own = "".join([known, *map(device_text, parts), *map(_helper, helpers)]) if parts else ""
    return _with_short_includes(_before_kernels(text.replace(_TENSOR_CORES, ""), own))


@cache
def device_text(name: str) -> str:
    """A file of the folder `device`."""
    return (files("edgec.compiler.backends.cuda") / "device" / name).read_text("utf-8")


def _helper(name: str) -> str:
    """Our definition of a function that TVM's code generator calls; offsets count elements of the sizes in its name."""
    if copy := _COPY.fullmatch(name):
        where, bytes_, target, source = copy.groups()
        parameter, wanted = (", int wanted", "wanted") if where else ("", "true")
        places = f"(char*)to + {target} * to_at, (char*)from + {source} * from_at"
        return (
            f"EDGEC_DEVICE void {name}(void* to, int to_at, void* from, int from_at{parameter}) "
            f"{{ edgec_copy<{bytes_}>({places}, {wanted}); }}\n"
        )
    if wait := _WAIT.fullmatch(name):
        return f"EDGEC_DEVICE void {name}() {{ edgec_await_groups<{wait.group(1)}>(); }}\n"
    return f"EDGEC_DEVICE void {name}() {{ edgec_close_group(); }}\n"


def _before_kernels(text: str, own: str) -> str:
    at = text.find('extern "C"')
    return text[:at] + own + text[at:]


def _with_short_includes(text: str) -> str:
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < 0 or "std::" in text[end:]:
        return text
    return text[:begin] + _INTEGERS + text[end + len(_END) :]
