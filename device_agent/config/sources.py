"""The `source` setting of a stream: a table, or its short form."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from edgec.device_agent.config.source_settings import SourceSettings

SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})
_TEST = re.compile(r"^test(?::(\d+)x(\d+)(?:@(\d+(?:\.\d+)?))?)?$")


def parse_source(value: str, base: Path) -> dict[str, Any]:
    """Expand a source's short form to its table.

    `camera:0` or `/dev/video0`, `rtsp://…` or `http://…`, `test` or `test:640x480@25`, `microphone` or
    `microphone:NAME`, else the path of a video file, a sound file or a folder of pictures.
    """
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
            f"{value!r} is not a source: write camera:0, rtsp://…, http://…, test:640x480@25, microphone:NAME or a path"
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


@dataclass(frozen=True, kw_only=True)
class _Bounded(SourceSettings):
    """The same settings with the bounds that the parser holds them to."""

    index: Annotated[int, Field(ge=0)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    width: Annotated[int, Field(ge=16, le=16384)] | None = None
    height: Annotated[int, Field(ge=16, le=16384)] | None = None
    rate: Annotated[int, Field(ge=4000, le=192000)] = 16000
    chunk_ms: Annotated[float, Field(ge=5, le=1000)] = 80.0


Source = Annotated[_Bounded, BeforeValidator(_prepare)]
"""A source in either form; relative paths are resolved against the configuration file's folder."""
