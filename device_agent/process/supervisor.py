"""Child processes: spawned, watched, killed when they hang, reaped, and started again by a policy.

The one place where the agent starts processes. A child is a fresh interpreter (no forked threads, no inherited locks)
that runs one module; `process.child.enter` is its side.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from edgec.device_agent.process.channel import Channel, ChannelClosed
from edgec.device_agent.process.loop import Loop, Timer
from edgec.device_agent.process.messages import Message
from edgec.device_agent.process.retry import Backoff, RetryPolicy

log = logging.getLogger("supervisor")

Received = TypeVar("Received")
StartMessage = tuple[Message, tuple[int, ...]]
"""A child's first message, and the descriptors that travel with it."""


@dataclass(frozen=True)
class Exit:
    """How a child ended.

    Attributes:
        status: exit status; negative: the signal that ended it.
        reason: why the supervisor killed it; empty when it ended by itself.
    """

    status: int
    reason: str = ""

    def __str__(self) -> str:
        return f"was killed: {self.reason}" if self.reason else f"ended with status {self.status}"


@dataclass
class _Child:
    """A running process as its parent sees it; `pidfd` becomes readable when it has ended."""

    process: subprocess.Popen[bytes]
    channel: Channel
    pidfd: int


def _spawn(module: str) -> _Child:
    """Start `python -m module CHANNEL_FD PARENT_PID`.

    From the main thread only: the parent-death signal follows the *thread* that started the child.
    """
    ours, theirs = Channel.pair()
    command = [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())]
    # OpenCV would print warnings between the lines of the log at each attempt to open an absent camera.
    # numpy's BLAS starts a thread for each core when it is imported; the products here are small.
    environment = {"OPENCV_LOG_LEVEL": "ERROR", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    process = subprocess.Popen(
        command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, close_fds=True, env=environment
    )
    theirs.close()
    return _Child(process, ours, os.pidfd_open(process.pid))


class Supervisor(Generic[Received]):
    """Keeps one child process running; call everything from the loop's thread.

    Args:
        loop: watches the channel and the process.
        name: names the child in the log.
        module: what the child runs.
        decoder: of the messages that the child sends.
        first: prepares a start; returns the child's first message.
        on_message: takes what the child sends, also what it sent just before it died.
        on_exit: told once the child is reaped; returns whether to start it again.
        retry: how long to wait before that.
        on_start: called when the first message is sent, for those that follow it.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        module: str,
        decoder: msgspec.json.Decoder[Received],
        *,
        first: Callable[[], StartMessage],
        on_message: Callable[[Received], None],
        on_exit: Callable[[Exit], bool],
        retry: RetryPolicy,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._loop, self._module, self._decoder = loop, module, decoder
        self._first, self._on_message = first, on_message
        self._on_exit, self._on_start = on_exit, on_start
        self._backoff = Backoff(retry)
        self._child: _Child | None = None
        self._reason = ""
        self._restart: Timer | None = None
        self._deadline: Timer | None = None
        self._closed = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._child.process.pid if self._child else None

    @property
    def running(self) -> bool:
        """Whether there is a child."""
        return self._child is not None

    def start(self) -> None:
        """Start the child."""
        self._restart = None
        if self._closed:
            return
        message, fds = self._first()
        self._reason = ""
        child = self._child = _spawn(self._module)
        self._loop.add_reader(child.channel.fileno(), lambda: self._receive(child))
        self._loop.add_reader(child.pidfd, lambda: self._exited(child))
        self.send(message, fds)
        self._on_start()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message to the child; without a child it is dropped, as the next start sends what counts."""
        if self._child is None:
            return
        try:
            self._child.channel.send(message, fds)
        except ChannelClosed:
            log.info("%s: the process is gone; its exit is handled next", self.name)

    def kill(self, reason: str) -> None:
        """End the child now, whatever it is doing; `on_exit` follows."""
        if self._child is not None and self._child.process.poll() is None:
            self._reason = reason
            self._child.process.kill()

    def kill_after(self, seconds: float, reason: str) -> None:
        """Give the present child a deadline: `kill` it unless it has ended by then."""
        self._deadline = self._loop.call_later(seconds, lambda: self.kill(reason))

    def healthy(self) -> None:
        """The child works: its next failure is waited for as the first."""
        self._backoff.succeeded()

    def no_restart(self) -> None:
        """Do not start the child again; one that runs may end by itself."""
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()

    def close(self) -> None:
        """End and reap the child, without `on_exit`."""
        self.no_restart()
        if self._child is not None:
            child, self._child = self._child, None
            child.process.kill()
            self._reap(child)

    def _receive(self, child: _Child) -> None:
        try:
            message, _ = child.channel.receive(self._decoder)
        except ChannelClosed:
            self._loop.remove_reader(child.channel.fileno())
            return
        self._on_message(message)

    def _exited(self, child: _Child) -> None:
        self._drain(child)
        status = self._reap(child)
        self._child = None
        if self._on_exit(Exit(status, self._reason)) and not self._closed:
            self.restarts += 1
            self._restart = self._loop.call_later(self._backoff.failed(), self.start)

    def _drain(self, child: _Child) -> None:
        """Take what the child sent before it died; a message that fails must not keep it from being reaped."""
        child.channel.socket.setblocking(False)
        while True:
            try:
                message, _ = child.channel.receive(self._decoder)
            except (ChannelClosed, BlockingIOError):
                return
            except ValueError as error:
                log.error("%s: %s", self.name, error)
                continue
            self._loop.call(functools.partial(self._on_message, message))

    def _reap(self, child: _Child) -> int:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        for fd in (child.channel.fileno(), child.pidfd):
            try:
                self._loop.remove_reader(fd)
            except KeyError:
                continue  # the channel's end was read before
        status = child.process.wait()
        child.channel.close()
        os.close(child.pidfd)
        return status
