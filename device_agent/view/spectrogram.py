"""The last seconds of a sound as a picture: time to the right, frequency upwards, loudness as colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 640, 240
SECONDS = 6.4
"""Length of the picture; each column is a hundredth of a second."""
_BINS = 512
_FLOOR_DB = -90.0
_TICKS = (250, 500, 1000, 2000, 4000, 8000, 16000)


class Spectrogram:
    """Rolls on with each chunk of samples.

    Args:
        rate: samples per second.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._hop = max(1, round(rate * SECONDS / WIDTH))
        self._length = max(_BINS, 2 * self._hop)
        self._window = np.hanning(self._length).astype(np.float32)
        self._rest = np.zeros(self._length - self._hop, np.float32)
        self._levels = np.zeros((HEIGHT, WIDTH), np.uint8)
        self._rows = self._mapping()

    def push(self, chunk: NDArray[np.float32]) -> None:
        """Take samples, float32 `[samples]` in -1…1."""
        samples = np.concatenate([self._rest, np.asarray(chunk, np.float32)])
        count = (len(samples) - self._length) // self._hop + 1
        if count <= 0:
            self._rest = samples
            return
        self._rest = samples[count * self._hop :]
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._length)[:: self._hop][:count]
        frames = frames[-WIDTH:]
        size = np.abs(np.fft.rfft(frames * self._window, axis=1)) / (self._window.sum() / 2)
        level = 20 * np.log10(np.maximum(size[:, self._rows], 1e-5))
        columns = np.clip((level / -_FLOOR_DB + 1) * 255, 0, 255).astype(np.uint8).T
        self._levels = np.concatenate([self._levels, columns], axis=1)[:, -WIDTH:]

    def picture(self) -> NDArray[np.uint8]:
        """Return the picture, uint8 `[HEIGHT, WIDTH, 3]`, BGR, with the frequencies at its left."""
        shown = np.ascontiguousarray(cv2.applyColorMap(self._levels, cv2.COLORMAP_INFERNO), np.uint8)
        for hertz in _TICKS:
            if hertz >= self.rate / 2:
                break
            row = self._row_of(hertz)
            cv2.line(shown, (0, row), (6, row), (230, 230, 230), 1)
            text = f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"
            cv2.putText(
                shown, text, (9, row + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (230, 230, 230), 1, cv2.LINE_AA
            )
        return shown

    def _mapping(self) -> NDArray[np.int64]:
        """Return the frequency bin of each row: evenly spaced in mel, as hearing is."""
        top = _mel(self.rate / 2)
        hertz = 700 * (10 ** (np.linspace(top, 0, HEIGHT) / 2595) - 1)
        bins = np.round(hertz * self._length / self.rate).astype(np.int64)
        return np.clip(bins, 0, self._length // 2)

    def _row_of(self, hertz: float) -> int:
        return round((1 - _mel(hertz) / _mel(self.rate / 2)) * (HEIGHT - 1))


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
