"""The live view alone: its notice while no frame arrives, and whom it admits."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from edgec.device_agent.process.channel import Channel
from edgec.device_agent.process.ring import Ring
from edgec.device_agent.view import worker as views
from edgec.device_agent.view.messages import StartView


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A view of one stream that gives no frame."""
    monkeypatch.setattr(views, "_STALE_S", 0.05)
    ours, theirs = Channel.pair()
    view = views.View(ours, StartView("d", "127.0.0.1", 0, "a-secret"))
    view.streams["door"] = views._Watched(Ring.create(3, 1 << 20), os.eventfd(0, os.EFD_NONBLOCK))
    server = views._Server("127.0.0.1", 0, type("Handler", (views._Handler,), {"view": view}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    view.streams.clear()
    server.shutdown()
    server.server_close()
    theirs.close()


def first_picture(url: str) -> np.ndarray:
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.readline() == b"--frame\r\n"
        length = 0
        while (line := answer.readline()) != b"\r\n":
            if line.startswith(b"Content-Length:"):
                length = int(line.split(b":")[1])
        return cv2.imdecode(np.frombuffer(answer.read(length), np.uint8), cv2.IMREAD_COLOR)


def test_a_stream_without_frames_says_so(base: str) -> None:
    picture = first_picture(f"{base}/stream/door.mjpg?token=a-secret")
    assert picture.min() < 60  # dark
    assert picture.max() > 180  # with a line of text


@pytest.mark.parametrize("token", ["", "?token=wrong", "?token=%C3%BC"])
def test_without_the_token_there_is_nothing(base: str, token: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{base}/stream/door.mjpg{token}", timeout=30)
    assert refused.value.code == 401
    assert b"?token=" in refused.value.read()
