"""Servers that a measurement, a test or the demo starts, and that must not outlive it."""

from __future__ import annotations

import ctypes
import signal

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in linux/prctl.h
_libc = ctypes.CDLL(None)  # before any fork: another thread may hold the dynamic loader's lock


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Let the kernel signal this process when the thread that started it ends, however it ends (a `preexec_fn`).

    Args:
        by: SIGTERM where the process has children to end; SIGKILL spares nobody.
    """
    _libc.prctl(_SET_PARENT_DEATH_SIGNAL, by, 0, 0, 0)
