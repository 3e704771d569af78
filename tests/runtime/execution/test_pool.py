"""The thread pool: every task of a launch runs once, whatever the threads do; kernels of an artifact run on it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.backends.cpu.thread_pool import pool_library
from edgec.runtime.execution import pool
from edgec.runtime.execution.pool import ThreadPool
from edgec.targets import machine_arch
from tests.runtime.conftest import Built
from tests.runtime.inputs import Reference, rows

_TASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


def _running() -> set[int]:
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}


@pytest.fixture(scope="module")
def launch() -> ctypes._CFuncPtr:
    pool.load(lambda _name: pool_library(machine_arch(), None))
    assert pool.state.library is not None
    function = ctypes.CFUNCTYPE(ctypes.c_int, _TASK, ctypes.c_void_p, ctypes.c_int)
    return function(pool.state.library.launch)


def _launched(launch: ctypes._CFuncPtr, tasks: int, fails: int = -1) -> tuple[list[int], set[int], int]:
    seen: list[int] = []
    by: set[int] = set()

    @_TASK
    def task(number: int, group: object, data: object) -> int:
        seen.append(number)
        by.add(threading.get_native_id())
        return 7 if number == fails else 0

    return seen, by, launch(task, None, tasks)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_each_task_runs_once(launch: ctypes._CFuncPtr, threads: int) -> None:
    workers = ThreadPool(threads, None)
    workers.use()
    for tasks in [*range(1, 40), 257, 1000]:
        seen, by, failure = _launched(launch, tasks)
        assert sorted(seen) == list(range(tasks))
        assert failure == 0
        assert len(by) <= threads


def test_a_failure_is_returned_and_leaves_the_pool_usable(launch: ctypes._CFuncPtr) -> None:
    workers = ThreadPool(3, None)
    workers.use()
    assert _launched(launch, 20, fails=11)[2] == 7
    assert _launched(launch, 20)[2] == 0


def _slept(thread: int) -> int:
    """How often a thread has gone to sleep."""
    lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def test_workers_are_woken_without_a_kernel(launch: ctypes._CFuncPtr) -> None:
    workers, (worker,) = _pool_of(2, None)
    workers.use()
    for _ in range(3):  # it sleeps again after each time
        end = time.monotonic() + 20
        while _state(worker) != "S":
            pass
        slept = _slept(worker)
        pool.wake()
        while _slept(worker) == slept and time.monotonic() < end:
            time.sleep(0.001)
        assert _slept(worker) > slept


def test_sleeping_workers_wake(launch: ctypes._CFuncPtr) -> None:
    workers, (other,) = _pool_of(2, None)
    workers.use()
    met = threading.Barrier(2, timeout=30)

    @_TASK
    def task(number: int, group: object, data: object) -> int:
        met.wait()  # passes when two threads are in it at the same time
        return 0

    for _ in range(3):
        while _state(other) != "S":  # the worker has given up waiting in a loop
            pass
        assert launch(task, None, 2) == 0


def _pool_of(threads: int, cores: list[int] | None) -> tuple[ThreadPool, set[int]]:
    """A pool, and the threads that it started. Their numbers may be lower than those of older ones."""
    before = _running()
    workers = ThreadPool(threads, cores)
    return workers, _running() - before


def _state(thread: int) -> str:
    return Path(f"/proc/self/task/{thread}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_without_a_pool_the_calling_thread_does_everything(launch: ctypes._CFuncPtr) -> None:
    found: list[tuple[list[int], set[int], int]] = []
    thread = threading.Thread(target=lambda: found.append(_launched(launch, 9)))
    thread.start()
    thread.join()
    assert found == [(list(range(9)), {thread.native_id}, 0)]


def test_launches_of_several_threads_do_not_mix(launch: ctypes._CFuncPtr) -> None:
    wrong: list[list[int]] = []

    def stream() -> None:
        workers = ThreadPool(2, None)
        workers.use()
        for tasks in range(1, 120):
            seen, _, _ = _launched(launch, tasks)
            if sorted(seen) != list(range(tasks)):
                wrong.append(seen)

    streams = [threading.Thread(target=stream) for _ in range(4)]
    for thread in streams:
        thread.start()
    for thread in streams:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("threads", [2, 5])
def test_no_worker_that_comes_late_takes_part_in_the_next_job(threads: int, tmp_path: Path) -> None:
    """In a process of its own: a pool that loses count of its tasks waits for ever."""
    command = [
        sys.executable,
        "-m",
        "tests.runtime.execution.pool_stress",
        str(threads),
        "150000",
        str(tmp_path),
    ]
    run = subprocess.run(command, check=False, timeout=240, capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ("0 wrong", 0), run.stderr


def test_workers_end_with_their_pool(launch: ctypes._CFuncPtr) -> None:
    before = _running()
    workers = ThreadPool(5, None)
    started = _running() - before  # threads of earlier tests may just be ending
    assert len(started) == 4
    del workers
    assert not started & _running()


def test_workers_are_pinned_where_asked(launch: ctypes._CFuncPtr) -> None:
    core = min(os.sched_getaffinity(0))
    workers, (other,) = _pool_of(2, [core, core])
    workers.use()
    until = time.monotonic() + 30
    while os.sched_getaffinity(other) != {core}:  # it pins itself once it runs
        assert time.monotonic() < until, os.sched_getaffinity(other)


@pytest.mark.parametrize("first", [False, True])
def test_artifacts_with_and_without_a_pool_share_a_process(
    mlp: Built, tmp_path: Path, reference: Reference, first: bool
) -> None:
    """Each kind is the first to be loaded in a process of its own: what follows must not depend on it."""
    library = {pool.POOL_LIBRARY: pool_library(machine_arch(), None)}
    paths = [tmp_path / "old.edge", tmp_path / "new.edge"]
    for path, bundled in zip(paths, ({}, library), strict=True):
        rt.write_artifact(path, config=mlp.config, code=mlp.code, weights=mlp.weights, bundled=bundled)
    np.save(tmp_path / "x.npy", rows(3))
    code = (
        "import sys, numpy as np, edgec.runtime as rt\n"
        "models = [rt.load(path) for path in sys.argv[2:] * 2]\n"
        "x = np.load(sys.argv[1])\n"
        "made = [model.run({'x': x})['y.0'] for model in models * 2]\n"
        "np.save(sys.argv[1], np.stack(made))\n"
    )
    order = paths[::-1] if first else paths
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.npy"), *map(str, order)], check=False, timeout=120
    )
    assert run.returncode == 0
    for made in np.load(tmp_path / "x.npy"):
        np.testing.assert_allclose(made, reference(rows(3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("speeds", "expected"), [(None, 20), ((1024, 1024), 20), ((1024, 341), 30), ((1, 3), 10)]
)
def test_work_is_cut_by_the_speeds_of_cores(
    launch: ctypes._CFuncPtr, speeds: tuple[int, int] | None, expected: int
) -> None:
    """Of 40 tasks, where the worker begins: until then the caller waits in its first task, and takes none of those."""
    workers = ThreadPool(2, None, speeds)
    workers.use()
    begun, caller, first = threading.Event(), threading.get_native_id(), list[int]()

    @_TASK
    def task(number: int, group: object, data: object) -> int:
        if threading.get_native_id() == caller:
            return 0 if begun.wait(60) else 1
        if not first:
            first.append(number)
            begun.set()
        return 0

    assert launch(task, None, 40) == 0
    assert first == [expected]
    for tasks in (1, 2, 3, 7, 100):
        assert sorted(_launched(launch, tasks)[0]) == list(range(tasks))
