"""`predict` as a pipeline: preprocess a frame or sound, run the model, decode typed results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime import card as cards
from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.errors import InputError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.processing.audio import AudioPreprocessor, samples_of
from edgec.runtime.processing.compiled import CompiledProcessing
from edgec.runtime.processing.decoders import decode
from edgec.runtime.processing.image import ImagePreprocessor
from edgec.runtime.processing.results import Result
from edgec.runtime.processing.sound_stream import SoundStream

if TYPE_CHECKING:
    from edgec.runtime.processing.gpu import GpuProcessing

Call = Callable[[list[Array]], list[Array]]


class Predictor:
    """Connects a model's inputs and outputs with the pre- and postprocessing that its card declares.

    `config` is without states (`ArtifactConfig.visible`).
    `processing` is the checked code of the compiled library, used if the config lists functions of it; `gpu` is the
    same on a GPU.
    """

    def __init__(
        self,
        config: ArtifactConfig,
        card: cards.ModelCard,
        processing: bytes,
        gpu: GpuProcessing | None = None,
    ) -> None:
        self._card, self._config, self._gpu = card, config, gpu
        self._names = [spec.name for spec in config.outputs]
        compiled = config.around and gpu is None
        self._processing = (
            CompiledProcessing(processing, config.around, card, self._names) if compiled else None
        )
        self._picture: ImagePreprocessor | None = None
        self._sound: AudioPreprocessor | None = None
        if isinstance(card.input, cards.TensorInput):
            return
        spec = self._input_spec(card.input.name)
        if isinstance(card.input, cards.ImageInput):
            prepare = (
                self._processing.prepare
                if self._processing is not None and self._processing.prepares
                else None
            )
            self._picture = ImagePreprocessor(card.input, spec.dtype, prepare)
            self._check_size(card.input, spec)
        else:
            compute = (
                self._processing.features
                if self._processing is not None and self._processing.extracts_features
                else None
            )
            self._sound = AudioPreprocessor(card.input, spec.shape, spec.dtype, compute)

    def _input_spec(self, name: str | None) -> TensorSpec:
        if name is None and len(self._config.inputs) == 1:
            return self._config.inputs[0]
        for spec in self._config.inputs:
            if spec.name == name and len(self._config.inputs) == 1:
                return spec
        held = ", ".join(str(spec) for spec in self._config.inputs)
        wanted = "one input" if name is None else f"one input named {name!r}"
        raise InputError(f"the model card expects {wanted}, but {self._config.name} has {held}")

    def _check_size(self, card: cards.ImageInput, spec: TensorSpec) -> None:
        sizes = {"NCHW": (1, card.channels, card.height, card.width)}
        sizes["NHWC"] = (1, card.height, card.width, card.channels)
        expected = sizes[card.layout]
        if spec.shape != expected:
            raise InputError(
                f"the model card describes an input of {list(expected)}, but the model takes {spec}"
            )

    def __call__(self, source: Any, sample_rate: int | None, call: Call) -> list[Result]:  # noqa: ANN401 - checked
        """Typed results of a frame, of sound, or of a dict of arrays, depending on the card's input.

        Args:
            source: see `Model.predict`.
            sample_rate: see `Model.predict`.
            call: runs the model once, on its inputs in order.
        """
        if self._picture is not None:
            if (
                self._gpu is not None
                and self._gpu.prepares
                and not isinstance(self._card.output, cards.Anomaly)
            ):
                return self._on_gpu(self._gpu, source, call)
            given, place = self._picture(source)
            outputs = self._outputs(call, [given])
            if self._processing is not None and self._processing.detects:
                return list(self._processing.detect(outputs, place))
            return decode(outputs, self._card, given=given, place=place)
        if self._sound is not None:
            samples = samples_of(source, sample_rate, self._sound.card)
            results: list[Result] = []
            for start, end, given in self._sound.windows(samples):
                results += decode(self._outputs(call, [given]), self._card, given=given, window=(start, end))
            return results
        arrays = self._tensors(source)
        return decode(self._outputs(call, arrays), self._card, given=arrays[0])

    def _on_gpu(self, gpu: GpuProcessing, source: Any, call: Call) -> list[Result]:  # noqa: ANN401 - checked
        """As a call with a picture: the frame becomes the input on the GPU, and boxes come back from there."""
        with gpu.input_of(source) as (given, place):
            if gpu.detects:
                return list(gpu.detect(given, place))
            made: list[Any] = [given]
            outputs = self._outputs(call, made)
        return decode(outputs, self._card, given=made[0], place=place)

    def listen(self, call: Call) -> SoundStream:
        """Open a stream of sound; `call` runs the model once.

        Raises:
            InputError: the card's input is not sound.
        """
        if self._sound is None:
            raise InputError(f"{self._config.name} does not take sound")

        def decide(given: Array, seconds: tuple[float, float]) -> list[Result]:
            return decode(self._outputs(call, [given]), self._card, given=given, window=seconds)

        return SoundStream(self._sound, decide)

    def _outputs(self, call: Call, arrays: list[Array]) -> dict[str, Array]:
        return dict(zip(self._names, call(arrays), strict=True))

    def _tensors(self, source: Any) -> list[Array]:  # noqa: ANN401 - checked here
        expected = ", ".join(str(spec) for spec in self._config.inputs)
        if not isinstance(source, Mapping):
            raise InputError(f"this model takes a dict of arrays ({expected}), not {type(source).__name__}")
        arrays = []
        for spec in self._config.inputs:
            array = source.get(spec.name)
            if not isinstance(array, np.ndarray) or array.shape != spec.shape or array.dtype != spec.dtype:
                raise InputError(f"input {spec} is missing or of another shape or dtype")
            arrays.append(array)
        return arrays
