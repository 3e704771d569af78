"""Reviewed captures as a zip for training: COCO, YOLO, or a folder per class.

The zip is generated while it is sent, so its size is not limited by memory. Every name in it is built from numbers
and sanitised labels: a label cannot escape the folder it is unpacked into.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["coco", "yolo", "folders"]
Box = tuple[float, float, float, float]
FORMATS: tuple[Format, ...] = ("coco", "yolo", "folders")
WITHOUT = "_none"
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Item:
    """A capture to export: its number, size in pixels, labels with boxes, and a function that reads its JPEG."""

    number: int
    width: int
    height: int
    found: Sequence[tuple[str, Box | None]]
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """File name of the picture."""
        return f"{self.number:08d}.jpg"

    def held_out(self, percent: int) -> bool:
        """Whether the capture belongs to the validation set. Its number decides, so that it stays as others come."""
        return int.from_bytes(hashlib.sha256(str(self.number).encode()).digest()[:4], "big") % 100 < percent


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


def export_zip(items: Sequence[Item], kind: Format, val_percent: int = 20) -> Iterator[bytes]:
    """The zip in pieces."""
    pipe = _Pipe()
    labels = sorted({label for item in items for label, _box in item.found})
    make = {"coco": _coco, "yolo": _yolo, "folders": _folders}[kind]
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]
        for path, content in make(items, labels, val_percent):
            entry = zipfile.ZipInfo(path, _DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if path.endswith(".jpg") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
            yield pipe.fetch()
    yield pipe.fetch()


def _whole(item: Item, box: Box | None) -> Box:
    left, top, right, bottom = box or (0.0, 0.0, float(item.width), float(item.height))
    left, right = (min(max(x, 0.0), item.width) for x in (left, right))
    top, bottom = (min(max(y, 0.0), item.height) for y in (top, bottom))
    return left, top, max(right - left, 0.0), max(bottom - top, 0.0)


def _coco(items: Sequence[Item], labels: list[str], val_percent: int) -> Iterator[tuple[str, bytes]]:
    categories = [
        {"id": number, "name": label, "supercategory": ""} for number, label in enumerate(labels, 1)
    ]
    ids = {label: number for number, label in enumerate(labels, 1)}
    for part, held in (("train", False), ("val", True)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for item in items:
            if item.held_out(val_percent) is not held:
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


def _yolo(items: Sequence[Item], labels: list[str], val_percent: int) -> Iterator[tuple[str, bytes]]:
    ids = {label: number for number, label in enumerate(labels)}
    names = "".join(f"  {number}: {json.dumps(label)}\n" for label, number in ids.items())
    yield "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}".encode()
    for item in items:
        part = "val" if item.held_out(val_percent) else "train"
        yield f"images/{part}/{item.name}", item.read()
        lines = []
        for label, box in item.found:
            left, top, width, height = _whole(item, box)
            middle = ((left + width / 2) / item.width, (top + height / 2) / item.height)
            numbers = (*middle, width / item.width, height / item.height)
            lines.append(f"{ids[label]} " + " ".join(f"{x:.6f}" for x in numbers) + "\n")
        yield f"labels/{part}/{item.number:08d}.txt", "".join(lines).encode()


def _folders(items: Sequence[Item], labels: list[str], val_percent: int) -> Iterator[tuple[str, bytes]]:
    names = folder_names(labels)
    for item in items:
        part = "val" if item.held_out(val_percent) else "train"
        content = item.read()
        for folder in sorted({names[label] for label, _box in item.found}) or [WITHOUT]:
            yield f"{part}/{folder}/{item.name}", content
