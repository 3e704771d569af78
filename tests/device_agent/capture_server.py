"""The fleet server's end of the upload of captures."""

from __future__ import annotations

import http.server
import threading
from email import message_from_bytes
from typing import Any

import cv2
import numpy as np

from edgec.protocol.captures import CaptureMeta, CaptureReason
from edgec.protocol.codec import decode


class CaptureServer:
    """Takes captures as the fleet server does; `faults` are answers to give first, 0 cuts the connection."""

    def __init__(self) -> None:
        self.faults: list[int] = []
        self.samples: dict[str, tuple[CaptureMeta, np.ndarray]] = {}
        self.requests: list[tuple[str, str]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, self.headers["Authorization"]))
                status = server.faults.pop(0) if server.faults else server._store(self.headers, body)
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    server._store(self.headers, body)  # kept, and the answer is lost
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _store(self, headers: Any, body: bytes) -> int:
        message = message_from_bytes(
            b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
        )
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.get_payload()
        }
        meta = decode(CaptureMeta, parts["meta"])
        picture = cv2.imdecode(np.frombuffer(parts["image"], np.uint8), cv2.IMREAD_COLOR)
        known = meta.id in self.samples
        self.samples[meta.id] = meta, picture
        return 200 if known else 201

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def capture_meta(number: int, reason: CaptureReason = CaptureReason.RANDOM) -> CaptureMeta:
    return CaptureMeta.model_validate(
        {
            "id": f"s-{number}", "device": "d", "stream": "s", "time": "2026-01-01T00:00:00Z",
            "reason": reason, "width": 8, "height": 8,
        }
    )  # fmt: skip


JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
