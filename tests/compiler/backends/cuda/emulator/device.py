"""The emulated GPU as a device of the runtime: whole artifacts run on this processor by their CUDA C++.

An artifact's "machine code" is a library of the emulator. Nothing here imports the compiler: a process that verifies an
artifact has none.
"""

from __future__ import annotations

import ctypes
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.runtime.gpu.api import Extents
from edgec.runtime.gpu.device import GpuDevice
from edgec.targets.device_kinds import DEVICE_KINDS
from tests.compiler.backends.host_memory import HostMemory, Recorded

Kernel = Any  # a function of a library


class EmulatedStream:
    def __init__(self, api: EmulatedApi) -> None:
        self.api = api

    handle = 2

    def follow(self, handle: int) -> None: ...

    def copy_in(self, address: int, array: np.ndarray) -> None:
        self.api.view(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

    def copy_out(self, array: np.ndarray, address: int) -> None:
        array.reshape(-1).view(np.uint8)[:] = self.api.view(address, array.nbytes)

    def copy(self, target: int, source: int, size: int) -> None:
        self.api.view(target, size)[:] = self.api.view(source, size)

    def launch(
        self, function: Kernel, grid: Extents, block: Extents, shared_bytes: int, addresses: Sequence[int]
    ) -> None:
        values = (ctypes.c_void_p * len(addresses))(*addresses)
        function(values, (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block))

    def record(self, work: Callable[[], None]) -> Recorded:
        return Recorded(work)

    def mark(self) -> float:
        return time.perf_counter()

    def seconds_between(self, first: float, last: float) -> float:
        return last - first

    def synchronise(self) -> None:
        self.api.waits += 1

    def close(self) -> None: ...


class EmulatedApi(HostMemory):
    """A `GpuApi` whose memory is numpy's."""

    name = "emulated"
    capability = (8, 9)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loaded = self.waits = 0

    def load(self, binary: bytes) -> ctypes.CDLL:
        self.loaded += 1
        path = Path(self.folder.name) / f"{self.loaded}.so"
        path.write_bytes(binary)
        return ctypes.CDLL(str(path))

    def unload(self, module: ctypes.CDLL) -> None: ...

    def function(self, module: ctypes.CDLL, name: str, shared_bytes: int) -> Kernel:
        return getattr(module, f"run_{name}")

    def stream(self) -> EmulatedStream:
        return EmulatedStream(self)


class EmulatedDevice(GpuDevice):
    def open(self) -> EmulatedApi:
        return EmulatedApi()


if __name__ == "__main__":  # as Python, in which the device is registered: -m MODULE ARGUMENTS…
    DEVICE_KINDS["emulated"] = {
        "backend": "",
        "device": "tests.compiler.backends.cuda.emulator.device:EmulatedDevice",
    }
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
