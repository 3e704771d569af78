"""ETags for the API's JSON: a polling client gets 304 while nothing has changed."""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 4 << 20


class Conditional:
    """Adds an ETag to responses to GET below `/api/v1/` and honours If-None-Match."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith("/api/v1/"):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Answer(Headers(scope=scope).get("if-none-match", ""), send))


class _Answer:
    """Buffers a response until its body is complete."""

    def __init__(self, known: str, send: Send) -> None:
        self._known = known
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body") and len(self._body) < MAX_BODY:
            return
        start, self._start = self._start, None
        if start["status"] == 200 and not message.get("more_body"):
            headers = MutableHeaders(raw=start["headers"])
            etag = f'W/"{hashlib.sha256(self._body).hexdigest()[:32]}"'
            headers["ETag"] = etag
            headers.setdefault("Cache-Control", "private, no-cache")
            if etag in (item.strip() for item in self._known.split(",")):
                del headers["content-length"]
                start["status"], self._body = 304, b""
        await self._send(start)
        await self._send({**message, "body": self._body})
