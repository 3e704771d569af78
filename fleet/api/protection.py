"""What protects browsers: security headers on every response, and no changes by other sites' pages.

Cookies authorise a change only if the request comes from our own pages, by its `Origin` or, where a browser leaves that
out, by `Sec-Fetch-Site`. The same holds for the dashboard's WebSocket.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgec.fleet.access.sessions import COOKIE
from edgec.fleet.problems import Problem, problem_response

SAFE = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
# Vue compiles templates in the browser and Quasar sets style attributes, hence 'unsafe-eval' and inline styles. Inline
# scripts are allowed by their hashes only: what someone injects into a page does not run.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'{hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'{sockets}; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
_HSTS_S = 365 * 86400


class Protection:
    """Adds the headers and refuses what other sites send."""

    def __init__(self, app: ASGIApp, url: str) -> None:
        """`url` is the server's address as browsers see it."""
        self._app = app
        self._origin = _origin(url)
        self._secure = url.startswith("https:")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        foreign = self._foreign(scope, headers)
        if scope["type"] == "websocket":
            if foreign:
                await send({"type": "websocket.close", "code": 1008, "reason": "from another site"})
                return
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._secure, headers.get("host", ""))
        if foreign:
            problem = Problem(
                403, "From another site",
                "A browser's cookie authorises changes only from this server's own pages. If a proxy is in front, set "
                "EDGEC_FLEET_PUBLIC_URL to the address that browsers see.",
            )  # fmt: skip
            await problem_response(problem)(scope, receive, answer)
            return
        await self._app(scope, receive, answer)

    def _foreign(self, scope: Scope, headers: Headers) -> bool:
        """Whether a request that would act with a browser's cookie comes from another site."""
        origin = headers.get("origin")
        if scope["type"] == "websocket":
            return origin is not None and not self._own(origin, headers)
        if scope["method"] in SAFE or "authorization" in headers or COOKIE not in headers.get("cookie", ""):
            return False
        if origin is not None:
            return not self._own(origin, headers)
        return headers.get("sec-fetch-site", "") not in ("same-origin", "none")

    def _own(self, origin: str, headers: Headers) -> bool:
        # The Host header is what the browser asked for; a page elsewhere cannot forge it.
        parts = urlsplit(origin)
        return origin == self._origin or (
            parts.scheme in ("http", "https") and parts.netloc == headers.get("host")
        )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def page_policy(body: bytes, host: str) -> str:
    """The Content-Security-Policy of a page: scripts from this server, and the page's own inline scripts by hash."""
    found = dict.fromkeys(
        base64.b64encode(hashlib.sha256(script.replace(b"\r\n", b"\n")).digest()).decode()
        for script in _SCRIPT.findall(body)
        if script.strip()
    )
    hashes = "".join(f" 'sha256-{digest}'" for digest in found)
    # Safari before 15.4 does not count WebSockets of the same host as 'self'.
    sockets = f" ws://{host} wss://{host}" if re.fullmatch(r"[A-Za-z0-9.\-:\[\]]+", host) else ""
    return POLICY.format(hashes=hashes, sockets=sockets)


class _Answer:
    """Adds headers to a response; a page is buffered, because its policy depends on its scripts."""

    def __init__(self, send: Send, secure: bool, host: str) -> None:
        self._send = send
        self._secure = secure
        self._host = host
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._secure:
                headers.setdefault("Strict-Transport-Security", f"max-age={_HSTS_S}")
            if "content-security-policy" not in headers:
                if headers.get("content-type", "").startswith("text/html"):
                    self._start = message
                    return
                headers["Content-Security-Policy"] = API_POLICY
            await self._send(message)
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        start, self._start = self._start, None
        MutableHeaders(raw=start["headers"])["Content-Security-Policy"] = page_policy(self._body, self._host)
        await self._send(start)
        await self._send({**message, "body": self._body})


class Compressed:
    """Compresses pages and their scripts; artifacts and the API are sent as they are."""

    def __init__(
        self, app: ASGIApp, compressor: ASGIApp, plain: Collection[str] = ("/v2", "/api/v1")
    ) -> None:
        self._app = app
        self._compressor = compressor
        self._plain = tuple(plain)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        plain = scope["type"] != "http" or scope["path"].startswith(self._plain)
        await (self._app if plain else self._compressor)(scope, receive, send)
