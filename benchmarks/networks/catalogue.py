"""Networks to benchmark: the zoo, and the real models of a data folder if there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Trained for tests and the demo rather than to compare speed, or too slow for a suite of minutes.
LEFT_OUT = frozenset({"shapes-v1", "shapes-v2", "yolov8n-640"})


# Sizes for real models whose files leave them free, by a part of the file's name.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "silero_vad_16k": {"input": (1, 512)},
    "ppocrv3_en_det": {"x": (1, 3, 320, 320)},
    "bodypix": {"input": (1, 240, 320, 3)},
    "lstm_bidi_bytes": {"input": (1, 32)},
    "silero_vad.jit": {"x": (1, 512)},
}


def shapes_of(file: str) -> dict[str, tuple[int, ...]]:
    """The input shapes to give when compiling the model in `file`; none where its own are fixed."""
    return next((shapes for part, shapes in SHAPES.items() if part in file), {})


@dataclass(frozen=True)
class Network:
    """A model to measure: from the zoo (built on demand) or a file."""

    name: str
    group: str  # "zoo" or "real"
    path: Path | None = None

    def model(self, folder: Path) -> Path:
        """The model's file; the zoo's are built into `folder`."""
        if self.path is not None:
            return self.path
        from edgec.models import build

        return build(self.name, folder / self.name)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input shapes that the file leaves free."""
        return {} if self.path is None else shapes_of(self.path.name)


def networks(data: Path | None = None, only: tuple[str, ...] = ()) -> list[Network]:
    """All networks, or those whose name contains one of `only`.

    Args:
        data: folder with `onnx/<task>/*.onnx`; the environment's `EDGEC_DATA` when None.
    """
    from edgec.models import list_models

    found = [Network(entry.name, "zoo") for entry in list_models() if entry.name not in LEFT_OUT]
    folder = data or (Path(os.environ["EDGEC_DATA"]) if "EDGEC_DATA" in os.environ else None)
    if folder is not None:
        for task in ("audio", "classify", "detect", "face", "hand", "ocr", "pose", "segment", "superres"):
            for path in sorted((folder / "onnx" / task).glob("*.onnx")):
                found.append(Network(path.stem, "real", path))
    return [n for n in found if not only or any(part in n.name for part in only)]
