"""Files from disk to socket within the kernel: the registry hands out blobs as fast as a web server does.

ASGI's `http.response.pathsend` extension for uvicorn, which has none: Starlette's FileResponse uses it where it is
offered. TLS connections do not offer it, as their bytes have to pass through the library that encrypts them.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

PEER = "edgec.peer"
"""The scope's extension that holds the certificate which a client was verified by (DER)."""
PORTION = 1 << 20
"""Bytes that one call copies at most, so that others get their turn."""


class _Cycle(RequestResponseCycle):
    """Answers one request; a whole file at once if asked to."""

    async def send(self, message: Any) -> None:  # noqa: ANN401 - an ASGI message
        """Send a part of the answer."""
        if message["type"] == "http.response.start" and "http.response.pathsend" in self.scope.get(
            "extensions", {}
        ):
            # What is written before a file has to be out before the file: any backlog makes `drain` wait.
            self.transport.set_write_buffer_limits(high=0)
        if message["type"] != "http.response.pathsend":
            await super().send(message)
            return
        while self.transport.get_write_buffer_size() and not self.disconnected:
            # uvloop writes at the end of a turn, and only then says that it must wait.
            await asyncio.sleep(0)
            await self.flow.drain()
        if not self.disconnected:
            await self._send_file(message["path"], self.expected_content_length)
        self.expected_content_length = 0
        if not self.disconnected:
            await super().send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_file(self, path: str, size: int) -> None:
        # A second descriptor of the same socket: loops do not let others wait on the one that they use.
        sock = os.dup(self.transport.get_extra_info("socket").fileno())
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - unbuffered, for its descriptor
                await self._copy(sock, file.fileno(), size)
        except (ConnectionError, TimeoutError):
            self.transport.close()
            self.disconnected = True
        finally:
            os.close(sock)

    async def _copy(self, sock: int, file: int, size: int) -> None:
        loop = asyncio.get_running_loop()
        offset = 0
        while offset < size and not self.disconnected:
            try:
                sent = os.sendfile(sock, file, offset, min(size - offset, PORTION))
                if sent == 0:
                    raise ConnectionAbortedError("the file is shorter than it was")
                offset += sent
            except BlockingIOError:
                writable: asyncio.Future[None] = loop.create_future()
                loop.add_writer(sock, _settle, writable)
                try:
                    async with asyncio.timeout(60):
                        await writable
                finally:
                    loop.remove_writer(sock)
            else:
                await asyncio.sleep(0)


class SendfileProtocol(HttpToolsProtocol):
    """uvicorn's protocol, offering to send files."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        secured = self.transport.get_extra_info("ssl_object")
        if secured is None:
            self.scope["extensions"] = {"http.response.pathsend": {}}
        elif der := secured.getpeercert(binary_form=True):
            self.scope["extensions"] = {PEER: {"certificate": der}}

    def on_headers_complete(self) -> None:
        """Its headers are there, and the object that will answer it was made."""
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.__class__ = _Cycle


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
