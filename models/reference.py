"""A model in ONNX Runtime with its card: the reference for the compiled artifact's `predict`.

The accuracies stated for the trained models are measured with it, and so with the runtime's own path from frame or
sound to typed results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgec.runtime.card import AudioInput, ImageInput, ModelCard
from edgec.runtime.processing.audio import AudioPreprocessor, samples_of
from edgec.runtime.processing.decoders import decode
from edgec.runtime.processing.image import ImagePreprocessor
from edgec.runtime.processing.results import Result
from edgec.targets.errors import EdgecError


class Reference:
    """`model` (a path, or the bytes of an ONNX file) with `card`, on `threads` threads."""

    def __init__(self, model: Path | bytes, card: ModelCard, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self.card = card
        self._names = [output.name for output in self._session.get_outputs()]
        self._input = self._session.get_inputs()[0]
        self._picture = (
            ImagePreprocessor(card.input, "float32") if isinstance(card.input, ImageInput) else None
        )
        self._sound: AudioPreprocessor | None = None
        if isinstance(card.input, AudioInput):
            shape = tuple(size if isinstance(size, int) else 1 for size in self._input.shape)
            self._sound = AudioPreprocessor(card.input, shape, "float32")

    def outputs(self, given: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The model's outputs by name for its only input."""
        values = self._session.run(self._names, {self._input.name: given})
        return dict(zip(self._names, (np.asarray(value) for value in values), strict=True))

    def predict(self, source: NDArray[Any], rate: int | None = None) -> list[Result]:
        """Typed results of a frame (BGR, uint8) or of samples at `rate`.

        Raises:
            EdgecError: the card is for plain tensors.
            InputError: neither a frame nor samples, or the card does not fit the model.
        """
        if self._picture is not None:
            given, place = self._picture(source)
            return decode(self.outputs(given), self.card, given=given, place=place)
        if self._sound is None:
            raise EdgecError(f"the card {self.card.name or ''} declares plain tensors, not frames or sound")
        results: list[Result] = []
        for start, end, given in self._sound.windows(samples_of(source, rate, self._sound.card)):
            results += decode(self.outputs(given), self.card, given=given, window=(start, end))
        return results

    def scores(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """The only output for one window of samples (at the card's rate), flat."""
        if self._sound is None:
            raise EdgecError(f"the card {self.card.name or ''} is not for sound")
        (output,) = self.outputs(self._sound.tensor(window)).values()
        return np.asarray(output, np.float32).reshape(-1)
