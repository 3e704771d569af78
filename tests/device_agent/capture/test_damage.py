"""A picture that a bad link has cut is counted, and is no frame."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.process.loop import Loop


def jpeg(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (240, 320, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(noise, (9, 9), 3))[1].tobytes()


@pytest.fixture
def camera() -> Iterator[str]:
    """A network camera (Motion JPEG over HTTP) of forty pictures, of which every fourth is cut in half; then it
    closes the connection."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=f")
            self.end_headers()
            for number in range(40):
                body = jpeg(number)
                body = body[: len(body) // 2] if number % 4 == 2 else body
                head = f"--f\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body + b"\r\n")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/live"
    server.shutdown()


def counted(source: Any, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Run a stream until its report satisfies `until`."""
    loop = Loop()
    settings = StreamSection.model_validate({"source": source, "slots": 24, "policy": "newest"})
    runner = StreamRunner("cam", settings, loop, lambda _: None)
    runner.start()

    def done() -> bool:
        runner.tick()
        return until(runner.report())

    assert loop.run_until(done, 60.0), runner.report()
    report = runner.report()
    runner.close()
    return report


@pytest.mark.parametrize("level", [None, "-8"], ids=["usual", "silenced"])
def test_cut_pictures_of_a_network_camera_are_counted(
    camera: str, level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the environment silences FFmpeg, whose complaints tell which pictures are cut, or buffers them."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    if level is None:
        monkeypatch.delenv("OPENCV_FFMPEG_LOGLEVEL", raising=False)
    else:
        monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", level)
    report = counted({"kind": "url", "url": camera}, lambda r: r["captured"] + r["damaged"] >= 39)
    assert report["damaged"] in (9, 10)
    assert report["captured"] in (29, 30)
    assert report["captured"] == report["processed"] + report["dropped"] + report["in_flight"]


def test_cut_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    for number in range(6):
        data = jpeg(number)
        (tmp_path / f"{number}.jpg").write_bytes(data[: len(data) // 2] if number == 3 else data)
    source = {"kind": "folder", "path": str(tmp_path), "pace": "fast", "loop": False}
    report = counted(source, lambda r: r["state"] == "ended")
    assert (report["captured"], report["damaged"]) == (5, 1)
