"""Parts of the device page: what belongs together is shown together."""

from __future__ import annotations

import re
import time
from typing import Any

from edgec.fleet.dashboard.device_parts import rival_card, stream_table, views


def event(stream: str, number: int, box: list[float], label: str = "person") -> dict[str, Any]:
    data = {"box": box, "frame": {"number": number, "width": 640, "height": 480}}
    return {
        "at": time.time(), "stream": stream, "phase": "update", "label": label, "score": 0.5, "track": "t", "data": data
    }  # fmt: skip


def capture(number: int, box: list[float]) -> dict[str, Any]:
    found = [{"label": "person", "score": 0.9, "box": box}]
    return {
        "id": number, "at": time.time() - 30, "state": "new", "width": 640, "height": 480, "predictions": found,
        "annotations": [],
    }  # fmt: skip


def boxes(html: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', html)]


def test_a_picture_has_its_own_boxes_and_no_later_ones() -> None:
    shown = views([event("door", 9, [300, 300, 400, 400])], {"door": capture(7, [10, 20, 60, 80])})
    assert boxes(shown) == [(10, 20)]
    assert "/captures/7" in shown
    assert "picture of" in shown


def test_without_a_picture_the_boxes_are_those_of_one_frame() -> None:
    events = [event("door", 9, [1, 2, 5, 6]), event("door", 9, [3, 4, 5, 6]), event("door", 8, [7, 8, 9, 9])]
    shown = views(events, {})
    assert boxes(shown) == [(1, 2), (3, 4)]
    assert "no picture yet" in shown


def test_each_stream_has_its_figure_and_nothing_is_said_so() -> None:
    shown = views([event("yard", 1, [1, 2, 5, 6])], {"door": capture(7, [10, 20, 60, 80])})
    assert shown.count("<figure>") == 2
    assert "No picture yet" in views([], {})


def test_a_second_device_is_named() -> None:
    assert rival_card({"duplicate": None}) == ""
    shown = rival_card({"duplicate": {"holder": "aaa", "refused": "<b>", "heard_at": time.time()}})
    assert "Two devices use this identity" in shown
    assert "&lt;b&gt;" in shown


def test_damaged_pictures_are_counted() -> None:
    stream = {"name": "door", "state": "running", "fps": 5.0, "damaged": 17}
    assert "17" in stream_table({"streams": [stream]})
