"""Arguments that several commands share, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgec.targets import Target, UsageError, detect, load_target

SHAPE_HELP = "An input's shape, as name:1x3x480x640; once per input whose sizes are free in the model."
TARGET_HELP = "The hardware: a name of `edgec targets list`, or a target file. Default: this machine."


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read ``name:1x3x480x640`` arguments; a name may hold colons itself.

    Raises:
        UsageError: not of this form, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        if not colon or not name or not re.fullmatch(r"\d+([x,]\d+)*", sizes):
            raise UsageError(f"--input {text!r} is not of the form name:1x3x480x640")
        if name in shapes:
            raise UsageError(f"--input names {name!r} twice")
        numbers = re.split("[x,]", sizes)
        if any(len(number) > 12 for number in numbers):
            raise UsageError(f"--input {text!r}: no tensor is that large")
        shapes[name] = tuple(int(number) for number in numbers)
    return shapes


def choose_target(name: str) -> Target:
    """The target of that name; ``host`` is this machine.

    Raises:
        UnknownTarget: no such target.
    """
    return detect() if name == "host" else load_target(name)


def existing(path: Path, what: str) -> Path:
    """The path, if it is there.

    Raises:
        UsageError: it is not.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such {what}")
    return path
