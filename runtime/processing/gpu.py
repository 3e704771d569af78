"""Pre- and postprocessing on a GPU: pixels become the model's input there, and anchors come back as boxes with scores.

The host resizes frames beforehand and suppresses boxes afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime import card as cards
from edgec.runtime.artifact.reader import PROCESSING_LIBRARY
from edgec.runtime.card import ModelCard
from edgec.runtime.errors import ArtifactError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.gpu.code import unpack_programs
from edgec.runtime.processing.boxes import grid, named, suppressed
from edgec.runtime.processing.compiled import PREPARE, SCORES, detect_outputs
from edgec.runtime.processing.image import Frame, Placement
from edgec.runtime.processing.results import Detection

if TYPE_CHECKING:
    from edgec.runtime.gpu.program import GpuFunction

Keep = Callable[[list[Any], Sequence[str]], list[Any]]
"""Runs the model; the outputs with these names stay on the GPU."""


class GpuProcessing:
    """The programs around a model; safe to call from several threads.

    Args:
        code: the artifact's library of pre- and postprocessing.
        functions: that the config names.
        card: of the model.
        outputs: names of the model's outputs.
        load: makes a function of a program, on the model's GPU.
        keep: runs the model; None for one with states.
    """

    def __init__(
        self,
        code: bytes,
        functions: Sequence[str],
        card: ModelCard,
        outputs: Sequence[str],
        load: Callable[[bytes], GpuFunction],
        keep: Keep | None,
    ) -> None:
        self._card, self._names, self._keep = card, list(outputs), keep
        programs = unpack_programs(code)
        if missing := [name for name in functions if name not in programs]:
            raise ArtifactError(f"{PROCESSING_LIBRARY} lacks a function that the config names ({missing[0]})")
        self._prepare = load(programs[PREPARE]) if PREPARE in functions else None
        self._scores = load(programs[SCORES]) if SCORES in functions and keep is not None else None
        self._cells: list[Array] = []
        spec = card.output
        if isinstance(spec, cards.Yolox) and not spec.decoded and isinstance(card.input, cards.ImageInput):
            cells, strides = grid(card.input.width, card.input.height, spec.strides)
            self._cells = [np.concatenate([cells, strides], axis=1)]

    @property
    def prepares(self) -> bool:
        """Whether pixels are prepared there: a picture of the input's size is enough."""
        return self._prepare is not None

    @property
    def detects(self) -> bool:
        """Whether anchors are scored there."""
        return self._scores is not None

    def prepare(self, picture: Frame) -> Any:  # noqa: ANN401 - an array on the GPU
        """The model's input from a picture `[height, width, channels]` of its size; it stays on the GPU."""
        assert self._prepare is not None
        (made,) = self._prepare.call_keeping([np.ascontiguousarray(picture)], frozenset((0,)))
        return made.given()

    def run(self, arrays: list[Any]) -> dict[str, Any]:
        """The model's outputs, of which those that `detect` reads stay on the GPU."""
        spec = self._card.output
        assert self._keep is not None
        assert isinstance(spec, cards.BoxOutput)
        return dict(zip(self._names, self._keep(arrays, detect_outputs(spec, self._names)), strict=True))

    def detect(self, outputs: Mapping[str, Any], place: Placement) -> list[Detection]:
        """Detections in the frame."""
        spec = self._card.output
        assert self._scores is not None
        assert isinstance(spec, cards.BoxOutput)
        held: list[Any] = [named(outputs, name) for name in detect_outputs(spec, self._names)]
        boxes, scores, classes = self._scores([*(one.given() for one in held), *self._cells])
        found = np.flatnonzero(scores >= np.float32(spec.score_threshold))
        return suppressed(boxes[found], scores[found], classes[found], spec, self._card, place)

    def close(self) -> None:
        """Release the programs."""
        for one in (self._prepare, self._scores):
            if one is not None:
                one.close()
