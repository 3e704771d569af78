"""Options and arguments that several commands share, and the parsers of their texts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.targets import Target, UsageError, detect, load_target
from edgec.targets.target import TimedOn

if TYPE_CHECKING:
    from edgec.compiler.options import Shape, Size

SHAPE_HELP = (
    "Shape of an input, as NAME:1x3x480x640 (NAME:scalar without axes). Repeat for each one with free sizes."
)
BUCKETS_HELP = (
    "Shape of an input, as NAME:1x3x480x640 (NAME:scalar without axes). Repeat for each input with free dimensions. "
    "A size such as 1..8 is chosen anew for each run. With several shapes for an input, the artifact accepts all of "
    "them with one set of weights, and the runtime selects the code for each."
)
# A folder to write to that ends like these was meant as a file.
FILE_ENDINGS = frozenset(
    {".onnx", ".edge", ".tflite", ".npz", ".html", ".json", ".svg", ".md", ".zip", ".toml", ".pem", ".conf"}
)
TARGET_HELP = (
    "Hardware to compile for: a name from `edgec targets list`, or a target file. [default: this machine]"
)
TARGETS_HELP = (
    "Hardware to compile for: a name from `edgec targets list`, or a target file; several with commas between them. "
    "[default: this machine]"
)

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="The fleet server. [default: $EDGEC_SERVER, or the server of `edgec fleet login`]",
        show_default=False,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="An access token. [default: $EDGEC_TOKEN, or the token of `edgec fleet login`]",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking, as in scripts.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """Parse `NAME:1x3x480x640` arguments; a name may itself contain colons.

    Raises:
        UsageError: A text is not of this form, or a name is given twice.
    """
    shapes: dict[str, Shape] = {}
    for name, shape in map(_parse_shape, texts):
        if name in shapes:
            raise UsageError(f"--input names {name!r} twice")
        shapes[name] = shape
    return shapes


def parse_buckets(texts: Sequence[str]) -> list[dict[str, Shape]]:
    """Parse `NAME:1x3x480x640` arguments with several shapes for some inputs into sets of shapes, at least one.

    The nth shape of an input belongs with the nth of every other input that has several. An input with a single shape
    has it in every set.

    Raises:
        UsageError: A text is not of this form, or inputs have different numbers of shapes.
    """
    given: dict[str, list[Shape]] = {}
    for name, shape in map(_parse_shape, texts):
        given.setdefault(name, []).append(shape)
    counts = {name: len(shapes) for name, shapes in given.items() if len(shapes) > 1}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} for {name!r}" for name, count in counts.items())
        raise UsageError(f"--input: {told}; inputs with several shapes need the same number of shapes")
    sets = max(counts.values(), default=1)
    return [
        {name: shapes[number if len(shapes) > 1 else 0] for name, shapes in given.items()}
        for number in range(sets)
    ]


def _parse_shape(text: str) -> tuple[str, Shape]:
    name, colon, sizes = text.rpartition(":")
    if colon and name and sizes == "scalar":
        return name, ()
    if not colon or not name or not re.fullmatch(r"\d+(\.\.\d+)?([x,]\d+(\.\.\d+)?)*", sizes):
        raise UsageError(f"--input {text!r} is not of the form NAME:1x3x480x640, or NAME:1..8x3x480x640")
    if any(len(number) > 12 for number in re.findall(r"\d+", sizes)):
        raise UsageError(f"--input {text!r}: the dimensions are too large for a tensor")
    return name, tuple(_parse_size(text, size) for size in re.split("[x,]", sizes))


def _parse_size(text: str, size: str) -> Size:
    low, bounded, high = size.partition("..")
    if not bounded:
        return int(low)
    if not 0 < int(low) <= int(high):
        raise UsageError(
            f"--input {text!r}: the sizes {size} are not from a smaller to a larger one, from 1 on"
        )
    from edgec.compiler.options import Bounds  # loads no compiler

    return int(low) if int(low) == int(high) else Bounds(int(low), int(high))


def parse_share(option: str, text: str) -> float:
    """Parse a share such as `0.5%` or `0.005`.

    Raises:
        UsageError: It is not a number from 0 to 1.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{option} {text!r} is not a share such as 0.5% or 0.005")
    return share


def choose_target(name: str) -> Target:
    """Return the target called `name`; `host` is this machine.

    Raises:
        UnknownTarget: There is no such target.
    """
    return detect() if name == "host" else load_target(name)


def choose_targets(names: str) -> list[Target]:
    """Return the targets of names with commas between them.

    Raises:
        UnknownTarget: There is no such target.
        UsageError: A target is named twice.
    """
    chosen = [choose_target(name.strip()) for name in names.split(",") if name.strip()]
    if not chosen:
        raise UsageError("--target names no target")
    found = [target.name for target in chosen]
    for name in found:
        if found.count(name) > 1:
            raise UsageError(f"--target {names}: {name} is named twice")
    return chosen


def parse_device(text: str, token: Path | None) -> TimedOn:
    """Return the device that `HOST:PORT` and a file with its token name.

    Raises:
        UsageError: The address is not of this form, or there is no token.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--device {text!r} is not of the form HOST:PORT")
    secret = read_token(token)
    return TimedOn(host.removeprefix("[").removesuffix("]"), int(port), secret)


def read_token(file: Path | None) -> str:
    """Return the token of a tune server: the content of a file, or of `$EDGEC_TUNE_TOKEN`.

    Raises:
        UsageError: There is none, or it is too short.
    """
    from edgec.runtime.tuning.connection import TuneError, check_token

    secret = existing(file, "file").read_text("utf-8") if file else os.environ.get("EDGEC_TUNE_TOKEN", "")
    if not secret.strip():
        raise UsageError("a token is needed: name a file that holds it, or set EDGEC_TUNE_TOKEN")
    try:
        check_token(secret)
    except TuneError as error:
        raise UsageError(str(error)) from error
    return secret.strip()


def existing(path: Path, what: str) -> Path:
    """Return `path` if it exists; `what` describes it in the error.

    Raises:
        UsageError: It does not exist.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such {what}")
    return path


def file_to_write(path: Path) -> Path:
    """Return `path` if a command can write a file of that name; its folder need not exist yet.

    Raises:
        UsageError: It is a folder, a device, a pipe or a socket, or lies below a file.
    """
    from edgec.runtime.artifact.writer import check_replaceable

    if path.is_dir():
        raise UsageError(
            f"{path}: is a folder, and this command writes a file: name one, such as {path / 'NAME'}"
        )
    check_replaceable(path)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UsageError(f"{path}: {above} is a file, not a folder")
    return path


def folder_to_write(path: Path) -> Path:
    """Return `path` if a command can write files into a folder of that name; the folder need not exist yet.

    Raises:
        UsageError: It is a file, or named like one.
    """
    if path.suffix.lower() in FILE_ENDINGS:
        raise UsageError(
            f"{path}: this command writes several files: name a folder, such as {path.with_suffix('')}"
        )
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, and this command writes into a folder: name another one")
    return path


def sure(name: str, consequence: str, *, yes: bool) -> None:
    """Ask a person to type `name` before something that cannot be taken back, unless `yes`.

    Raises:
        UsageError: another name was typed, or nobody is there to type.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"this will {consequence}: repeat it with --yes")
    if typer.prompt(f"This will {consequence}. Type {name} to go on") != name:
        raise UsageError("another name was typed; nothing was done")


def parse_duration(text: str) -> float:
    """Return a duration such as `90`, `90s`, `15m`, `2h` or `1d` in seconds.

    Raises:
        UsageError: The text is not a duration.
    """
    number, unit = (text[:-1], _SECONDS[text[-1]]) if text and text[-1] in _SECONDS else (text, 1)
    try:
        value = float(number) * unit
    except ValueError as error:
        raise UsageError(f"{text!r} is not a duration: write 90s, 15m, 2h or 1d") from error
    if not 0 <= value < float("inf"):
        raise UsageError(f"{text!r} is not a duration: write 90s, 15m, 2h or 1d")
    return value


def parse_model_version(text: str) -> tuple[str, str]:
    """Return the name and the version of `MODEL:VERSION`.

    Raises:
        UsageError: The name or the version is missing.
    """
    name, separator, version = text.partition(":")
    if not separator or not name or not version:
        raise UsageError(f"{text!r} does not name a version: write MODEL:VERSION, such as detector:2")
    return name, version


def parse_labels(items: Sequence[str]) -> dict[str, str]:
    """Return `NAME=VALUE` items as a dict.

    Raises:
        UsageError: An item is not of this form.
    """
    labels = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise UsageError(f"{item!r} is not a label: write NAME=VALUE")
        labels[name] = value
    return labels


def parse_scope(device: str | None, group: str | None, everyone: bool) -> dict[str, str]:
    """Return the scope that `--to`, `--group` and `--all` select, as the fleet API expects it.

    Raises:
        UsageError: Not exactly one of them is given.
    """
    chosen = [("device", device)] * bool(device) + [("group", group)] * bool(group) + [("all", "")] * everyone
    if len(chosen) != 1:
        raise UsageError("choose the devices: give exactly one of --to DEVICE, --group NAME and --all")
    kind, name = chosen[0]
    return {"kind": kind, "name": name or ""}
