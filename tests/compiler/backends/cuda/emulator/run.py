"""Compile CUDA C++ for this processor, and run a kernel's launches thread by thread."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from edgec.compiler.backends.cuda.lowering import DeviceKernel
from edgec.compiler.backends.cuda.prologue import device_text

_MACHINE = Path(__file__).with_name("machine.hpp")
_HELPERS = re.compile(r"^EDGEC_DEVICE void (?:ptx_cp|tvm_builtin)\w+\(.*$", re.M)
_KERNELS = re.compile(r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(.*\);$', re.M)
_MOST_SHARED = 1 << 18
_ZIG = [sys.executable, "-m", "ziglang", "cc", "-x", "c++", "-std=c++20", "-nostdlib++", "-O1", "-w"]
_CHECKS = ["-fsanitize=alignment", "-fsanitize-trap=alignment", "-shared", "-fPIC"]


def compile_cuda(text: str, folder: Path, arch: int = 890) -> Path:
    """A library of CUDA C++ for this processor, with a function `run_KERNEL(arguments, grid, block)` for each kernel.

    Args:
        text: as NVRTC would be given it.
        folder: for the library and its source.
        arch: the value of `__CUDA_ARCH__`.
    """
    body = text[text.index('extern "C" __global__') :]
    names = _KERNELS.findall(body)
    body = re.sub(r"__shared__ alignas\((\d+)\)", r"alignas(\1) static", body)
    body = re.sub(
        r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];", r"\1* \2 = (\1*)shared_memory;", body
    )
    runs = [
        f'extern "C" void run_{name}(void** v, const int* grid, const int* size) {{\n'
        f"  machine::run([](void** v) {{ call({name}, v); }}, v, grid, size);\n}}\n"
        f'extern "C" const int arguments_{name} = arguments({name});\n'
        for name in names
    ]
    source = [
        f"#define EMULATED_ARCH {arch}",
        f'#include "{_MACHINE}"',
        "#define EDGEC_HALF\n#define EDGEC_BFLOAT16",
        device_text("fragments.cuh"),
        device_text("attention.cuh"),
        *_HELPERS.findall(text),
        f"alignas(128) static char shared_memory[{_MOST_SHARED}];",
        body,
        _CALL,
        *runs,
    ]
    path, made = folder / "kernel.cpp", folder / "kernel.so"
    path.write_text("\n".join(source), "utf-8")
    done = subprocess.run([*_ZIG, *_CHECKS, "-o", made, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return made


def run_kernel(kernel: DeviceKernel, arrays: list[np.ndarray], folder: Path, arch: int = 890) -> None:
    """Run the launches of a kernel on arrays, which it changes in place.

    Args:
        kernel: lowered for CUDA.
        arrays: its parameters in order.
        folder: for files.
        arch: the value of `__CUDA_ARCH__`.
    """
    library = compile_cuda(kernel.source, folder, arch)
    buffers = [*arrays, *(np.zeros(size, "uint8") for size in kernel.scratch)]
    for number, array in enumerate(buffers):
        array.tofile(folder / f"{number}.bin")
    launches = [(one.name, one.arguments, one.grid, one.block) for one in kernel.launches]
    call = [sys.executable, "-c", _CHILD, str(library), repr(launches), str(len(buffers))]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the kernel failed: an address that the hardware refuses? {done}"
    for number, array in enumerate(arrays):
        array[...] = np.fromfile(folder / f"{number}.bin", array.dtype).reshape(array.shape)


# In a process of its own: an address that is not aligned ends it.
_CHILD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
buffers = []
for number in range(int(sys.argv[3])):
    content = open(f"{number}.bin", "rb").read()
    place = ctypes.create_string_buffer(len(content) + 256)
    start = -ctypes.addressof(place) % 256
    ctypes.memmove(ctypes.addressof(place) + start, content, len(content))
    buffers.append((place, ctypes.addressof(place) + start, len(content)))
for name, arguments, grid, block in eval(sys.argv[2]):
    values = (ctypes.c_void_p * len(arguments))(*(buffers[i][1] for i in arguments))
    getattr(library, f"run_{name}")(values, (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block))
for number, (_, address, size) in enumerate(buffers):
    open(f"{number}.bin", "wb").write(ctypes.string_at(address, size))
"""


_CALL = """
template <unsigned long... I> struct Numbers {};
template <unsigned long N, unsigned long... I> struct Make : Make<N - 1, N - 1, I...> {};
template <unsigned long... I> struct Make<0, I...> { typedef Numbers<I...> type; };
template <typename... T, unsigned long... I>
void spread(void (*f)(T*...), void** v, Numbers<I...>) { f((T*)v[I]...); }
template <typename... T>
constexpr int arguments(void (*)(T*...)) { return sizeof...(T); }
template <typename... T>
void call(void (*f)(T*...), void** v) { spread(f, v, typename Make<sizeof...(T)>::type()); }
"""
