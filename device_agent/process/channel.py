"""Channels between the agent's processes: messages as JSON over a Unix socket that keeps their boundaries.

A message may carry file descriptors (the frame ring of a stream that is added at run time). When the other process
ends, the channel reads end of file: nothing polls.
"""

from __future__ import annotations

import array
import os
import socket
from typing import TypeVar

import msgspec

from edgec.device_agent.process.messages import Message, encode_plain

_MAX_MESSAGE = 192 * 1024
_MAX_FDS = 8

_ENCODER = msgspec.json.Encoder(enc_hook=encode_plain)
T = TypeVar("T")


class ChannelClosed(ConnectionError):
    """The other process has ended."""


class MalformedMessage(ValueError):
    """A message of unknown type or form: both ends are of one version, so one of them has a defect."""


class Channel:
    """One end of a channel."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return both ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Return the end that was inherited from the parent process."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The descriptor, for selectors."""
        return self.socket.fileno()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send one message; blocks while the other side's buffer is full (back-pressure).

        Raises:
            ChannelClosed: the other process has ended.
            ValueError: the message is longer than a channel can carry.
        """
        data = _ENCODER.encode(message)
        if len(data) > _MAX_MESSAGE:
            raise ValueError(f"a {type(message).__name__} of {len(data)} bytes is longer than {_MAX_MESSAGE}")
        try:
            if fds:
                socket.send_fds(self.socket, [data], list(fds))
            else:
                self.socket.send(data)
        except (BrokenPipeError, ConnectionResetError, OSError) as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, decoder: msgspec.json.Decoder[T]) -> tuple[T, list[int]]:
        """Wait for one message and the descriptors that came with it.

        Raises:
            ChannelClosed: the other process has ended.
            MalformedMessage: `decoder` does not know the message; its descriptors are closed.
        """
        space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self.socket.recvmsg(_MAX_MESSAGE, space)
        except ConnectionResetError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("end of file")
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            return decoder.decode(data), list(fds)
        except msgspec.DecodeError as error:
            for fd in fds:
                os.close(fd)
            raise MalformedMessage(f"malformed message {data[:200]!r}: {error}") from error

    def close(self) -> None:
        """Close this end; the other side reads end of file."""
        self.socket.close()
