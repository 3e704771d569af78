"""Starting the agent's other processes, and seeing to it that none outlives it.

A child is a fresh interpreter (no forked threads, no inherited locks). It dies with its parent: by the
kernel's parent-death signal, and by the end of file on its channel should that be lost.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from edgec.device_agent.process.channel import Channel

_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """A running child process as its parent sees it."""

    name: str
    process: subprocess.Popen[bytes]
    channel: Channel
    pidfd: int
    """Becomes readable when the process has ended."""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def kill(self) -> None:
        """End it now, whatever it is doing; its end is then read from ``pidfd``."""
        if self.process.poll() is None:
            self.process.kill()

    def reap(self) -> int:
        """Collect its exit status (negative: the signal) and close what belonged to it."""
        status = self.process.wait()
        self.channel.close()
        os.close(self.pidfd)
        return status


def spawn(name: str, module: str, fds: tuple[int, ...] = (), *arguments: str) -> Child:
    """Start ``python -m module CHANNEL_FD PARENT_PID [arguments]``; call it from the main thread only.

    The parent-death signal follows the *thread* that started the child.
    """
    ours, theirs = Channel.pair()
    passed = (theirs.fileno(), *fds)
    command = [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid()), *arguments]
    # OpenCV's warnings would stand between the lines of the log, at each attempt to open a camera that is away.
    # numpy's library of products starts a thread for each core with the import; the products here are small.
    environment = {"OPENCV_LOG_LEVEL": "ERROR", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    process = subprocess.Popen(
        command, pass_fds=passed, stdin=subprocess.DEVNULL, close_fds=True, env=environment
    )
    theirs.close()
    return Child(name, process, ours, os.pidfd_open(process.pid))


def enter(arguments: list[str]) -> Channel:
    """First call of a child's ``main``: tie its life to the parent's and return its channel."""
    parent = int(arguments[1])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was set
        os._exit(0)
    # Ctrl-C reaches the whole foreground group; the parent decides how its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return Channel.from_fd(int(arguments[0]))
