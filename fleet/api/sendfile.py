"""Files sent from disk to socket within the kernel: the registry serves blobs as fast as a web server does.

ASGI's `http.response.pathsend` extension for uvicorn, which lacks it: Starlette's FileResponse uses it where
offered. TLS connections do not offer it, as their bytes have to pass through the TLS library.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

PEER = "edgec.peer"
"""The scope's extension that holds the verified client certificate (DER)."""
PORTION = 1 << 20
"""Maximum bytes per call, so that other requests get their turn."""


class _Cycle(RequestResponseCycle):
    """Responds to one request, with a whole file at once if asked to."""

    async def send(self, message: Any) -> None:  # noqa: ANN401 - an ASGI message
        """Send a part of the response."""
        if message["type"] == "http.response.start" and "http.response.pathsend" in self.scope.get(
            "extensions", {}
        ):
            # Everything written before a file has to be sent before it: any backlog makes `drain` wait.
            self.transport.set_write_buffer_limits(high=0)
        if message["type"] != "http.response.pathsend":
            await super().send(message)
            return
        while self.transport.get_write_buffer_size() and not self.disconnected:
            # uvloop writes at the end of a loop iteration, and only then reports that it has to wait.
            await asyncio.sleep(0)
            await self.flow.drain()
        if not self.disconnected:
            await self._send_file(message["path"], self.expected_content_length)
        self.expected_content_length = 0
        if not self.disconnected:
            await super().send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_file(self, path: str, size: int) -> None:
        # A second descriptor of the same socket: event loops do not let others wait on theirs.
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
        """The headers are complete, and the object that will respond has been created."""
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.__class__ = _Cycle


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
