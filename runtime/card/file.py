"""Load a card from its file; errors name the line and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgec.runtime.card.model_card import ModelCard
from edgec.runtime.errors import CardError
from edgec.runtime.schema import fault_of


def load_card(path: str | Path) -> ModelCard:
    """Load and validate a card.

    Raises:
        CardError: unreadable, not TOML, an unknown key or an invalid value; the message names the line and the key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CardError(f"{path}: cannot be read as a model card: {error}") from error
    if isinstance(content.get("labels"), str):
        content["labels"] = _read_labels(path, content["labels"])
    try:
        return msgspec.convert(content, ModelCard)
    except msgspec.ValidationError as error:
        fault = fault_of(error, content, ModelCard)
        where = f"{path}:{_line_of(text, fault.keys)}: {'.'.join(fault.keys)}"
        raise CardError(f"{where}: {fault.message}") from error


def _read_labels(card: Path, name: str) -> list[str]:
    file = (card.parent / name).resolve()
    if not file.is_relative_to(card.parent.resolve()):
        raise CardError(f"{card}: labels: {name} is outside the card's folder")
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{card}: labels: cannot read {name}: {error}") from error


def _line_of(text: str, keys: Sequence[str]) -> int:
    """The line number (from 1) of the deepest of `keys` that can be found."""
    lines, start = text.splitlines(), 0
    for key in keys:
        for number in range(start, len(lines)):
            if re.match(
                rf"\s*(\[+\s*([\w.]+\.)?{re.escape(key)}\s*\]|{re.escape(key)}\s*[=.])", lines[number]
            ):
                start = number
                break
    return start + 1
