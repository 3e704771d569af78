"""Where frames come from: what a ``source`` in the configuration may say."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})
_TEST = re.compile(r"^test(?::(\d+)x(\d+)(?:@(\d+(?:\.\d+)?))?)?$")


class SourceSection(BaseModel):
    """One source.

    As a string: ``camera:0`` or ``/dev/video0``, ``rtsp://…`` or ``http://…``, ``test`` or
    ``test:640x480@25``, ``microphone`` or ``microphone:NAME``, else the path of a video file, a sound file
    or a folder of pictures.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["file", "folder", "camera", "url", "test", "sound", "microphone"]
    path: Path | None = None
    index: int | None = Field(default=None, ge=0)
    url: str | None = None
    device: str | None = None
    """Name of a microphone; the system's default when absent."""
    loop: bool = True
    pace: Literal["real", "fast"] = "real"
    """``real``: a file is played at its own rate; ``fast``: as fast as it is taken."""
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Of a folder or test pattern; asked of a camera; overrides a file's own."""
    width: int | None = Field(default=None, ge=16, le=16384)
    height: int | None = Field(default=None, ge=16, le=16384)
    rate: int = Field(default=16000, ge=4000, le=192000)
    """Samples per second of a microphone; sound files are resampled to it."""
    chunk_ms: float = Field(default=80.0, ge=5, le=1000)
    """Length of one frame of sound."""

    @model_validator(mode="after")
    def _complete(self) -> SourceSection:
        needs = {"file": "path", "folder": "path", "sound": "path", "camera": "index", "url": "url"}
        key = needs.get(self.kind)
        if key and getattr(self, key) is None:
            raise ValueError(f"a source of kind {self.kind} needs `{key}`")
        return self

    @property
    def is_sound(self) -> bool:
        """Whether it gives samples instead of pictures."""
        return self.kind in ("sound", "microphone")


def parse_source(value: str, base: Path) -> dict[str, Any]:
    """Return the table that a source's short form stands for."""
    if re.match(r"^(rtsps?|rtmps?|https?|udp|tcp)://", value):
        return {"kind": "url", "url": value}
    if match := re.match(r"^(?:camera:|/dev/video)(\d+)$", value):
        return {"kind": "camera", "index": int(match[1])}
    if match := _TEST.match(value):
        table: dict[str, Any] = {"kind": "test"}
        for key, text in zip(("width", "height", "fps"), match.groups(), strict=True):
            if text is not None:
                table[key] = float(text) if key == "fps" else int(text)
        return table
    if value == "microphone" or value.startswith("microphone:"):
        return {"kind": "microphone", "device": value.partition(":")[2] or None}
    path = base / Path(value).expanduser()
    scheme, colon, _ = value.partition(":")
    if colon and scheme.isalpha() and not path.exists():
        raise ValueError(
            f"{value!r} is no source: write camera:0, rtsp://…, http://…, test:640x480@25, microphone:NAME or a path"
        )
    if path.suffix.lower() in SOUND_SUFFIXES:
        return {"kind": "sound", "path": path}
    return {"kind": "folder" if path.is_dir() else "file", "path": path}


def _prepare(value: object, info: ValidationInfo) -> object:
    base = Path((info.context or {}).get("base", "."))
    if isinstance(value, str):
        return parse_source(value, base)
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = {**value, "path": Path(os.path.normpath(base / Path(value["path"]).expanduser()))}
    return value


Source = Annotated[SourceSection, BeforeValidator(_prepare)]
"""A source in either form; relative paths start at the configuration file's folder."""
