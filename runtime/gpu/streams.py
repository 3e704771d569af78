"""Streams of CUDA, and the graphs that are recorded on them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref, c_float, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, Protocol

from edgec.runtime.gpu.api import Extents, Stream
from edgec.runtime.gpu.driver_library import DriverLibrary

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_NON_BLOCKING, _RELAXED = 1, 2  # CUstream_flags, CUstreamCaptureMode (relaxed: other threads may allocate)
_UNTIMED = 2  # CUevent_flags


class Opened(Protocol):
    """A GPU whose context is open."""

    library: DriverLibrary

    def use(self) -> None:
        """Make the context current on the calling thread."""


class CudaStream:
    """A stream of a device: an `edgec.runtime.gpu.api.Stream`."""

    def __init__(self, driver: Opened) -> None:
        self._driver, self._call = driver, driver.library.call
        self._stream = c_void_p()
        self._events: list[c_void_p] = []
        self._unused: list[c_void_p] = []
        self._call("cuStreamCreate", byref(self._stream), _NON_BLOCKING)
        self._closed = False

    @property
    def handle(self) -> int:
        """The `CUstream`."""
        return self._stream.value or 0

    def follow(self, handle: int) -> None:
        """Wait for an event on the other stream; the driver keeps it until it is passed."""
        self._driver.use()
        event = c_void_p()
        self._call("cuEventCreate", byref(event), _UNTIMED)
        try:
            self._call("cuEventRecord", event, c_void_p(handle))
            self._call("cuStreamWaitEvent", self._stream, event, 0)
        finally:
            self._call("cuEventDestroy_v2", event)

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
        return CudaGraph(self._driver, graph)

    def mark(self) -> c_void_p:
        """Record an event, one whose time was read if there is one."""
        self._driver.use()
        if self._unused:
            event = self._unused.pop()
        else:
            event = c_void_p()
            self._call("cuEventCreate", byref(event), 0)
            self._events.append(event)
        self._call("cuEventRecord", event, self._stream)
        return event

    def seconds_between(self, first: c_void_p, last: c_void_p) -> float:
        """Time between two events that were passed, which are free for later marks."""
        elapsed = c_float()
        self._call("cuEventElapsedTime", byref(elapsed), first, last)
        self._unused += [first, last]
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

    def __init__(self, driver: Opened, graph: c_void_p) -> None:
        self._driver = driver
        self._executable = c_void_p()
        call = driver.library.call
        try:
            call("cuGraphInstantiateWithFlags", byref(self._executable), graph, 0)
        finally:
            call("cuGraphDestroy", graph)

    def start(self, stream: Stream) -> None:
        """Start the graph on a stream."""
        self._driver.use()
        self._driver.library.call("cuGraphLaunch", self._executable, c_void_p(stream.handle))

    def close(self) -> None:
        """Release the graph."""
        if self._executable:
            self._driver.use()
            self._driver.library.call("cuGraphExecDestroy", self._executable)
            self._executable = c_void_p()
