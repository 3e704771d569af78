"""Pre- and postprocessing on a GPU: a camera's frame becomes the model's input there, and the model's outputs become
the boxes that remain after suppression.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from edgec.runtime import card as cards
from edgec.runtime.artifact.reader import PROCESSING_LIBRARY
from edgec.runtime.card import ImageInput, ModelCard
from edgec.runtime.errors import ArtifactError, BrokenOutput, InputError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.gpu.arrays import DeviceArray, from_host, on_host, place_of
from edgec.runtime.gpu.code import unpack_programs
from edgec.runtime.processing.boxes import constants_of, finish, named
from edgec.runtime.processing.compiled import DETECT, FRAME, FRAME_NV12, detect_outputs
from edgec.runtime.processing.image import Placement, check, check_form, fit, place
from edgec.runtime.processing.nv12 import Nv12
from edgec.runtime.processing.results import Detection
from edgec.runtime.processing.sampling import MOST_BYTES, RESAMPLED, planar_tables, tables

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

    def __init__(self, code: bytes, card: ImageInput, load: Load, planar: bytes = b"") -> None:
        self._code, self._planar, self._card, self._load = code, planar, card, load
        self._sized: OrderedDict[tuple[int, ...], _Sized] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def input_of(self, frame: Any) -> Iterator[tuple[DeviceArray, Placement]]:  # noqa: ANN401 - checked here
        """The model's input, as the begin of a chain of programs, and the frame's placement in it.

        Args:
            frame: uint8 `[height, width, 3]` (BGR) or gray, or `Nv12`, of numpy or on the GPU.

        Raises:
            InputError: not a frame, or one on the GPU that only the host can resize.
        """
        planes, width, placement = self._planes(frame)
        sized, found = self._of_size(tuple(tuple(plane.shape) for plane in planes), width)
        with sized.function.chain() as chain:
            chain.keep(sized)
            arrays = [
                plane if (where := place_of(plane)) is None else sized.function.receive("frame", plane, where)
                for plane in planes
            ]
            (made,) = sized.function.queue(chain, arrays)
            yield made, placement or found

    def _planes(self, frame: Any) -> tuple[list[Any], int, Placement | None]:  # noqa: ANN401
        """A frame as its program takes it, its width, and its placement where the host has resized it."""
        planar = isinstance(frame, Nv12)
        planes = [frame.luma, frame.chroma] if isinstance(frame, Nv12) else [frame]
        places = [place_of(plane) for plane in planes]
        on_gpu = any(where is not None and not on_host(where) for where in places)
        if on_gpu:
            height, width = (frame.height, frame.width) if isinstance(frame, Nv12) else _checked(frame)
            if not self._resized_here(width, height):
                raise InputError(
                    f"the model card resizes by {self._card.interpolation!r}, which the host does, and the frame lies "
                    "on the GPU.\nCopy it to the host, resize it there, or declare interpolation = 'linear'."
                )
            if planar and not self._planar:
                raise InputError("the artifact takes no NV12 from the GPU: compile the model again")
            return planes, width, None
        held = [
            plane if where is None else from_host("frame", plane)
            for plane, where in zip(planes, places, strict=True)
        ]
        if isinstance(frame, Nv12):
            least = max(plane.nbytes for plane in held)
            if self._planar and self._resized_here(frame.width, frame.height) and least <= MOST_BYTES:
                return held, frame.width, None
            held = [Nv12(held[0], held[1], frame.width).bgr()]
        given, placement = check(held[0]), None
        if not self._resized_here(given.shape[1], given.shape[0]) or given.nbytes > MOST_BYTES:
            given, placement = place(given, self._card)
        return [given.reshape(_pixels(given.shape))], given.shape[1], placement

    def _resized_here(self, width: int, height: int) -> bool:
        found = fit(width, height, self._card)
        same = (found.width, found.height) == (found.inner_width, found.inner_height)
        return same or self._card.interpolation in RESAMPLED

    def _of_size(self, shapes: tuple[tuple[int, ...], ...], width: int) -> tuple[_Sized, Placement]:
        """The program for frames whose planes have these shapes, and the placement of such a frame."""
        found = fit(width, shapes[0][0], self._card)
        key = (width, *shapes[0], *(shapes[1] if len(shapes) > 1 else ()))
        with self._lock:
            sized = self._sized.get(key)
            if sized is None:
                size = self._card.height, self._card.width
                if len(shapes) > 1:
                    rows = shapes[0][1], shapes[1][1]
                    fixed = planar_tables(found, rows, self._card.interpolation, size)
                else:
                    shapes = (_pixels(shapes[0]),)
                    fixed = tables(found, shapes[0], self._card.interpolation, size)
                code = self._planar if len(shapes) > 1 else self._code
                sized = self._sized[key] = _Sized(self._load(code, shapes, fixed))
                if len(self._sized) > _SIZES:
                    self._sized.popitem(last=False)
            self._sized.move_to_end(key)
            return sized, found.placement

    def close(self) -> None:
        """Release what no call is using; the rest goes with its call."""
        with self._lock:
            self._sized.clear()


def _checked(frame: Any) -> tuple[int, int]:  # noqa: ANN401
    """Height and width of a frame on a GPU."""
    shape = tuple(int(size) for size in frame.shape)
    check_form(shape, str(frame.dtype).removeprefix("torch."))
    return shape[0], shape[1]


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
            self._frames = FrameProgram(programs[FRAME], card.input, load, programs.get(FRAME_NV12, b""))
        self._detect: GpuFunction | None = None
        if DETECT in functions and model is not None:
            constants = constants_of(card)
            self._detect = load(programs[DETECT], fixed=[] if constants is None else [constants])
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
        boxes, scores, classes, count, broken, *marks = self._detect(held)
        if broken[0] and self._refuse_nan:
            names = ", ".join(detect_outputs(spec, self._names))
            raise BrokenOutput(f"output {names} contains NaN")
        kept = int(count[0])
        points = marks[0].reshape(len(boxes), -1, 2)[:kept] if marks else None
        return finish(boxes[:kept], scores[:kept], classes[:kept], self._card, place, points)

    def close(self) -> None:
        """Release the programs."""
        for one in (self._frames, self._detect):
            if one is not None:
                one.close()
