"""What a capture process is told of its source. Without pydantic, whose import would be a third of its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

_NEEDS = {"file": "path", "folder": "path", "sound": "path", "camera": "index", "url": "url"}


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One source, as the configuration file's table has it; the parser holds it to the bounds given here.

    Raises:
        ValueError: what the kind of source needs is missing.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    kind: Literal["file", "folder", "camera", "url", "test", "sound", "microphone"]
    path: Path | None = None
    index: Annotated[int, Ge(0)] | None = None
    url: str | None = None
    device: str | None = None
    """Name of a microphone; the system's default when absent."""
    loop: bool = True
    pace: Literal["real", "fast"] = "real"
    """``real``: a file is played at its own rate; ``fast``: as fast as it is taken."""
    fps: Annotated[float, Gt(0), Le(1000)] | None = None
    """Of a folder or test pattern; asked of a camera; overrides a file's own."""
    width: Annotated[int, Ge(16), Le(16384)] | None = None
    height: Annotated[int, Ge(16), Le(16384)] | None = None
    rate: Annotated[int, Ge(4000), Le(192000)] = 16000
    """Samples per second of a microphone; sound files are resampled to it."""
    chunk_ms: Annotated[float, Ge(5), Le(1000)] = 80.0
    """Length of one frame of sound."""

    def __post_init__(self) -> None:
        key = _NEEDS.get(self.kind)
        if key and getattr(self, key) is None:
            raise ValueError(f"a source of kind {self.kind} needs `{key}`")

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads, as plain values."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return given | ({"path": str(self.path)} if self.path is not None else {})

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> SourceSettings:
        """The settings that :meth:`to_json` gave."""
        return cls(**table | ({"path": Path(table["path"])} if "path" in table else {}))

    @property
    def is_sound(self) -> bool:
        """Whether it gives samples instead of pictures."""
        return self.kind in ("sound", "microphone")
