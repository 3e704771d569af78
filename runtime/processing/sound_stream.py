"""Streams of sound: each hop computes the features of its new frames only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.processing.audio import AudioPreprocessor, Samples
from edgec.runtime.processing.results import Result

Decide = Callable[[Array, tuple[float, float]], list[Result]]
"""Takes a model's input and the start and end in seconds of its window."""


class SoundStream:
    """Takes samples in chunks of any length and returns the results of each completed window.

    The windows are those of `predict` on the whole sound if the hop is a multiple of the features' step; otherwise the
    hop is rounded to one, at least one step. For plain waveforms any hop is exact.
    """

    def __init__(self, sound: AudioPreprocessor, decide: Decide) -> None:
        card = sound.card
        self._sound, self._decide, self._rate = sound, decide, card.sample_rate
        hop = max(1, round((card.hop_s or card.window_s) * card.sample_rate))
        self._plain = card.features == "waveform"
        self._step = 1 if self._plain else sound.step
        self._frame = 1 if self._plain else sound.frame
        self._hop = max(1, round(hop / self._step))
        self._length = (card.window_samples - self._frame) // self._step + 1
        self._rest = np.zeros(0, np.float32)
        """Samples that do not fill a frame yet."""
        self._rows: Array | None = None
        """Content of the next windows: samples, or rows of features."""
        self._begin = 0
        """Index of the first row since the stream began."""

    def push(self, samples: Samples) -> list[Result] | None:
        """Take the next samples, float32 `[n]` at the card's rate.

        Returns:
            the results of the windows that they complete; None when they complete none.
        """
        self._take(samples)
        results: list[Result] | None = None
        while self._rows is not None and len(self._rows) >= max(self._length, self._hop):
            results = [] if results is None else results
            start = self._begin * self._step / self._rate
            tensor = self._sound.fill(self._rows[: self._length])
            # before the run: a window that fails is over, and does not come back with the next samples
            self._rows = self._rows[self._hop :]
            self._begin += self._hop
            results += self._decide(tensor, (start, start + self._sound.card.window_s))
        return results

    def _take(self, samples: Samples) -> None:
        rest = np.concatenate([self._rest, samples])
        count = (len(rest) - self._frame) // self._step + 1 if len(rest) >= self._frame else 0
        if count:
            used = rest[: (count - 1) * self._step + self._frame]
            new = self._sound.scaled(used) if self._plain else self._sound.features(used)
            self._rows = new if self._rows is None else np.concatenate([self._rows, new])
        self._rest = rest[count * self._step :]
