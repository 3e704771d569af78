"""Compiled pre- and postprocessing: the artifact's second library.

It computes what `image`, `audio` and `boxes` beside this module compute with numpy, faster. An artifact without the
library, or without one of its functions, falls back to numpy.

The artifact format calls the library `around.so` and the config's list of its functions `around`; both names are part
of the format and stay.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgec.runtime import card as cards
from edgec.runtime.artifact.reader import PROCESSING_LIBRARY
from edgec.runtime.card import ModelCard
from edgec.runtime.errors import ArtifactError
from edgec.runtime.execution.compiled_functions import Array, empty_aligned, is_readable, load_code
from edgec.runtime.processing.audio import BLOCK, Samples, TableShapes, tables
from edgec.runtime.processing.boxes import YUNET_PARTS, constants_of, finish, named
from edgec.runtime.processing.image import Frame, Placement
from edgec.runtime.processing.results import Detection

PREPARE, DETECT, FEATURES = "edgec_prepare", "edgec_detect", "edgec_features"
FRAME_NV12 = "edgec_frame_nv12"  # as `FRAME`, of luma and chroma
FRAME = "edgec_frame"  # in place of `PREPARE` on a GPU: see `edgec.runtime.processing.gpu`


def detect_outputs(spec: cards.BoxOutput, names: Sequence[str]) -> list[str]:
    """Names of the outputs that a compiled decoder reads, in its order; the first output where the card names none."""
    if isinstance(spec, cards.Ultraface | cards.Ssd):
        return [spec.scores, spec.boxes]
    if isinstance(spec, cards.Yunet):
        return [f"{kind}_{stride}" for stride in spec.strides for kind in YUNET_PARTS]
    return [getattr(spec, "output", None) or names[0]]


class CompiledProcessing:
    """The functions of the loaded library; safe to call from several threads."""

    def __init__(
        self, code: bytes, functions: Sequence[str], card: ModelCard, outputs: Sequence[str]
    ) -> None:
        self._card, self._names = card, list(outputs)
        module = load_code(code)
        try:
            self._prepare: Any = module[PREPARE] if PREPARE in functions else None
            self._detect: Any = module[DETECT] if DETECT in functions else None
            self._features: Any = module[FEATURES] if FEATURES in functions else None
        except AttributeError as error:
            raise ArtifactError(
                f"{PROCESSING_LIBRARY} lacks a function that the config names ({error})"
            ) from error
        self._of_thread = threading.local()
        self._cells: list[Array] = []
        self._tables = tables(card.input) if isinstance(card.input, cards.AudioInput) else []
        if self._detect is not None and (constants := constants_of(card)) is not None:
            self._cells = [_aligned(constants)]

    @property
    def prepares(self) -> bool:
        """Whether the library prepares pixels."""
        return self._prepare is not None

    @property
    def detects(self) -> bool:
        """Whether the library decodes boxes."""
        return self._detect is not None

    @property
    def extracts_features(self) -> bool:
        """Whether the library extracts features of sound."""
        return self._features is not None

    def features(self, samples: Samples, count: int) -> Array:
        """Extract the features of the `count` frames in `samples`, float32 `[count, width]`."""
        card = self._card.input
        if not isinstance(card, cards.AudioInput):
            raise ArtifactError(
                f"{PROCESSING_LIBRARY} extracts features of sound, but the card's input is {card.kind}"
            )
        shapes = TableShapes.of(card)
        held = getattr(self._of_thread, "sound", None)
        if held is None:
            held = self._of_thread.sound = (
                empty_aligned((shapes.samples,), np.float32),
                empty_aligned((1,), np.int32),
                empty_aligned((BLOCK, shapes.width), np.float32),
            )
        block, number, rows = held
        out = np.empty((count, shapes.width), np.float32)
        for first in range(0, count, BLOCK):
            number[0] = min(BLOCK, count - first)
            part = samples[first * shapes.step :][: shapes.samples]
            block[: len(part)], block[len(part) :] = part, 0.0
            self._features(block, number, *self._tables, rows)
            out[first : first + BLOCK] = rows[: number[0]]
        return out

    def prepare(self, picture: Frame, out: Array) -> None:
        """Fill the model's input `out` from a picture `[height, width, channels]` of the input's size."""
        self._prepare(np.ascontiguousarray(picture), out)

    def detect(self, outputs: Mapping[str, Array], place: Placement) -> list[Detection]:
        """Decode the model's outputs to detections in the frame."""
        spec = self._card.output
        if not isinstance(spec, cards.BoxOutput):
            raise ArtifactError(
                f"{PROCESSING_LIBRARY} decodes boxes, but the card's decoder is {spec.decoder}"
            )
        given = [_aligned(named(outputs, name)) for name in detect_outputs(spec, self._names)]
        results = getattr(self._of_thread, "results", None)
        if results is None:
            limit = min(spec.max_detections, self._anchors(spec, given[0]))
            results = [
                empty_aligned((limit, 4), np.float32),
                empty_aligned((limit,), np.float32),
                empty_aligned((limit,), np.int32),
                empty_aligned((1,), np.int32),
            ]
            self._of_thread.results = results
        boxes, scores, classes, count = results
        self._detect(*given, *self._cells, *results)
        kept = int(count[0])
        return finish(boxes[:kept], scores[:kept], classes[:kept], self._card, place)

    @staticmethod
    def _anchors(spec: cards.BoxOutput, output: Array) -> int:
        return int(output.shape[2] if isinstance(spec, cards.Yolov8) else output.shape[1])


def _aligned(array: Array) -> Array:
    if is_readable(array):
        return array
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy
