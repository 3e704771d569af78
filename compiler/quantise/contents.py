"""What a folder of calibration data holds, and what its model card makes of that."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import edgec.runtime as rt
from edgec.compiler.quantise.errors import CalibrationError
from edgec.runtime.processing.input_files import PICTURES, SOUNDS

Kind = Literal["pictures", "sounds", "arrays"]
ENDINGS: dict[Kind, frozenset[str]] = {
    "pictures": PICTURES,
    "sounds": SOUNDS,
    "arrays": frozenset({".npz"}),
}
NEEDED = "100 to 500 pictures (or sounds, or arrays in an .npz file) like those that the model will see"


def needed(kind: Kind) -> str:
    """What is recommended of one kind."""
    return f"100 to 500 {kind} like those that the model will see"


def files_of(folder: Path, card: rt.ModelCard | None) -> tuple[Kind, tuple[Path, ...]]:
    """The examples of a folder, in a fixed order: what the card takes, or else `.npz` files of inputs.

    Raises:
        CalibrationError: there are none.
    """
    held: dict[Kind, list[Path]] = {kind: [] for kind in ENDINGS}
    for file in sorted(folder.rglob("*")):
        for kind, endings in ENDINGS.items():
            if file.suffix.lower() in endings and file.is_file():
                held[kind].append(file)
    wanted = _taken_by(card)
    if wanted is not None and held[wanted]:
        return wanted, tuple(held[wanted])
    media = held["pictures"] or held["sounds"]
    if wanted is None and media:
        raise CalibrationError(
            f"{folder}: pictures and sounds need a model card that says how they become the model's input.\n"
            "Write a model.toml beside the model (or name one with --card), or give an .npz file of inputs"
        )
    if held["arrays"]:
        return "arrays", tuple(held["arrays"])
    raise CalibrationError(_nothing(folder, wanted, media))


def _taken_by(card: rt.ModelCard | None) -> Kind | None:
    if card is not None and isinstance(card.input, rt.card.ImageInput):
        return "pictures"
    return "sounds" if card is not None and isinstance(card.input, rt.card.AudioInput) else None


def _nothing(folder: Path, wanted: Kind | None, media: list[Path]) -> str:
    """The refusal of a folder without examples."""
    if wanted is None:
        return f"{folder}: holds no pictures, sounds or .npz files.\nCalibration needs {NEEDED}"
    lacking = f"{folder}: holds no {wanted} ({', '.join(sorted(ENDINGS[wanted]))})"
    if media:
        lacking += f", which the model card takes, but files such as {media[0].relative_to(folder)}"
    return f"{lacking}.\nCalibration needs {needed(wanted)}"
