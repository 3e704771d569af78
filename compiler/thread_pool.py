"""TVM's thread pool in this process, on which kernels are timed."""

from __future__ import annotations

import os

import tvm


def set_threads(threads: int) -> None:
    """Make TVM's thread pool as large as the compiled model's will be.

    TVM's default pins the calling thread to one core, which this process and its children would keep.
    """
    usable = sorted(os.sched_getaffinity(0))
    share_all_cores = -3  # TVM's kSpecifyThreadShareAllCore
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(share_all_cores, max(1, min(threads, len(usable))), [str(core) for core in usable])
    os.sched_setaffinity(0, usable)
