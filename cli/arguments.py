"""Arguments that several commands share, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgec.targets import Target, UsageError, detect, load_target

SHAPE_HELP = "An input's shape, as name:1x3x480x640; once per input whose sizes are free in the model."
BUCKETS_HELP = (
    "An input's shape, as name:1x3x480x640; once per input whose sizes are free in the model. Given several times for "
    "an input, the artifact takes all of these shapes, with one set of weights, and the runtime chooses."
)
TARGET_HELP = "The hardware: a name of `edgec targets list`, or a target file. Default: this machine."


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read ``name:1x3x480x640`` arguments; a name may hold colons itself.

    Raises:
        UsageError: not of this form, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in map(_parse_shape, texts):
        if name in shapes:
            raise UsageError(f"--input names {name!r} twice")
        shapes[name] = shape
    return shapes


def parse_buckets(texts: Sequence[str]) -> list[dict[str, tuple[int, ...]]]:
    """Read ``name:1x3x480x640`` arguments of which some inputs have several: the sets of shapes, one at least.

    The second shape of an input goes with the second of every other that has several; an input with one has it in
    every set.

    Raises:
        UsageError: not of this form, or inputs with different numbers of shapes.
    """
    given: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in map(_parse_shape, texts):
        given.setdefault(name, []).append(shape)
    counts = {name: len(shapes) for name, shapes in given.items() if len(shapes) > 1}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} for {name!r}" for name, count in counts.items())
        raise UsageError(f"--input gives {told}: inputs with several shapes need the same number of them")
    sets = max(counts.values(), default=1)
    return [
        {name: shapes[number if len(shapes) > 1 else 0] for name, shapes in given.items()}
        for number in range(sets)
    ]


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, colon, sizes = text.rpartition(":")
    if not colon or not name or not re.fullmatch(r"\d+([x,]\d+)*", sizes):
        raise UsageError(f"--input {text!r} is not of the form name:1x3x480x640")
    numbers = re.split("[x,]", sizes)
    if any(len(number) > 12 for number in numbers):
        raise UsageError(f"--input {text!r}: no tensor is that large")
    return name, tuple(int(number) for number in numbers)


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
