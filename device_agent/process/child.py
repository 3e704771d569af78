"""A child's side of its start: tied to its parent, so that none outlives it.

It dies with its parent by the kernel's parent-death signal, and by the end of file on its channel should that be lost.
`process.supervisor` is the parent's side.
"""

from __future__ import annotations

import ctypes
import os
import signal

from edgec.device_agent.process.channel import Channel

_PR_SET_PDEATHSIG = 1


def enter(arguments: list[str]) -> Channel:
    """Tie this process's life to its parent's and return its channel; the first call of a child's `main`."""
    parent = int(arguments[1])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was set
        os._exit(0)
    # Ctrl-C reaches the whole foreground group; the parent decides how its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return Channel.from_fd(int(arguments[0]))
