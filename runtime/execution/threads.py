"""How many threads a model runs on, and on which cores.

A pool of workers serves one calling thread and one setting: before a call, the calling thread changes to the pool of
the model's setting if the last model that ran there had another one. Pools are made at first use and end with their
thread. Code from artifacts without a pool of their own (see `pool`) runs on TVM's, which has one pool per calling
thread and is reconfigured instead.

Without `affinity`, threads float over all cores that the process may use (TVM's default pins them to cores 0, 1, …,
so that two processes compete for the same ones). With it, worker *i* is pinned to the *i*-th core named, and the
calling thread, which does a worker's share, stays on those cores; where their speeds differ (big and little cores), on
the first, and each thread's share of a kernel is as large as its core is fast (`core_speeds`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgec.runtime.errors import InputError
from edgec.runtime.execution import pool
from edgec.runtime.execution.core_speeds import speeds_of
from edgec.runtime.execution.pool import ThreadPool
from edgec.runtime.execution.shared_libraries import global_function
from edgec.targets.cores import usable as cores_for

_FLOATING, _PINNED = -3, -2  # TVM's kSpecifyThreadShareAllCore and kSpecifyOneCorePerThread


class _OfThread(threading.local):
    current: tuple[Threading | None, int] = (
        None,
        0,
    )  # what was applied, and the stage of the process's pool then
    cores: tuple[int, ...] | None = None  # its affinity before any pinning; set at its first run
    tvm = False  # whether TVM's pool of this thread exists

    def __init__(self) -> None:
        self.pools: dict[Threading, ThreadPool] = {}


_thread = _OfThread()
_configure: Callable[..., Any] | None = None


def _usable_cores() -> tuple[int, ...]:
    return _thread.cores or tuple(sorted(os.sched_getaffinity(0)))


class Threading(NamedTuple):
    """A model's settings for the pool: the number of threads, and the cores (all usable ones when not pinned)."""

    threads: int
    cores: tuple[int, ...]
    pinned: bool

    @staticmethod
    def of(threads: int | None, affinity: Sequence[int] | None) -> Threading:
        """Check the requested settings against the cores that this thread may use.

        `threads` is capped at that number of cores: surplus workers would only wait for each other.

        Raises:
            InputError: fewer than one thread, or a core that the process may not use.
        """
        usable = _usable_cores()
        if threads is not None and threads < 1:
            raise InputError(f"threads must be 1 or more, not {threads}")
        if affinity is None:
            return Threading(min(threads or cores_for(allowed=usable), len(usable)), usable, False)
        cores = tuple(affinity)
        if not cores or not set(cores) <= set(usable):
            raise InputError(f"affinity must name cores among {list(usable)}, not {list(cores)}")
        return Threading(min(threads or len(cores), len(cores)), cores, True)


def use(wanted: Threading) -> None:
    """Let the calling thread's kernels run as `wanted`; free when they already do."""
    applied, stage = _thread.current
    if applied is not wanted or stage != pool.state.stage:
        _apply(wanted)


def _apply(wanted: Threading) -> None:
    if _thread.current == (wanted, pool.state.stage):
        _thread.current = wanted, pool.state.stage
        return
    if _thread.cores is None:
        _thread.cores = _usable_cores()
    if pool.state.library is None or pool.state.foreign:
        _configure_tvm(wanted)
    if pool.state.library is not None:
        used = wanted.cores[: wanted.threads] if wanted.pinned else ()
        speeds = speeds_of(used)
        stay = wanted.cores if wanted.pinned else _thread.cores
        os.sched_setaffinity(0, used[:1] if speeds is not None else stay)
        if wanted not in _thread.pools:
            cores = wanted.cores if wanted.pinned else None
            _thread.pools[wanted] = ThreadPool(wanted.threads, cores, speeds)
        _thread.pools[wanted].use()
    _thread.current = wanted, pool.state.stage


def _configure_tvm(wanted: Threading) -> None:
    """The calling thread's pool of TVM."""
    global _configure
    if _configure is None:
        _configure = global_function("runtime.config_threadpool")
    assert _thread.cores is not None
    if not _thread.tvm:
        # The first call fixes the pool's size: the number of cores named in it.
        _thread.tvm = True
        every = [str(core) for core in _thread.cores]
        _configure(_FLOATING, len(every), every)
    cores = [str(core) for core in wanted.cores]
    if wanted.pinned:
        _configure(_PINNED, wanted.threads, cores[: wanted.threads])
    elif wanted.threads == 1:
        # With a single core TVM calls kernels directly, without the pool; the thread itself is not pinned.
        _configure(_FLOATING, 1, cores[:1])
        os.sched_setaffinity(0, _thread.cores)
    else:
        _configure(_FLOATING, wanted.threads, cores)
