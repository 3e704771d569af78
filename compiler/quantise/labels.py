"""What examples show: labels from a table, or from the names of folders.

A table is a `.csv` file whose first line names its columns: `file` and `label`, and for a detector `left`, `top`,
`right` and `bottom` in pixels of the picture. A file has as many lines as it has labels or objects; a file without a
label (no sound event, no object) has one line with an empty label.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import edgec.runtime as rt
from edgec.compiler.quantise.errors import CalibrationError

_BOX = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Truth:
    """What an example shows.

    Attributes:
        classes: numbers of the classes.
        boxes: of a detector's objects: class, left, top, right, bottom in pixels of the picture.
    """

    classes: tuple[int, ...] = ()
    boxes: tuple[tuple[float, float, float, float, float], ...] = ()

    @classmethod
    def of_class(cls, number: int) -> Truth:
        """An example of one class."""
        return cls((number,))


def by_folder(names: Sequence[str], card: rt.ModelCard | None) -> dict[str, Truth]:
    """The labels of files that lie in folders named like classes; nothing unless all do.

    Args:
        names: relative to the folder with the data.
        card: its labels are the classes.
    """
    labels = {label: number for number, label in enumerate(card.labels)} if card else {}
    folders = {name: name.split("/")[0] for name in names if "/" in name}
    if len(folders) < len(names) or not set(folders.values()) <= labels.keys():
        return {}
    return {name: Truth.of_class(labels[folder]) for name, folder in folders.items()}


def read_labels(path: Path, card: rt.ModelCard | None, names: Sequence[str]) -> dict[str, Truth]:
    """Read the table at `path` for the examples called `names`.

    Raises:
        CalibrationError: it cannot be read, names something unknown, or fits no example.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
            columns = set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"{path}: cannot be read as a table: {error}") from error
    if not {"file", "label"} <= columns:
        raise CalibrationError(
            f"{path}: the first line must name the columns file,label (and left,top,right,bottom for objects), "
            f"not {','.join(sorted(columns)) or 'nothing'}"
        )
    numbers = {label: number for number, label in enumerate(card.labels)} if card else {}
    known, found = set(names), dict[str, Truth]()
    for at, line in enumerate(lines, start=2):
        name, label = line["file"], (line["label"] or "").strip()
        if name not in known:
            continue
        before = found.get(name, Truth())
        if not label:
            found[name] = before
            continue
        number = numbers.get(label, int(label) if label.isdigit() else None)
        if number is None:
            raise CalibrationError(
                f"{path}, line {at}: {label!r} is neither a label of the model card nor a number"
            )
        found[name] = Truth((*before.classes, number), (*before.boxes, *_box(path, at, number, line)))
    if not found:
        raise CalibrationError(
            f"{path}: names none of the examples, such as {names[0]!r}; files are relative to the folder"
        )
    return found


def _box(
    path: Path, at: int, number: int, line: Mapping[str, str | None]
) -> list[tuple[float, float, float, float, float]]:
    if not all(line.get(column) for column in _BOX):
        return []
    try:
        left, top, right, bottom = (float(line[column] or "") for column in _BOX)
    except ValueError as error:
        raise CalibrationError(f"{path}, line {at}: {', '.join(_BOX)} must be numbers") from error
    return [(float(number), left, top, right, bottom)]
