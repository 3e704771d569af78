"""The settings of a source, as a capture process gets them.

Without pydantic, whose import would be a third of a capture process's start: `config.sources` declares the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

_NEEDS = {"file": "path", "folder": "path", "sound": "path", "camera": "index", "url": "url"}


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One source, as the configuration file's table has it.

    Raises:
        ValueError: a setting that this kind of source requires is missing.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    kind: Literal["file", "folder", "camera", "url", "test", "sound", "microphone"]
    path: Path | None = None
    index: int | None = None
    url: str | None = None
    device: str | None = None
    """Name of a microphone; the system's default input when absent."""
    loop: bool = True
    pace: Literal["real", "fast"] = "real"
    """`real`: play a file at its own rate; `fast`: as fast as frames are consumed."""
    fps: float | None = None
    """Frame rate of a folder or test pattern; requested from a camera; overrides a file's own."""
    width: int | None = None
    height: int | None = None
    rate: int = 16000
    """Samples per second of a microphone; sound files are resampled to it."""
    chunk_ms: float = 80.0
    """Length of one frame of sound, in milliseconds."""

    def __post_init__(self) -> None:
        key = _NEEDS.get(self.kind)
        if key and getattr(self, key) is None:
            raise ValueError(f"a source of kind {self.kind} needs `{key}`")

    @property
    def is_sound(self) -> bool:
        """Whether frames are sound instead of pictures."""
        return self.kind in ("sound", "microphone")
