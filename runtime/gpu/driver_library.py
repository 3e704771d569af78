"""The functions of NVIDIA's driver, and its errors as exceptions.

Source: CUDA Driver API reference (functions with the suffix `_v2` are those that `cuda.h` maps to).
"""

from __future__ import annotations

import ctypes
import re
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.gpu.fault import GpuFault

_HEAD = 1 << 12  # of PTX, in which its version stands
LIBRARY = "libcuda.so.1"
OLDEST_DRIVER = (11, 4)  # graphs of kernels and copies, instantiated with flags
INVALID = 1
_OUT_OF_MEMORY, _NOT_INITIALISED, _STUB, _INSUFFICIENT, _NO_DEVICE = 2, 3, 34, 35, 100
_BAD_IMAGE, _NO_BINARY, _BAD_PTX, _PTX_VERSION, _NO_JIT = 200, 209, 218, 222, 221
# After these every call in the context fails: the device has to be set up anew.
_STICKY = {700, 702, 710, 714, 715, 716, 717, 718, 719, 721}
_TIMEOUT = 702
_NEXT = "This call's results are lost, and the next call sets the GPU up anew."

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (c_void_p,),
    "cuGetErrorString": (c_int, c_void_p),
    "cuGetErrorName": (c_int, c_void_p),
    "cuDeviceGetCount": (c_void_p,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cuDeviceTotalMem_v2": (c_void_p, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuDevicePrimaryCtxReset_v2": (c_int,),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (c_void_p, c_void_p),
    "cuMemAlloc_v2": (c_void_p, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (c_void_p, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuModuleLoadData": (c_void_p, c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (c_void_p, c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuStreamCreate": (c_void_p, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuCtxSynchronize": (),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, c_void_p),
    "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, c_uint64),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, c_void_p, c_void_p),
    "cuEventCreate": (c_void_p, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuPointerGetAttribute": (c_void_p, c_int, c_uint64),
    "cuEventElapsedTime": (c_void_p, c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
}


class DriverLibrary:
    """The driver's functions, with their errors as exceptions."""

    def __init__(self, path: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise IncompatibleDevice(
                f"no NVIDIA driver is installed here ({path} cannot be loaded).\n"
                "Install the driver, or compile the model for this machine's processor (`edgec targets detect`)."
            ) from error
        self._functions: dict[str, Any] = {}

    def function(self, name: str) -> Any:  # noqa: ANN401 - a function of ctypes
        """A function of the driver, declared.

        Raises:
            IncompatibleDevice: the driver is too old to have it.
        """
        found = self._functions.get(name)
        if found is None:
            try:
                found = getattr(self._library, name)
            except AttributeError as error:
                raise IncompatibleDevice(too_old(f"it has no {name}")) from error
            found.argtypes, found.restype = _SIGNATURES[name], c_int
            self._functions[name] = found
        return found

    def call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - ctypes' own
        """Call a function.

        Raises:
            IncompatibleDevice: there is no device, the driver is too old, or memory is short.
            GpuFault: earlier work failed.
        """
        code = self.function(name)(*arguments)
        if code:
            raise self._error(name, code)

    def _error(self, name: str, code: int) -> Exception:
        text = c_char_p()
        self.function("cuGetErrorString")(code, byref(text))
        said = (text.value or b"unknown error").decode("utf-8", "replace")
        if code in (_NO_DEVICE, _STUB):
            return IncompatibleDevice(
                f"the NVIDIA driver finds no GPU here ({said}).\n"
                "See what `nvidia-smi` lists: CUDA_VISIBLE_DEVICES hides GPUs, and containers see those of `--gpus`."
            )
        if code in (_INSUFFICIENT, _PTX_VERSION):
            return IncompatibleDevice(too_old(said))
        if code in (_BAD_IMAGE, _NO_BINARY, _BAD_PTX, _NO_JIT):
            made = c_int()
            self.function("cuDriverGetVersion")(byref(made))
            return IncompatibleDevice(
                f"the NVIDIA driver, which is for CUDA {dotted(made.value)}, refuses the artifact's code ({said}).\n"
                "Compile it for a target of this GPU, or install a driver as new as the NVRTC that made the code."
            )
        if code == _OUT_OF_MEMORY:
            return IncompatibleDevice(
                f"the GPU's memory does not suffice ({name}: {said}).\n"
                "Close models that are not in use, or end what else uses the GPU."
            )
        if code == _NOT_INITIALISED:
            return IncompatibleDevice(
                "a GPU that a process has opened cannot be used in its forks: load the model after the fork, or start "
                'processes by multiprocessing.set_start_method("spawn")'
            )
        if code == _TIMEOUT:
            return GpuFault(
                f"a kernel ran too long and the driver ended it ({said}).\n{_NEXT} A GPU that drives a screen ends "
                "kernels after some seconds: use another, or a smaller model.",
                lost=True,
            )
        lost = code in _STICKY
        return GpuFault(
            f"the GPU failed: {said} ({name}, error {code})." + (f"\n{_NEXT}" if lost else ""), lost=lost
        )


def dotted(version: int) -> str:
    """A version as the driver tells it: 12040 → 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"


def too_old(said: str) -> str:
    """The message for a driver that lacks something."""
    least = ".".join(map(str, OLDEST_DRIVER))
    return f"the NVIDIA driver here is too old ({said}).\nInstall one for CUDA {least} or later."


# The PTX ISA of each CUDA's compiler (PTX ISA, "Release Notes"): minor versions run side by side but for these.
_LATER = {(8, 6): (12, 7), (8, 7): (12, 8), (8, 8): (12, 9)}


def needed_driver(ptx: bytes) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The ISA of PTX and the CUDA whose driver reads it; None for what is no PTX, and for versions of before.

    Args:
        ptx: its text.
    """
    found = re.search(rb"^\.version (\d+)\.(\d+)", ptx[:_HEAD], re.M)
    if found is None:
        return None
    isa = int(found[1]), int(found[2])
    if isa < (7, 4):
        return None
    return isa, _LATER.get(isa, (isa[0] + 4, isa[1]))
