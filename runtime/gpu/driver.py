"""NVIDIA's driver, called by its C interface; no CUDA toolkit and no other library is needed on a device.

Source: CUDA Driver API reference (functions with the suffix `_v2` are those that `cuda.h` maps to).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.gpu.api import Extents, GpuFault

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

LIBRARY = "libcuda.so.1"
OLDEST_DRIVER = (11, 4)  # graphs of kernels and copies, instantiated with flags
_OUT_OF_MEMORY, _NO_DEVICE, _STUB, _INSUFFICIENT = 2, 100, 34, 35
_BAD_IMAGE, _NO_BINARY, _BAD_PTX, _PTX_VERSION, _NO_JIT = 200, 209, 218, 222, 221
# After these every call in the context fails: the device has to be set up anew.
_STICKY = {700, 702, 710, 714, 715, 716, 717, 718, 719, 721}
_TIMEOUT = 702
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_MULTIPROCESSORS, _SHARED_OPTIN = 16, 97
_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
_NON_BLOCKING, _RELAXED = 1, 2  # CUstream_flags, CUstreamCaptureMode (relaxed: other threads may allocate)
_STATIC_SHARED = 48 << 10  # what a kernel may use without being allowed more

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
                f"no NVIDIA driver is installed here ({path} cannot be loaded): install the driver, or compile the "
                "model for a target with a CPU (`edgec targets detect`)"
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
                raise IncompatibleDevice(_too_old(f"it has no {name}")) from error
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
            return IncompatibleDevice(f"the NVIDIA driver finds no GPU here ({said})")
        if code in (_INSUFFICIENT, _PTX_VERSION):
            return IncompatibleDevice(_too_old(said))
        if code in (_BAD_IMAGE, _NO_BINARY, _BAD_PTX, _NO_JIT):
            return IncompatibleDevice(
                f"the NVIDIA driver refuses the artifact's code ({said}): compile it for a target of this GPU"
            )
        if code == _OUT_OF_MEMORY:
            return IncompatibleDevice(f"the GPU's memory does not suffice ({name}: {said})")
        if code == _TIMEOUT:
            return GpuFault(f"a kernel ran too long and the driver ended it ({said})", lost=True)
        return GpuFault(f"the GPU failed: {said} ({name}, error {code})", lost=code in _STICKY)


def _too_old(said: str) -> str:
    least = ".".join(map(str, OLDEST_DRIVER))
    return f"the NVIDIA driver here is too old ({said}): install one for CUDA {least} or later"


class CudaStream:
    """A stream of a device: an `edgec.runtime.gpu.api.Stream`."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver, self._call = driver, driver.library.call
        self._stream = c_void_p()
        self._events: list[c_void_p] = []
        self._call("cuStreamCreate", byref(self._stream), _NON_BLOCKING)
        self._closed = False

    def copy_in(self, address: int, array: Array) -> None:
        """Queue a copy to the device."""
        if array.nbytes:
            self._driver.use()
            self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self._stream)

    def copy_out(self, array: Array, address: int) -> None:
        """Queue a copy from the device."""
        if array.nbytes:
            self._driver.use()
            self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy on the device."""
        if size:
            self._driver.use()
            self._call("cuMemcpyDtoDAsync_v2", target, source, size, self._stream)

    def launch(
        self, function: c_void_p, grid: Extents, block: Extents, shared_bytes: int, addresses: Sequence[int]
    ) -> None:
        """Queue a kernel."""
        self._driver.use()
        values = (c_uint64 * len(addresses))(*addresses)
        size = ctypes.sizeof(c_uint64)
        begin = ctypes.addressof(values)
        pointers = (c_void_p * len(addresses))(*(begin + size * i for i in range(len(addresses))))
        self._call(
            "cuLaunchKernel", function, *grid, *block, shared_bytes, self._stream, pointers, None
        )  # fmt: skip

    def record(self, work: Callable[[], None]) -> CudaGraph:
        """Record a graph by capturing this stream."""
        self._driver.use()
        self._call("cuStreamBeginCapture_v2", self._stream, _RELAXED)
        graph = c_void_p()
        try:
            work()
        except BaseException:
            # The capture has to end either way; its own error would hide the first.
            self._driver.library.function("cuStreamEndCapture")(self._stream, byref(graph))
            raise
        self._call("cuStreamEndCapture", self._stream, byref(graph))
        return CudaGraph(self._driver, self._stream, graph)

    def mark(self) -> c_void_p:
        """Record an event."""
        self._driver.use()
        event = c_void_p()
        self._call("cuEventCreate", byref(event), 0)
        self._events.append(event)
        self._call("cuEventRecord", event, self._stream)
        return event

    def seconds_between(self, first: c_void_p, last: c_void_p) -> float:
        """Time between two events that were passed."""
        elapsed = c_float()
        self._call("cuEventElapsedTime", byref(elapsed), first, last)
        return elapsed.value / 1e3

    def synchronise(self) -> None:
        """Wait for everything that was queued."""
        self._driver.use()
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Release the stream and its events."""
        if self._closed:
            return
        self._closed = True
        self._driver.use()
        for event in self._events:
            self._call("cuEventDestroy_v2", event)
        self._call("cuStreamDestroy_v2", self._stream)


class CudaGraph:
    """A recorded run: an `edgec.runtime.gpu.api.Replay`."""

    def __init__(self, driver: CudaDriver, stream: c_void_p, graph: c_void_p) -> None:
        self._driver, self._stream = driver, stream
        self._executable = c_void_p()
        call = driver.library.call
        try:
            call("cuGraphInstantiateWithFlags", byref(self._executable), graph, 0)
        finally:
            call("cuGraphDestroy", graph)

    def start(self) -> None:
        """Start the graph on its stream."""
        self._driver.use()
        self._driver.library.call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Release the graph."""
        if self._executable:
            self._driver.use()
            self._driver.library.call("cuGraphExecDestroy", self._executable)
            self._executable = c_void_p()


class CudaDriver:
    """One GPU, through the primary context that other libraries of the process share."""

    def __init__(self, library: DriverLibrary, ordinal: int = 0) -> None:
        self.library = library
        version = c_int()
        library.call("cuDriverGetVersion", byref(version))
        found = version.value // 1000, version.value % 1000 // 10
        if found < OLDEST_DRIVER:
            raise IncompatibleDevice(_too_old(f"it is for CUDA {found[0]}.{found[1]}"))
        library.call("cuInit", 0)
        count = c_int()
        library.call("cuDeviceGetCount", byref(count))
        if ordinal >= count.value:
            raise IncompatibleDevice(
                f"there is no GPU {ordinal}: the NVIDIA driver finds {count.value or 'none'} here"
            )
        device = c_int()
        library.call("cuDeviceGet", byref(device), ordinal)
        self._device = device.value
        self._context = c_void_p()
        library.call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        self.use()

    def use(self) -> None:
        """Make the context current on the calling thread."""
        self.library.call("cuCtxSetCurrent", self._context)

    def attribute(self, number: int) -> int:
        """A `CUdevice_attribute`."""
        value = c_int()
        self.library.call("cuDeviceGetAttribute", byref(value), number, self._device)
        return value.value

    @property
    def name(self) -> str:
        """The product's name."""
        text = ctypes.create_string_buffer(256)
        self.library.call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode("utf-8", "replace")

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability."""
        return self.attribute(_CAPABILITY_MAJOR), self.attribute(_CAPABILITY_MINOR)

    @property
    def multiprocessors(self) -> int:
        """How many multiprocessors there are."""
        return self.attribute(_MULTIPROCESSORS)

    @property
    def memory_bytes(self) -> int:
        """All memory of the device."""
        size = c_size_t()
        self.library.call("cuDeviceTotalMem_v2", byref(size), self._device)
        return size.value

    def allocate(self, size: int) -> int:
        """Memory of the device."""
        self.use()
        address = c_uint64()
        try:
            self.library.call("cuMemAlloc_v2", byref(address), size)
        except IncompatibleDevice as error:
            free, total = c_size_t(), c_size_t()
            self.library.call("cuMemGetInfo_v2", byref(free), byref(total))
            raise IncompatibleDevice(
                f"{self.name} has {free.value / 1e6:.0f} of {total.value / 1e6:.0f} MB free, and the model needs "
                f"{size / 1e6:.0f} MB more: end what else uses the GPU"
            ) from error
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self.use()
        self.library.call("cuMemFree_v2", address)

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """An array in page-locked memory; the memory goes with the last view of it."""
        self.use()
        made = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * made.itemsize
        pointer = c_void_p()
        self.library.call("cuMemHostAlloc", byref(pointer), max(1, size), 0)
        owner = _PinnedMemory(self, pointer.value or 0, size)
        return np.asarray(owner).view(made).reshape(shape)

    def load(self, binary: bytes) -> c_void_p:
        """Load a cubin or PTX."""
        self.use()
        module = c_void_p()
        self.library.call("cuModuleLoadData", byref(module), binary + b"\0")
        return module

    def unload(self, module: c_void_p) -> None:
        """Release a module."""
        self.use()
        self.library.call("cuModuleUnload", module)

    def function(self, module: c_void_p, name: str, shared_bytes: int) -> c_void_p:
        """A kernel of a module."""
        self.use()
        function = c_void_p()
        self.library.call("cuModuleGetFunction", byref(function), module, name.encode())
        if shared_bytes > _STATIC_SHARED:
            most = self.attribute(_SHARED_OPTIN)
            if shared_bytes > most:
                raise IncompatibleDevice(
                    f"the kernel {name} needs {shared_bytes} bytes of shared memory, {self.name} has {most}: "
                    "compile the model for a target of this GPU"
                )
            self.library.call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared_bytes)
        return function

    def stream(self) -> CudaStream:
        """A new stream."""
        self.use()
        return CudaStream(self)

    def wait_for(self, stream: int | None) -> None:
        """Wait for a queue of others; 1 and 2 stand for the driver's default queues, as in its own interface."""
        self.use()
        if stream is None:
            self.library.call("cuCtxSynchronize")
        else:
            self.library.call("cuStreamSynchronize", c_void_p(stream))

    def reset(self) -> None:
        """Destroy the context and retain a new one; other users of the GPU in this process lose theirs, too."""
        self.library.call("cuDevicePrimaryCtxReset_v2", self._device)
        self.library.call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        self.use()


class _PinnedMemory:
    """Page-locked memory of the host, with numpy's array interface (version 3)."""

    def __init__(self, driver: CudaDriver, address: int, size: int) -> None:
        self._driver, self._address = driver, address
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, False),
        }

    def __del__(self) -> None:
        # Its context may be gone (a reset, the process' end): then the memory is, too.
        free = self._driver.library.function("cuMemFreeHost")
        self._driver.library.function("cuCtxSetCurrent")(self._driver._context)
        free(self._address)
