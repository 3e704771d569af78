"""Exports that train: no picture on both sides, the model's class numbers, crops, and tables without formulas."""

from __future__ import annotations

import csv
import io
import zipfile
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.fleet.captures.export import BROKEN, Item, export_zip
from edgec.fleet.captures.split import BURST_S, Taken, held_out

HOUR = 3600.0
TAKEN = st.builds(
    Taken,
    number=st.integers(1, 10_000),
    device=st.sampled_from(["a", "b"]),
    stream=st.sampled_from(["door", "yard"]),
    at=st.floats(1.7e9, 1.7e9 + 40 * HOUR),
    digest=st.sampled_from(["", *(f"sha256:{n}" for n in range(12))]),
)


@given(st.lists(TAKEN, max_size=60, unique_by=lambda one: one.number), st.integers(0, 90))
def test_no_picture_is_on_both_sides(captures: list[Taken], percent: int) -> None:
    held = held_out(captures, percent)
    sides: dict[object, set[bool]] = {}
    for one in captures:
        if one.digest:
            sides.setdefault(one.digest, set()).add(one.number in held)
    streams: dict[tuple[str, str], list[Taken]] = {}
    for one in sorted(captures, key=lambda item: (item.at, item.number)):
        streams.setdefault((one.device, one.stream), []).append(one)
    for row in streams.values():
        for before, after in pairwise(row):
            if after.at - before.at <= BURST_S:
                assert (before.number in held) == (after.number in held), "a burst is one picture"
    assert all(len(side) == 1 for side in sides.values())
    assert held <= {one.number for one in captures}
    if percent == 0:
        assert not held


def test_a_capture_keeps_its_side_as_others_come() -> None:
    hours = [Taken(n, "cam", "door", 1.7e9 + HOUR * n, f"sha256:{n}") for n in range(200)]
    first = held_out(hours[:100], 20)
    assert first == held_out(hours, 20) & {one.number for one in hours[:100]}
    assert 8 <= len(first) <= 35, "about a fifth"


def test_the_captures_of_one_hour_are_split_by_time() -> None:
    hour = [Taken(n, "cam", "door", 1.7e9 + 20 * n, f"sha256:{n}") for n in range(50)]
    assert held_out(hour, 20) == frozenset(range(40, 50)), "the latest fifth"


def jpeg() -> bytes:
    """Left half red, right half blue."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32], picture[:, 32:] = (0, 0, 255), (255, 0, 0)
    return bytes(cv2.imencode(".jpg", picture)[1].tobytes())


def unpacked(items: list[Item], kind: Any, **options: Any) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(b"".join(export_zip(items, kind, 0, **options)))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_classifier_gets_crops_and_a_label_of_the_whole_picture_the_picture() -> None:
    found = [
        ("red", (2.0, 2.0, 30.0, 40.0)),
        ("blue", (34.0, 4.0, 60.0, 44.0)),
        ("day", None),
        ("dot", (1.0, 1.0, 1.2, 1.2)),
    ]
    files = unpacked([Item(7, 64, 48, found, jpeg), Item(8, 64, 48, [], jpeg)], "folders")
    assert sorted(files) == [
        "train/_none/00000008.jpg", "train/blue/00000007-2.jpg", "train/day/00000007.jpg", "train/red/00000007-1.jpg",
    ]  # fmt: skip
    blue = cv2.imdecode(np.frombuffer(files["train/blue/00000007-2.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert blue.shape == (40, 26, 3)
    assert blue[:, :, 0].min() > 180 > blue[:, :, 2].max(), "nothing but the right half"
    broken = unpacked([Item(9, 64, 48, found[:1], lambda: b"\xff\xd8x")], "folders")
    assert list(broken) == [f"{BROKEN}/00000009.jpg"]


def test_class_numbers_are_those_of_the_model() -> None:
    classes = ["person", "car", "cat"]
    [label] = [
        text.decode() for name, text in unpacked(
            [Item(1, 64, 48, [("cat", (0.0, 0.0, 32.0, 48.0))], jpeg)], "yolo", classes=classes
        ).items() if name.startswith("labels/")
    ]  # fmt: skip
    assert label.split()[0] == "2", "the model's number, though only cats occur"
    data = unpacked([Item(1, 64, 48, [], jpeg)], "yolo", classes=classes)["data.yaml"].decode()
    assert data.endswith('names:\n  0: "person"\n  1: "car"\n  2: "cat"\n')


def test_the_table_has_a_row_for_each_label_and_no_formulas() -> None:
    taken = Taken(3, "=cmd()", "door", 1.7e9, "sha256:1")
    facts = ("random", "corrected", "m", "2", "eve")
    items = [
        Item(3, 64, 48, [("cat", (1.0, 2.0, 3.0, 4.0)), ("@day", None)], jpeg, taken, facts),
        Item(4, 64, 48, [], jpeg),
    ]
    text = b"".join(export_zip(items, "csv", 0, classes=["dog", "cat"])).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["capture"], row["label"], row["class"], row["left"]) for row in rows] == [
        ("3", "cat", "1", "1.0"), ("3", "'@day", "", ""), ("4", "", "", ""),
    ]  # fmt: skip
    assert (rows[0]["device"], rows[0]["taken_at"], rows[0]["part"]) == (
        "'=cmd()",
        "2023-11-14T22:13:20.000+00:00",
        "train",
    )


@pytest.mark.parametrize("percent", [10, 20, 50])
def test_the_share_is_about_what_was_asked_for(percent: int) -> None:
    captures = [
        Taken(n, f"cam-{n % 20}", "door", 1.7e9 + HOUR * (n // 20), f"sha256:{n}") for n in range(4000)
    ]
    share = 100 * len(held_out(captures, percent)) / len(captures)
    assert percent * 0.8 < share < percent * 1.2
