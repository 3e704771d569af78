"""An OpenCL device as a GPU of the runtime: programs of GPU artifacts run on this machine's processor (by PoCL).

Addresses are those of shared virtual memory, so that a program's arithmetic on addresses holds. Nothing here imports
the compiler: a process that verifies an artifact has none.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyopencl as cl

from edgec.runtime.gpu.api import Extents
from edgec.runtime.gpu.device import GpuDevice
from edgec.targets.device_kinds import DEVICE_KINDS
from tests.compiler.backends.host_memory import HostMemory, Recorded


def find_device() -> cl.Device:
    for platform in cl.get_platforms():
        for device in platform.get_devices():
            return device
    raise RuntimeError("no OpenCL device")


class OpenClStream:
    def __init__(self, api: OpenClApi) -> None:
        self.api = api
        self.queue = cl.CommandQueue(api.context)

    handle = 2

    def follow(self, handle: int) -> None: ...

    def copy_in(self, address: int, array: np.ndarray) -> None:
        self.queue.finish()
        self.api.view(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

    def copy_out(self, array: np.ndarray, address: int) -> None:
        self.queue.finish()
        array.reshape(-1).view(np.uint8)[:] = self.api.view(address, array.nbytes)

    def copy(self, target: int, source: int, size: int) -> None:
        self.queue.finish()
        self.api.view(target, size)[:] = self.api.view(source, size)

    def launch(
        self, function: Any, grid: Extents, block: Extents, shared_bytes: int, addresses: Sequence[int]
    ) -> None:
        assert shared_bytes == 0, "OpenCL kernels declare their shared memory"
        for number, address in enumerate(addresses):
            function.set_arg(number, cl.SVM(self.api.view(address)))
        total = [g * b for g, b in zip(grid, block, strict=True)]
        cl.enqueue_nd_range_kernel(self.queue, function, total, list(block))

    def record(self, work: Callable[[], None]) -> Recorded:
        return Recorded(work)

    def mark(self) -> float:
        self.queue.finish()
        return time.perf_counter()

    def seconds_between(self, first: float, last: float) -> float:
        return last - first

    def synchronise(self) -> None:
        self.queue.finish()

    def close(self) -> None:
        self.queue.finish()


class OpenClApi(HostMemory):
    """A `GpuApi` whose memory is numpy's."""

    name = "OpenCL"
    capability = (0, 0)

    def __init__(self) -> None:
        super().__init__()
        self.context = cl.Context([find_device()])

    def load(self, binary: bytes) -> cl.Program:
        return cl.Program(self.context, binary.decode()).build(cache_dir=False)

    def unload(self, module: cl.Program) -> None: ...

    def function(self, module: cl.Program, name: str, shared_bytes: int) -> cl.Kernel:
        return cl.Kernel(module, name)

    def stream(self) -> OpenClStream:
        return OpenClStream(self)


class OpenClDevice(GpuDevice):
    def open(self) -> OpenClApi:
        return OpenClApi()


if __name__ == "__main__":  # as Python, in which the device is registered: -m MODULE ARGUMENTS…
    DEVICE_KINDS["opencl"] = {"backend": "", "device": "tests.compiler.backends.opencl.device:OpenClDevice"}
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
