"""Pre- and postprocessing on a GPU: a camera's frame becomes the model's input there, and the model's outputs become
the boxes that remain after suppression.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgec.runtime import card as cards
from edgec.runtime.artifact.reader import PROCESSING_LIBRARY
from edgec.runtime.card import ImageInput, ModelCard
from edgec.runtime.errors import ArtifactError, BrokenOutput, InputError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.gpu.arrays import DeviceArray, from_host, on_host, place_of
from edgec.runtime.gpu.code import unpack_programs
from edgec.runtime.processing.boxes import finish, grid, named
from edgec.runtime.processing.compiled import DETECT, FRAME, detect_outputs
from edgec.runtime.processing.image import Placement, check, check_form, fit, place
from edgec.runtime.processing.results import Detection
from edgec.runtime.processing.sampling import MOST_BYTES, RESAMPLED, tables

if TYPE_CHECKING:
    from edgec.runtime.gpu.program import GpuFunction

Function = Callable[[], "GpuFunction"]
"""The model's, which raises `InputError` where it is closed."""
_RESULTS = 5  # of a program for boxes: one of before had four, and did not tell NaN
_SIZES = 4  # of frames, of which what they need is kept


class Load(Protocol):
    """Makes a function of a program on the model's GPU: `edgec.runtime.gpu.program.GpuFunction.beside`."""

    def __call__(
        self, code: bytes, /, shapes: Sequence[tuple[int, ...]] = (), fixed: Sequence[Array] = ()
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

    @contextmanager
    def input_of(self, frame: Any) -> Iterator[tuple[DeviceArray, Placement]]:  # noqa: ANN401 - checked here
        """The model's input, as the begin of a chain of programs, and the frame's placement in it.

        Args:
            frame: uint8 `[height, width, 3]` (BGR) or gray, of numpy or on the GPU.

        Raises:
            InputError: not a frame, or one on the GPU that only the host can resize.
        """
        where = place_of(frame)
        if where is not None and not on_host(where):
            given = self._of_gpu(frame)
            placement = None
        else:
            given = check(from_host("frame", frame) if where is not None else frame)
            where, placement = None, None
            if not self._resized_here(given.shape[1], given.shape[0]) or given.nbytes > MOST_BYTES:
                given, placement = place(given, self._card)
            given = given.reshape(_pixels(given.shape))
        shape = _pixels(given.shape)
        sized = self._of_size(shape)
        with sized.function.chain() as chain:
            chain.keep(sized)
            array = given if where is None else sized.function.receive("frame", given, where)
            (made,) = sized.function.queue(chain, [array])
            yield made, placement or fit(shape[1], shape[0], self._card).placement

    def _of_gpu(self, frame: Any) -> Any:  # noqa: ANN401
        """The same frame, which lies on a GPU, checked."""
        shape = tuple(int(size) for size in frame.shape)
        check_form(shape, str(frame.dtype).removeprefix("torch."))
        if not self._resized_here(shape[1], shape[0]):
            raise InputError(
                f"the model card resizes by {self._card.interpolation!r}, which the host does, and the frame lies on "
                "the GPU.\nCopy it to the host, resize it there, or declare interpolation = 'linear'."
            )
        return frame

    def _resized_here(self, width: int, height: int) -> bool:
        found = fit(width, height, self._card)
        same = (found.width, found.height) == (found.inner_width, found.inner_height)
        return same or self._card.interpolation in RESAMPLED

    def _of_size(self, shape: tuple[int, int, int]) -> _Sized:
        with self._lock:
            sized = self._sized.get(shape)
            if sized is None:
                height, width, _ = shape
                size = self._card.height, self._card.width
                fixed = tables(fit(width, height, self._card), shape, self._card.interpolation, size)
                sized = self._sized[shape] = _Sized(self._load(self._code, [shape], fixed))
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
        model: the model's function; None for one with states.
        refuse_nan: whether `detect` raises where the model's output contains NaN.
    """

    def __init__(
        self,
        code: bytes,
        functions: Sequence[str],
        card: ModelCard,
        outputs: Sequence[str],
        load: Load,
        model: Function | None,
        *,
        refuse_nan: bool = False,
    ) -> None:
        self._card, self._names, self._model, self._refuse_nan = card, list(outputs), model, refuse_nan
        programs = unpack_programs(code)
        if missing := [name for name in functions if name not in programs]:
            raise ArtifactError(f"{PROCESSING_LIBRARY} lacks a function that the config names ({missing[0]})")
        self._frames: FrameProgram | None = None
        if FRAME in functions and isinstance(card.input, ImageInput):
            self._frames = FrameProgram(programs[FRAME], card.input, load)
        self._detect: GpuFunction | None = None
        if DETECT in functions and model is not None:
            self._detect = load(programs[DETECT], fixed=_fixed(card))
            if self._detect.results < _RESULTS:
                self._detect.close()
                self._detect = None

    @property
    def prepares(self) -> bool:
        """Whether frames become the model's input there."""
        return self._frames is not None

    @property
    def detects(self) -> bool:
        """Whether outputs become boxes there."""
        return self._detect is not None

    def input_of(self, frame: Any) -> AbstractContextManager[tuple[DeviceArray, Placement]]:  # noqa: ANN401
        """The model's input from a frame, as the begin of a chain of programs.

        Raises:
            InputError: as `FrameProgram`.
        """
        assert self._frames is not None
        return self._frames.input_of(frame)

    def detect(self, given: DeviceArray, place: Placement) -> list[Detection]:
        """Run the model on an input in a chain, which ends with detections in the frame.

        Raises:
            BrokenOutput: an output contains NaN, which is to be refused.
        """
        spec, chain = self._card.output, given.chain
        assert self._detect is not None
        assert self._model is not None
        assert chain is not None
        assert isinstance(spec, cards.BoxOutput)
        outputs: dict[str, Any] = dict(zip(self._names, self._model().queue(chain, [given]), strict=True))
        held: list[Any] = [named(outputs, name) for name in detect_outputs(spec, self._names)]
        boxes, scores, classes, count, broken = self._detect(held)
        if broken[0] and self._refuse_nan:
            names = ", ".join(detect_outputs(spec, self._names))
            raise BrokenOutput(f"output {names} contains NaN")
        kept = int(count[0])
        return finish(boxes[:kept], scores[:kept], classes[:kept], self._card, place)

    def close(self) -> None:
        """Release the programs."""
        for one in (self._frames, self._detect):
            if one is not None:
                one.close()


def _fixed(card: ModelCard) -> list[Array]:
    """What the program for boxes needs besides the model's outputs."""
    spec = card.output
    if isinstance(spec, cards.Yolox) and not spec.decoded and isinstance(card.input, ImageInput):
        cells, strides = grid(card.input.width, card.input.height, spec.strides)
        return [np.concatenate([cells, strides], axis=1)]
    return []
