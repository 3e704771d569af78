"""Reviewed captures for training: COCO, YOLO, crops in a folder per class, or a table.

The zip is generated while it is sent, so its size is not limited by memory. Every name in it is built from numbers
and sanitised labels: a label cannot escape the folder it is unpacked into.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgec.fleet.captures.crops import cut
from edgec.fleet.captures.csv_rows import csv_lines, iso
from edgec.fleet.captures.split import Taken, held_out

Format = Literal["coco", "yolo", "folders", "csv"]
Box = tuple[float, float, float, float]
FORMATS: tuple[Format, ...] = ("coco", "yolo", "folders")
"""Those that are zips."""
WITHOUT = "_none"
BROKEN = "_broken"
"""Folder of pictures that cannot be decoded, so that nothing can be cut out of them."""
HEAD = (
    "capture", "device", "stream", "taken_at", "reason", "state", "model", "version", "part", "file", "width", "height",
    "label", "class", "left", "top", "right", "bottom", "reviewed_by",
)  # fmt: skip
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Item:
    """A capture to export.

    Attributes:
        number: its number.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        found: labels with boxes.
        read: reads its JPEG.
        taken: where and when it was taken.
        facts: for a table: reason, state, model, version and who reviewed it.
    """

    number: int
    width: int
    height: int
    found: Sequence[tuple[str, Box | None]]
    read: Callable[[], bytes]
    taken: Taken | None = None
    facts: tuple[str, str, str, str, str] = ("", "", "", "", "")

    @property
    def name(self) -> str:
        """File name of the picture."""
        return f"{self.number:08d}.jpg"

    @property
    def where(self) -> Taken:
        """Where and when it was taken, as far as that is known."""
        return self.taken or Taken(self.number)


class _Pipe:
    """A write-only file that buffers until its content is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no buffer below."""

    def fetch(self) -> bytes:
        """Take the bytes written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder name for each label, safe on any file system and unique."""
    names: dict[str, str] = {}
    taken = {WITHOUT}
    for label in sorted(set(labels)):
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("._")[:60] or "class"
        name, number = base, 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names[label] = name
    return names


def export_zip(
    items: Sequence[Item], kind: Format, val_percent: float = 20, classes: Sequence[str] | None = None,
    unsure: Collection[str] = (),
) -> Iterator[bytes]:  # fmt: skip
    """The export in pieces: a zip, or for `csv` the table alone.

    Args:
        items: the captures.
        kind: the form.
        val_percent: share of the captures that is held out for validation.
        classes: labels by class number; those that occur, in alphabetical order, if None.
        unsure: labels of `classes` that no label list has: COCO, whose numbers may have gaps, leaves out those that do
            not occur.
    """
    occurring = {name for item in items for name, _box in item.found}
    labels = list(classes) if classes is not None else sorted(occurring)
    absent = set(unsure) - occurring
    held = held_out([item.where for item in items], val_percent)
    if kind == "csv":
        yield from csv_lines(HEAD, table(items, labels, held))
        return
    pipe = _Pipe()
    make = {"coco": _coco, "yolo": _yolo, "folders": _folders}[kind]
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]
        for path, content in make(items, labels, held, absent):
            entry = zipfile.ZipInfo(path, _DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if path.endswith(".jpg") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
            yield pipe.fetch()
    yield pipe.fetch()


def _numbers(labels: Sequence[str], first: int = 0) -> dict[str, int]:
    """The number of each label; of one that is listed twice, the first."""
    return {label: number for number, label in reversed(list(enumerate(labels, first)))}


def part_of(item: Item, held: frozenset[int]) -> str:
    """The side of a capture."""
    return "val" if item.number in held else "train"


def table(items: Sequence[Item], labels: Sequence[str], held: frozenset[int]) -> Iterator[tuple[object, ...]]:
    """A row for each label of each capture, and one for a capture without any."""
    ids = _numbers(labels)
    for item in items:
        where, (reason, state, model, version, reviewer) = item.where, item.facts
        begin = (
            item.number, where.device, where.stream, iso(where.at or None), reason, state, model, version,
            part_of(item, held), item.name, item.width, item.height,
        )  # fmt: skip
        for label, box in item.found or [("", None)]:
            corners = tuple(round(x, 2) for x in box) if box else ("", "", "", "")
            yield (*begin, label, ids.get(label, ""), *corners, reviewer)


def _whole(item: Item, box: Box | None) -> Box:
    """A box, or that of the whole picture, within the picture: left, top, width, height."""
    left, top, right, bottom = box or (0.0, 0.0, float(item.width), float(item.height))
    left, right = (min(max(x, 0.0), item.width) for x in (left, right))
    top, bottom = (min(max(y, 0.0), item.height) for y in (top, bottom))
    return left, top, max(right - left, 0.0), max(bottom - top, 0.0)


def _coco(
    items: Sequence[Item], labels: list[str], held: frozenset[int], absent: set[str]
) -> Iterator[tuple[str, bytes]]:
    categories = [
        {"id": number, "name": label, "supercategory": ""}
        for number, label in enumerate(labels, 1)
        if label not in absent
    ]
    ids = _numbers(labels, 1)
    for part in ("train", "val"):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for item in items:
            if part_of(item, held) != part:
                continue
            yield f"{part}/{item.name}", item.read()
            images.append(
                {"id": item.number, "file_name": item.name, "width": item.width, "height": item.height}
            )
            for label, box in item.found:
                left, top, width, height = (round(x, 2) for x in _whole(item, box))
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": item.number, "category_id": ids[label], "iscrowd": 0,
                     "bbox": [left, top, width, height], "area": round(width * height, 2)}
                )  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": categories}
        yield f"annotations/instances_{part}.json", json.dumps(content).encode()


def _yolo(
    items: Sequence[Item], labels: list[str], held: frozenset[int], _absent: set[str]
) -> Iterator[tuple[str, bytes]]:
    ids = _numbers(labels)
    names = "".join(f"  {number}: {json.dumps(label)}\n" for number, label in enumerate(labels))
    yield "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}".encode()
    for item in items:
        part = part_of(item, held)
        yield f"images/{part}/{item.name}", item.read()
        lines = []
        for label, box in item.found:
            left, top, width, height = _whole(item, box)
            middle = ((left + width / 2) / item.width, (top + height / 2) / item.height)
            numbers = (*middle, width / item.width, height / item.height)
            lines.append(f"{ids[label]} " + " ".join(f"{x:.6f}" for x in numbers) + "\n")
        yield f"labels/{part}/{item.number:08d}.txt", "".join(lines).encode()


def _folders(
    items: Sequence[Item], labels: list[str], held: frozenset[int], _absent: set[str]
) -> Iterator[tuple[str, bytes]]:
    """Crops for a classifier: each box in the folder of its class, and whole pictures only where the label is of the
    whole picture."""
    names = folder_names(labels)
    for item in items:
        part, content = part_of(item, held), item.read()
        whole = {names[label] for label, box in item.found if box is None}
        for folder in sorted(whole) or ([] if item.found else [WITHOUT]):
            yield f"{part}/{folder}/{item.name}", content
        boxes = [(label, _whole(item, box)) for label, box in item.found if box is not None]
        if not boxes:
            continue
        corners = [(left, top, left + width, top + height) for _label, (left, top, width, height) in boxes]
        crops = cut(content, corners)
        if crops is None:
            yield f"{BROKEN}/{item.name}", content
            continue
        for number, ((label, _box), crop) in enumerate(zip(boxes, crops, strict=True), 1):
            if crop:
                yield f"{part}/{names[label]}/{item.number:08d}-{number}.jpg", crop
