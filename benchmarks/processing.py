"""Compiled pre- and postprocessing against numpy and OpenCV: `python -m edgec.benchmarks.processing`.

The sides of a row take turns in one process; each figure is the median and the fastest of its runs, in milliseconds.
Results are checked to be equal before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

import edgec.runtime as rt
from edgec.compiler.processing import build_processing
from edgec.compiler.verify.timing import Latency, time_in_blocks
from edgec.runtime.card import BoxOutput, ImageInput
from edgec.runtime.execution.compiled_functions import empty_aligned
from edgec.runtime.execution.shared_libraries import ensure_runtime
from edgec.runtime.processing.boxes import BOX_DECODERS
from edgec.runtime.processing.compiled import CompiledProcessing
from edgec.runtime.processing.image import ImagePreprocessor, Placement
from edgec.targets import detect

RUNS, LIMIT_S = 40, 2.0
Times = dict[str, Latency]


def measure(sides: Mapping[str, Callable[[], Any]]) -> Times:
    """Times of each side."""
    return time_in_blocks(sides, runs=RUNS, limit_s=LIMIT_S)


def _card(source: dict[str, Any], output: dict[str, Any]) -> rt.ModelCard:
    return msgspec.convert({"input": {"kind": "image"} | source, "output": output}, rt.ModelCard)


def _spec(name: str, *shape: int) -> rt.TensorSpec:
    return rt.TensorSpec(name=name, safe_name=name, shape=shape, dtype="float32")


def _load(
    card: rt.ModelCard, inputs: list[rt.TensorSpec], outputs: list[rt.TensorSpec]
) -> CompiledProcessing:
    library = build_processing(card, inputs, outputs, detect())
    if library is None:
        raise ValueError("this card declares nothing to compile")
    return CompiledProcessing(library.code, library.functions, card, [one.name for one in outputs])


def pixels(width: int, height: int, layout: str) -> Times:
    """A BGR frame of the model's size into an RGB input with mean and scale."""
    mean = np.array([123.675, 116.28, 103.53], np.float32)
    scale = np.array([0.0171, 0.0175, 0.0174], np.float32)
    numbers = {"mean": mean.tolist(), "scale": scale.tolist()}
    card = _card({"width": width, "height": height, "layout": layout} | numbers, {"decoder": "raw"})
    if not isinstance(card.input, ImageInput):
        raise TypeError("the card's input is a picture")
    shape = (1, 3, height, width) if layout == "NCHW" else (1, height, width, 3)
    library = _load(card, [_spec("x", *shape)], [])
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    compiled = ImagePreprocessor(card.input, "float32", library.prepare)

    def plain() -> Any:  # noqa: ANN401 - an array
        values = (cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.float32) - mean) * scale
        return np.ascontiguousarray(values.transpose(2, 0, 1) if layout == "NCHW" else values)[None]

    np.testing.assert_array_equal(compiled(frame)[0], plain())
    return measure({"compiled": lambda: compiled(frame), "numpy and OpenCV": plain})


def boxes(decoder: str, size: int, shape: tuple[int, ...]) -> Times:
    """A detector's outputs, 2 % of the anchors promising, into suppressed boxes in the frame."""
    random = np.random.default_rng(0)
    card = _card({"width": size, "height": size}, {"decoder": decoder})
    library = _load(card, [], [_spec("o", *shape)])
    output = empty_aligned(shape, np.float32)
    rows = output[0].T if decoder == "yolov8" else output[0]
    first = 4 if decoder == "yolov8" else 5
    rows[:, :4] = random.random((len(rows), 4)) * (1 if decoder == "yolox" else size / 4)
    promising = random.random(len(rows)) < 0.02
    rows[:, first:] = random.random((len(rows), rows.shape[1] - first)) ** 40
    if first == 5:
        rows[:, 4] = np.where(promising, 0.9, 0.01)
    else:
        rows[:, 4:] *= np.where(promising, 1.0, 0.1)[:, None]
    outputs, place = {"o": output}, Placement(1280, 720, 0.5, 0.5, 0.0, 0.0)
    spec = card.output
    if not isinstance(spec, BoxOutput):
        raise TypeError("the card's decoder is a detector's")

    def plain() -> list[rt.Detection]:
        return BOX_DECODERS[decoder](outputs, spec, card, place)

    if [one.class_id for one in library.detect(outputs, place)] != [one.class_id for one in plain()]:
        raise ValueError(f"{decoder}: the compiled decoder finds other boxes than numpy's")
    return measure({"compiled": lambda: library.detect(outputs, place), "numpy and OpenCV": plain})


def steps() -> dict[str, Times]:
    """Each step with the times of its sides, measured now."""
    return {
        "pixels 224×224 to NCHW": pixels(224, 224, "NCHW"),
        "pixels 416×416 to NCHW": pixels(416, 416, "NCHW"),
        "pixels 640×640 to NCHW": pixels(640, 640, "NCHW"),
        "pixels 257×257 to NHWC": pixels(257, 257, "NHWC"),
        "boxes of YOLOX 416, 80 classes": boxes("yolox", 416, (1, 3549, 85)),
        "boxes of YOLOv5 640, 80 classes": boxes("yolov5", 640, (1, 25200, 85)),
        "boxes of YOLOv8 640, 80 classes": boxes("yolov8", 640, (1, 84, 8400)),
    }


def main() -> None:
    """Print the table."""
    ensure_runtime(lambda name: None)
    rows = steps()
    table = Table("step", *next(iter(rows.values())), "times faster")
    for name, sides in rows.items():
        ours, theirs = sides.values()
        cells = [f"{side.median_ms:.3f} ({side.min_ms:.3f}) ms" for side in (ours, theirs)]
        table.add_row(name, *cells, f"{theirs.median_ms / ours.median_ms:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
