"""The thread pool of compiled models: a library that each artifact brings, loaded once for the process.

A kernel that runs on several threads calls a launch function through a variable of its library. TVM's runtime points it
to its own pool, whose threads yield while they wait: on a core that another process wants, a yield costs a slice of
several milliseconds. `attach` points it to this pool, which waits in a loop for a short time and then sleeps.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgec.runtime.errors import ArtifactError, IncompatibleDevice
from edgec.runtime.versions import POOL

POOL_LIBRARY = "libedgec_pool.so"
_LAUNCH = "__TVMBackendParallelLaunch"
_KERNEL = "__tvm_ffi_"


class _Library:
    def __init__(self, library: ctypes.CDLL) -> None:
        self.launch = ctypes.cast(library.edgec_pool_launch, ctypes.c_void_p).value or 0
        self.new = library.edgec_pool_new
        self.new.restype, self.new.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        # runs without TVM's virtual machine (`edgec.runtime.execution.straight`); an older artifact's pool has none
        self.run: Any = getattr(library, "edgec_straight_run", None)
        self.speeds: Any = getattr(library, "edgec_pool_speeds", None)  # an older artifact's pool has none
        if self.speeds is not None:
            self.speeds.restype, self.speeds.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p)
        self.use, self.free = library.edgec_pool_use, library.edgec_pool_free
        for function in (self.use, self.free):
            function.restype, function.argtypes = None, (ctypes.c_void_p,)


class _State:
    """What this process has loaded.

    Attributes:
        library: the pool's code; None until an artifact brings it.
        foreign: whether code was loaded that runs on TVM's pool.
        stage: changes with the others.
    """

    def __init__(self) -> None:
        self.library: _Library | None = None
        self.foreign = False
        self.stage = 0


state = _State()


def load(bundled: Callable[[str], bytes | None]) -> None:
    """Load the pool that an artifact brings, unless the process has one.

    Args:
        bundled: returns the content of a library that the artifact bundles, or None.

    Raises:
        IncompatibleDevice: the dynamic linker refuses it.
    """
    if state.library is not None or (content := bundled(POOL_LIBRARY)) is None:
        return
    from edgec.runtime.execution.shared_libraries import code_in_memory

    with code_in_memory(content, POOL_LIBRARY) as path:
        try:
            library = ctypes.CDLL(str(path))
            version = library.edgec_pool_version()
        except (OSError, AttributeError) as error:
            raise IncompatibleDevice(f"{POOL_LIBRARY} cannot be loaded on this machine: {error}") from error
    if version == POOL:
        state.library = _Library(library)
        state.stage += 1


def attach(path: Path, kernels: dict[str, int]) -> None:
    """Let the kernels of a library that has just been loaded from `path` run on the pool, if there is one.

    Args:
        kernels: names of kernels, whose addresses are filled in where there is a pool.

    Raises:
        ArtifactError: the library lacks one of them.
    """
    if state.library is None:
        state.foreign, state.stage = True, state.stage + 1
        return
    code = ctypes.CDLL(str(path), os.RTLD_NOLOAD | os.RTLD_NOW)
    try:
        for name in kernels:
            try:
                kernels[name] = ctypes.addressof(ctypes.c_char.in_dll(code, _KERNEL + name))
            except ValueError as error:
                raise ArtifactError(f"the artifact's code lacks the kernel {name}") from error
        ctypes.c_void_p.in_dll(code, _LAUNCH).value = state.library.launch
    except ValueError:
        pass  # none of its kernels runs on several threads
    finally:
        _ctypes.dlclose(code._handle)  # what loaded it holds it


def wake() -> None:
    """Let the workers of the calling thread's pool wake up: kernels that follow at once find them waiting in a loop."""
    if state.library is not None:
        launch = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(
            state.library.launch
        )
        launch(
            ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p), None, 0
        )  # a task that does nothing


class ThreadPool:
    """Threads that share the calling thread's kernels.

    Args:
        threads: the calling thread among them.
        cores: to which each is pinned; None where they may run anywhere that the calling thread may.
        speeds: of each thread's core, in any unit: work is cut by them; None for equal shares.
    """

    def __init__(
        self, threads: int, cores: Sequence[int] | None, speeds: Sequence[int] | None = None
    ) -> None:
        assert state.library is not None
        self._library = state.library
        pinned = None if cores is None else (ctypes.c_int * threads)(*cores)
        self._handle = self._library.new(threads, pinned)
        if self._handle and speeds is not None and self._library.speeds is not None:
            self._library.speeds(self._handle, (ctypes.c_uint32 * threads)(*speeds))

    def use(self) -> None:
        """Run the calling thread's kernels here from now on."""
        self._library.use(self._handle)

    def __del__(self) -> None:
        if self._handle:
            self._library.free(self._handle)
