"""Pre- and postprocessing on a GPU: a camera's frame becomes the model's input there, and the model's outputs become
the boxes that remain after suppression.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgec.runtime import card as cards
from edgec.runtime.artifact.reader import PROCESSING_LIBRARY
from edgec.runtime.card import ImageInput, ModelCard
from edgec.runtime.errors import ArtifactError, InputError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.gpu.arrays import from_host, on_host, place_of
from edgec.runtime.gpu.code import unpack_programs
from edgec.runtime.processing.boxes import finish, grid, named
from edgec.runtime.processing.compiled import DETECT, FRAME, detect_outputs
from edgec.runtime.processing.image import Placement, check, check_form, fit, place
from edgec.runtime.processing.results import Detection
from edgec.runtime.processing.sampling import MOST_BYTES, RESAMPLED, tables

if TYPE_CHECKING:
    from edgec.runtime.gpu.program import GpuFunction

Keep = Callable[[list[Any], Sequence[str]], list[Any]]
"""Runs the model; the outputs with these names stay on the GPU."""
_SIZES = 4  # of frames, of which what they need is kept


class Load(Protocol):
    """Makes a function of a program on the model's GPU: `edgec.runtime.gpu.program.GpuFunction.beside`."""

    def __call__(
        self, code: bytes, /, shape: tuple[int, ...] | None = None, fixed: Sequence[Array] = ()
    ) -> GpuFunction:
        """See there."""
        ...


class _Sized:
    """The program for frames of one size, released with its last reference."""

    def __init__(self, function: GpuFunction) -> None:
        self.function = function

    def __del__(self) -> None:
        self.function.close()


class FrameProgram:
    """Makes a model's input of frames of any size; safe to call from several threads."""

    def __init__(self, code: bytes, card: ImageInput, load: Load) -> None:
        self._code, self._card, self._load = code, card, load
        self._sized: OrderedDict[tuple[int, int, int], _Sized] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, frame: Any) -> tuple[Any, Placement]:  # noqa: ANN401 - checked here
        """The model's input, which stays on the GPU, and the frame's placement in it.

        Args:
            frame: uint8 `[height, width, 3]` (BGR) or gray, of numpy or on the GPU.

        Raises:
            InputError: not a frame, or one on the GPU that only the host can resize.
        """
        where = place_of(frame)
        if where is not None and not on_host(where):
            return self._of_gpu(frame, where)
        given = check(from_host("frame", frame) if where is not None else frame)
        if not self._resized_here(given.shape[1], given.shape[0]) or given.nbytes > MOST_BYTES:
            picture, placement = place(given, self._card)
            return self._made(picture.reshape(_pixels(picture.shape)), None)[0], placement
        return self._made(given.reshape(_pixels(given.shape)), None)

    def _of_gpu(self, frame: Any, where: tuple[int, int]) -> tuple[Any, Placement]:  # noqa: ANN401
        shape = tuple(int(size) for size in frame.shape)
        check_form(shape, str(frame.dtype).removeprefix("torch."))
        if not self._resized_here(shape[1], shape[0]):
            raise InputError(
                f"the model card resizes by {self._card.interpolation!r}, which the host does, and the frame lies on "
                "the GPU.\nCopy it to the host, resize it there, or declare interpolation = 'linear'."
            )
        return self._made(frame, where)

    def _resized_here(self, width: int, height: int) -> bool:
        found = fit(width, height, self._card)
        same = (found.width, found.height) == (found.inner_width, found.inner_height)
        return same or self._card.interpolation in RESAMPLED

    def _made(self, frame: Any, where: tuple[int, int] | None) -> tuple[Any, Placement]:  # noqa: ANN401
        shape = _pixels(frame.shape)
        found = fit(shape[1], shape[0], self._card)
        sized = self._of_size(shape)
        given = frame if where is None else sized.function.receive("frame", frame, where)
        (made,) = sized.function.call_keeping([given], frozenset((0,)))
        return made.given(), found.placement

    def _of_size(self, shape: tuple[int, int, int]) -> _Sized:
        with self._lock:
            sized = self._sized.get(shape)
            if sized is None:
                height, width, _ = shape
                size = self._card.height, self._card.width
                fixed = tables(fit(width, height, self._card), shape, self._card.interpolation, size)
                sized = self._sized[shape] = _Sized(self._load(self._code, shape, fixed))
                if len(self._sized) > _SIZES:
                    self._sized.popitem(last=False)
            self._sized.move_to_end(shape)
            return sized

    def close(self) -> None:
        """Release what no call is using; the rest goes with its call."""
        with self._lock:
            self._sized.clear()


def _pixels(shape: Sequence[int]) -> tuple[int, int, int]:
    return int(shape[0]), int(shape[1]), int(shape[2]) if len(shape) == 3 else 1


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
        load: Load,
        keep: Keep | None,
    ) -> None:
        self._card, self._names, self._keep = card, list(outputs), keep
        programs = unpack_programs(code)
        if missing := [name for name in functions if name not in programs]:
            raise ArtifactError(f"{PROCESSING_LIBRARY} lacks a function that the config names ({missing[0]})")
        self._frames: FrameProgram | None = None
        if FRAME in functions and isinstance(card.input, ImageInput):
            self._frames = FrameProgram(programs[FRAME], card.input, load)
        self._detect = load(programs[DETECT]) if DETECT in functions and keep is not None else None
        self._cells: list[Array] = []
        spec = card.output
        if isinstance(spec, cards.Yolox) and not spec.decoded and isinstance(card.input, ImageInput):
            cells, strides = grid(card.input.width, card.input.height, spec.strides)
            self._cells = [np.concatenate([cells, strides], axis=1)]

    @property
    def prepares(self) -> bool:
        """Whether frames become the model's input there."""
        return self._frames is not None

    @property
    def detects(self) -> bool:
        """Whether outputs become boxes there."""
        return self._detect is not None

    def prepare(self, frame: Any) -> tuple[Any, Placement]:  # noqa: ANN401 - checked by `FrameProgram`
        """The model's input from a frame; it stays on the GPU.

        Raises:
            InputError: as `FrameProgram`.
        """
        assert self._frames is not None
        return self._frames(frame)

    def run(self, arrays: list[Any]) -> dict[str, Any]:
        """The model's outputs, of which those that `detect` reads stay on the GPU."""
        spec = self._card.output
        assert self._keep is not None
        assert isinstance(spec, cards.BoxOutput)
        return dict(zip(self._names, self._keep(arrays, detect_outputs(spec, self._names)), strict=True))

    def detect(self, outputs: Mapping[str, Any], place: Placement) -> list[Detection]:
        """Detections in the frame."""
        spec = self._card.output
        assert self._detect is not None
        assert isinstance(spec, cards.BoxOutput)
        held: list[Any] = [named(outputs, name) for name in detect_outputs(spec, self._names)]
        boxes, scores, classes, count = self._detect([*(one.given() for one in held), *self._cells])
        kept = int(count[0])
        return finish(boxes[:kept], scores[:kept], classes[:kept], self._card, place)

    def close(self) -> None:
        """Release the programs."""
        for one in (self._frames, self._detect):
            if one is not None:
                one.close()
