"""The live view: a page and an MJPEG stream per camera, with boxes, labels, track ids, zones and timing.

It has a process of its own, started only when the view is enabled: drawing and encoding never slow a pipeline. The
inference process copies frames into the view's ring only while a stream is watched. Beyond loopback a token is
required, in the address (`?token=…`) or as a bearer token.
"""

from __future__ import annotations

import hmac
import html
import http.server
import logging
import os
import select
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, assert_never
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.process import child, log
from edgec.device_agent.process.channel import Channel, ChannelClosed
from edgec.device_agent.process.ring import Ring
from edgec.device_agent.view.frame import split_overlay
from edgec.device_agent.view.messages import (
    START_VIEW,
    TO_VIEW,
    HideStream,
    ShowStream,
    StartView,
    ViewFailed,
    ViewListening,
    WatchChanged,
)
from edgec.device_agent.view.overlay import draw

logger = logging.getLogger("view")

_QUALITY = 80
_IDLE_S = 10.0
_STALE_S = 3.0
"""Without a frame for this long, the picture says so."""
_MAX_WATCHERS = 16
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>edgec {device}</title>
<style>body{{margin:0;background:#101418;color:#dfe6ee;font:15px/1.5 system-ui,sans-serif}}
header{{padding:14px 22px;border-bottom:1px solid #26303a}}main{{display:grid;gap:18px;padding:22px;
align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr))}}figure{{margin:0;background:#171d24;
border-radius:10px;overflow:hidden}}img{{display:block;width:100%;min-height:120px;
max-height:80vh;object-fit:contain;background:#000}}
figcaption{{padding:8px 14px}}</style>
<header><b>edgec</b> · {device}</header><main>{figures}</main></html>"""


@dataclass
class _Watched:
    """One stream on offer and its watchers."""

    ring: Ring
    ready: int
    zones: list[dict[str, Any]] = field(default_factory=list)
    watchers: int = 0
    jpeg: bytes = b""
    number: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)


class View:
    """Draws, encodes and serves the watched streams."""

    def __init__(self, channel: Channel, start: StartView) -> None:
        self._channel = channel
        self.device, self.token = start.device, start.token or ""
        self.streams: dict[str, _Watched] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until the supervisor is gone."""
        while True:
            readers = {self._channel.fileno(): ""}
            readers |= {watched.ready: name for name, watched in self.streams.items()}
            readable, _, _ = select.select(list(readers), [], [])
            for fd in readable:
                if readers[fd]:
                    os.eventfd_read(fd)
                    self._encode(readers[fd])
                else:
                    self._handle()

    def _handle(self) -> None:
        message, fds = self._channel.receive(TO_VIEW)
        match message:
            case ShowStream():
                self._drop(message.stream)
                self.streams[message.stream] = _Watched(Ring(fds[0]), fds[1], message.zones)
            case HideStream():
                self._drop(message.stream)
            case _:
                assert_never(message)

    def _drop(self, name: str) -> None:
        if (gone := self.streams.pop(name, None)) is not None:
            with gone.changed:
                gone.changed.notify_all()
            gone.ring.close()
            os.close(gone.ready)

    def _encode(self, name: str) -> None:
        watched = self.streams[name]
        frame = watched.ring.take(newest=True)
        if frame is None:
            return
        picture: NDArray[np.uint8] = np.array(frame.data, np.uint8)
        watched.ring.release(frame)
        overlay, picture = split_overlay(picture)
        draw(picture, overlay, watched.zones)
        ok, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if ok:
            with watched.changed:
                watched.jpeg, watched.number = jpeg.tobytes(), watched.number + 1
                watched.changed.notify_all()

    def watch(self, name: str, more: int) -> bool:
        """Add (1) or remove (-1) a watcher; the supervisor is told of the first and the last."""
        with self._lock:
            watched = self.streams.get(name)
            if watched is None or (more > 0 and watched.watchers >= _MAX_WATCHERS):
                return False
            watched.watchers += more
            if watched.watchers == (1 if more > 0 else 0):
                self._channel.send(WatchChanged(name, more > 0))
            return True

    def page(self, token: str) -> str:
        """Return the page that shows every stream."""
        query = f"?token={html.escape(token, quote=True)}" if token else ""
        figures = "".join(
            f'<figure><img src="/stream/{name}.mjpg{query}" alt=""><figcaption>{name}</figcaption></figure>'
            for name in map(html.escape, sorted(self.streams))
        )
        return _PAGE.format(device=html.escape(self.device), figures=figures or "<p>no streams</p>")


class _Handler(http.server.BaseHTTPRequestHandler):
    """GET / and GET /stream/<name>.mjpg or .jpg."""

    view: View
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Serve the page, a stream or one picture."""
        url = urlsplit(self.path)
        token = parse_qs(url.query).get("token", [""])[0]
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        wanted = self.view.token.encode()
        if wanted and not any(hmac.compare_digest(wanted, one.encode()) for one in (token, bearer)):
            text = b"a token is required: add ?token=... to the address (view.token in the agent's configuration)\n"
            self._answer(HTTPStatus.UNAUTHORIZED, text, "text/plain")
        elif url.path == "/":
            self._answer(HTTPStatus.OK, self.view.page(token).encode(), "text/html; charset=utf-8")
        elif url.path.startswith("/stream/"):
            name, _, kind = url.path.removeprefix("/stream/").rpartition(".")
            self._pictures(name, forever=kind == "mjpg")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"no such page\n", "text/plain")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def _pictures(self, name: str, *, forever: bool) -> None:
        watched = self.view.streams.get(name)
        if watched is None or not self.view.watch(name, 1):
            self._answer(HTTPStatus.NOT_FOUND, b"no such stream, or it has too many watchers\n", "text/plain")
            return
        try:
            if forever:
                self._stream(watched, name)
            else:
                jpeg, _ = self._next(watched, watched.number, _IDLE_S)
                status = HTTPStatus.OK if jpeg else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(status, jpeg, "image/jpeg" if jpeg else "text/plain")
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the watcher has gone
        finally:
            self.view.watch(name, -1)

    def _stream(self, watched: _Watched, name: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.close_connection = True
        number, came = 0, time.monotonic()
        while self.view.streams.get(name) is watched:
            jpeg, number = self._next(watched, number, _STALE_S)
            if jpeg:
                came = time.monotonic()
            else:
                jpeg = notice(watched.jpeg, f"{name}: no frame for {time.monotonic() - came:.0f} s")
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")

    def _next(self, watched: _Watched, seen: int, timeout_s: float) -> tuple[bytes, int]:
        deadline = time.monotonic() + timeout_s
        with watched.changed:
            while watched.number == seen and (left := deadline - time.monotonic()) > 0:
                watched.changed.wait(left)
            return (watched.jpeg if watched.number != seen else b""), watched.number

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: their addresses may contain the token."""


def notice(jpeg: bytes, text: str) -> bytes:
    """Return the last picture, dimmed, or a dark one if there is none, with a line of text; as JPEG."""
    last = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    picture = np.full((240, 426, 3), 40, np.uint8) if last is None else np.asarray(last // 3, np.uint8)
    draw(picture, {"text": text})
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, handler: type[_Handler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)


def main() -> None:
    """Entry of the process."""
    log.set_up()
    channel = child.enter(sys.argv[1:])
    try:
        start, _ = channel.receive(START_VIEW)
        view = View(channel, start)
        handler = type("Handler", (_Handler,), {"view": view})
        try:
            server = _Server(start.host, start.port, handler)
        except OSError as error:
            channel.send(ViewFailed(f"the view cannot listen: {error.strerror}"))
            sys.exit(3)
        channel.send(ViewListening(server.server_address[1]))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        view.run()
    except ChannelClosed:
        os._exit(0)  # the supervisor is gone: do not wait for watchers


if __name__ == "__main__":
    main()
