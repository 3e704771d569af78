"""Run the rest of a command in a child process, so that a crash of a library is a message.

The child is forked before anything large is imported, which takes a millisecond, and goes on with the command as if
nothing had happened: same terminal, same arguments. The parent only waits. It passes on signals and the exit status,
and says in what stage a child died.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from edgec.targets.errors import EdgecError

PR_SET_PDEATHSIG = 1
WORDS = 256  # bytes of the stage's name
SPARE = 48 << 30  # bytes of addresses that libraries reserve beside the memory that they use
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class CompilerEnded(EdgecError):
    """The process of a command was ended by a signal, or because its time was up."""


class Stage:
    """The stage that a child is in, readable after its death."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, WORDS)

    def tell(self, name: str) -> None:
        """Note the stage; called in the child."""
        content = name.encode("utf-8", "replace")[: WORDS - 1]
        self._shared[:] = content + bytes(WORDS - len(content))

    def __str__(self) -> str:
        return self._shared[:].rstrip(b"\0").decode("utf-8", "replace")


_stage = Stage()


def tell_stage(name: str) -> None:
    """Note what the process is doing, for the message if it dies."""
    _stage.tell(name)


def isolate(
    what: str, *, memory_bytes: int | None = None, time_s: float | None = None, advice: str = ""
) -> None:
    """Continue in a child process; return in the child only.

    Nothing happens where the process has threads, which a fork would lose, or no `fork`.

    Args:
        what: what may crash, as in `the compiler crashed`.
        memory_bytes: the memory that the child may take; by default that of the machine or its control group.
        time_s: seconds after which the child is ended; None is no limit.
        advice: the way out, for the message.

    Raises:
        CompilerEnded: in the parent, if a signal ended the child or its time was up.
        SystemExit: in the parent, with the child's exit status.
    """
    if not hasattr(os, "fork") or _has_threads():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _die_with(parent)
        limit = memory_bytes or available_memory()
        with suppress(OSError, ValueError):  # a lower limit is set already
            resource.setrlimit(
                resource.RLIMIT_AS, (limit + (0 if memory_bytes else SPARE), resource.RLIM_INFINITY)
            )
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return
    _report(_wait(child, time_s), what, time_s, advice)


def _has_threads() -> bool:
    """Whether the process has threads beside the calling one, those of native libraries included."""
    try:
        return len(os.listdir("/proc/self/task")) > 1  # noqa: PTH208 - starts fast
    except OSError:
        return threading.active_count() > 1


def available_memory() -> int:
    """Bytes of memory that this process may take: the machine's, or its control group's."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    found = [pages * size]
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(place, encoding="ascii") as file:  # noqa: PTH123 - starts fast
            found.append(int(file.read()))
    return min(found)


def _die_with(parent: int) -> None:
    """Let the kernel end this process if its parent dies, however it does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _TimeIsUp(Exception):
    """The child has run for too long."""


def _wait(child: int, time_s: float | None) -> int:
    """Wait for a child; its status as `os.waitpid` gives it, or -1 when its time was up.

    The child has a process group of its own, so that Ctrl-C reaches it once, from here.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    def pause(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)  # from here on after `fg`

    def expire(number: int, frame: FrameType | None) -> NoReturn:
        raise _TimeIsUp

    handlers: dict[int, Callable[[int, FrameType | None], object]] = dict.fromkeys(FORWARDED, forward)
    handlers |= {signal.SIGTSTP: pause, signal.SIGALRM: expire}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    if time_s is not None:
        signal.setitimer(signal.ITIMER_REAL, time_s)
    try:
        return os.waitpid(child, 0)[1]
    except _TimeIsUp:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return -1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(status: int, what: str, time_s: float | None, advice: str) -> NoReturn:
    """End the parent as the child ended."""
    stage = f" while {_stage}" if str(_stage) else ""
    if status == -1:
        raise CompilerEnded(f"{what} was not done after {time_s:g} s and was ended{stage}. {advice}".rstrip())
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGTERM:
        sys.exit(128 + number)
    name = signal.Signals(number).name
    memory = ": the machine may lack the memory for this model" if number == signal.SIGKILL else ""
    raise CompilerEnded(f"{what} crashed ({name}){stage}{memory}.\n{advice}".rstrip())
