"""One NVIDIA GPU through its driver; no CUDA toolkit and no other library is needed on a device."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.gpu.driver_library import (
    INVALID,
    LIBRARY,
    OLDEST_DRIVER,
    DriverLibrary,
    dotted,
    needed_driver,
    too_old,
)
from edgec.runtime.gpu.fault import GpuFault
from edgec.runtime.gpu.generations import Generations
from edgec.runtime.gpu.limits import Limits, limits_of
from edgec.runtime.gpu.streams import CudaStream

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# CUdevice_attribute
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_MULTIPROCESSORS, _INTEGRATED, _SHARED_OPTIN = 16, 18, 97
_CLOCK, _MEMORY_CLOCK, _BUS_BITS = 13, 36, 37  # kHz, kHz, bits
_POINTER_ORDINAL = 9  # CUpointer_attribute
_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
_STATIC_SHARED = 48 << 10  # what a kernel may use without being allowed more


class CudaDriver:
    """One GPU, through the primary context that other libraries of the process share."""

    def __init__(self, library: DriverLibrary, ordinal: int = 0) -> None:
        self.library = library
        version = c_int()
        library.call("cuDriverGetVersion", byref(version))
        self.version = found = version.value // 1000, version.value % 1000 // 10
        if found < OLDEST_DRIVER:
            raise IncompatibleDevice(too_old(f"it is for CUDA {dotted(version.value)}"))
        library.call("cuInit", 0)
        count = c_int()
        library.call("cuDeviceGetCount", byref(count))
        if ordinal >= count.value:
            raise IncompatibleDevice(
                f"there is no GPU {ordinal}: the NVIDIA driver finds {count.value or 'none'} here"
            )
        device = c_int()
        library.call("cuDeviceGet", byref(device), ordinal)
        self._device, self.ordinal = device.value, ordinal
        self._held: dict[int, int] = {}
        self.generations = Generations(self.reset)
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
    def limits(self) -> Limits | None:
        """By its clocks."""
        return limits_of(
            self.name,
            self.capability,
            self.multiprocessors,
            *map(self.attribute, (_CLOCK, _MEMORY_CLOCK, _BUS_BITS)),
        )

    @property
    def memory_bytes(self) -> int:
        """All memory of the device."""
        size = c_size_t()
        self.library.call("cuDeviceTotalMem_v2", byref(size), self._device)
        return size.value

    def check_memory(self, size: int) -> None:
        """Compare with the driver's figure, which on a GPU in the processor leaves out what the system could free."""
        self.use()
        free, _ = self._memory()
        if size > free and not self.attribute(_INTEGRATED):
            raise IncompatibleDevice(self._short_of(size))

    def _memory(self) -> tuple[int, int]:
        free, total = c_size_t(), c_size_t()
        self.library.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def _short_of(self, size: int) -> str:
        free, total = self._memory()
        held = sum(self._held.values())
        ours = f" (models in this process hold {held / 1e6:.0f} MB)" if held else ""
        return (
            f"{self.name} has {free / 1e6:.0f} of {total / 1e6:.0f} MB free{ours}, and the model needs "
            f"{size / 1e6:.0f} MB more.\nClose models that are not in use, or end what else uses the GPU."
        )

    def ordinal_of(self, address: int) -> int | None:
        """By the driver's table of addresses."""
        self.use()
        found = c_int()
        code = self.library.function("cuPointerGetAttribute")(byref(found), _POINTER_ORDINAL, address)
        return None if code == INVALID else found.value

    def allocate(self, size: int) -> int:
        """Memory of the device."""
        self.use()
        address = c_uint64()
        try:
            self.library.call("cuMemAlloc_v2", byref(address), size)
        except IncompatibleDevice as error:
            raise IncompatibleDevice(self._short_of(size)) from error
        self._held[address.value] = size
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self.use()
        self._held.pop(address, None)
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
        needed = needed_driver(binary)
        if needed is not None and needed[1] > self.version:
            (isa, cuda), ours = needed, self.version
            raise IncompatibleDevice(
                f"the artifact has no machine code for {self.name}, and its PTX {isa[0]}.{isa[1]} needs a driver "
                f"for CUDA {cuda[0]}.{cuda[1]}; the driver here is for CUDA {ours[0]}.{ours[1]}.\n"
                "Install a later driver, or compile the model for a target of this GPU (`edgec targets list`)."
            )
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

    def wait_for_all(self) -> None:
        """Wait for the context."""
        self.use()
        self.library.call("cuCtxSynchronize")

    def reset(self) -> None:
        """Destroy the context and retain a new one; other users of the GPU in this process lose theirs, too.

        Raises:
            GpuFault: the driver accepts no work of this process any more.
        """
        self._held.clear()
        try:
            self.library.call("cuDevicePrimaryCtxReset_v2", self._device)
            self.library.call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
            self.use()
            self.library.call("cuCtxSynchronize")
        except (GpuFault, IncompatibleDevice) as error:
            said = str(error).splitlines()[0].rstrip(".")
            raise GpuFault(
                f"after a fault of a kernel the driver accepts no further work of this process: {said}.\n"
                "Start the process anew: others that use the GPU are not affected.",
                lost=True,
                ends_process=True,
            ) from error


_shared: dict[tuple[str, int], CudaDriver] = {}
_opening = threading.Lock()


def shared_driver(path: str = LIBRARY, ordinal: int = 0) -> CudaDriver:
    """The process' one `CudaDriver` of a GPU: models share its context, and a fault in one of them is dealt with once.

    Raises:
        IncompatibleDevice: there is none, or its driver is too old.
    """
    with _opening:
        if (path, ordinal) not in _shared:
            _shared[path, ordinal] = CudaDriver(DriverLibrary(path), ordinal)
        return _shared[path, ordinal]


class _PinnedMemory:
    """Page-locked memory of the host, with numpy's array interface (version 3)."""

    def __init__(self, driver: CudaDriver, address: int, size: int) -> None:
        self._driver, self._address, self._generation = driver, address, driver.generations.number
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, False),
        }

    def __del__(self) -> None:
        if not self._driver.generations.has(self._generation):
            return  # it went with its context
        # The driver may be gone at the process' end: then the memory is, too.
        free = self._driver.library.function("cuMemFreeHost")
        self._driver.library.function("cuCtxSetCurrent")(self._driver._context)
        free(self._address)
