"""Audio preprocessing: from samples to the model's input, by windows and their log-mel or MFCC features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.runtime.card import AudioInput
from edgec.runtime.errors import InputError
from edgec.runtime.execution.compiled_functions import Array, empty_aligned

Samples = npt.NDArray[np.float32]
Compute = Callable[[Samples, int], Array]
"""Takes samples and the number of frames in them; returns the features of each, `[frames, width]`."""

BLOCK = 16
"""Frames per call of the compiled feature extraction."""


def samples_of(sound: Any, rate: int | None, card: AudioInput) -> Samples:  # noqa: ANN401 - checked here
    """Convert sound to mono samples in -1 to 1 at the card's rate.

    Args:
        sound: `[n]` or `[n, channels]`; floats, or integers of 16 or 32 bits.
        rate: samples per second; None for the card's.
        card: the input's description.

    Raises:
        InputError: not samples.
    """
    if not isinstance(sound, np.ndarray) or sound.ndim not in (1, 2) or not sound.size:
        what = f"{sound.dtype}{list(sound.shape)}" if isinstance(sound, np.ndarray) else type(sound).__name__
        raise InputError(f"sound must be a numpy array of samples [n] or [n, channels], not {what}")
    if sound.dtype.kind == "i":
        samples = sound.astype(np.float32) / np.float32(-float(np.iinfo(sound.dtype).min))
    elif sound.dtype.kind == "f":
        samples = sound.astype(np.float32, copy=False)
    else:
        raise InputError(f"samples must be floats in -1 to 1 or signed integers, not {sound.dtype}")
    if samples.ndim == 2:
        samples = samples.mean(axis=1, dtype=np.float32)
    return resample(samples, rate, card.sample_rate) if rate and rate != card.sample_rate else samples


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """Resample with a windowed-sinc filter (Smith, "Digital Audio Resampling", 1984).

    Frequencies above half the lower rate are filtered out, so that they do not alias.
    """
    if rate <= 0:
        raise InputError(f"the sample rate must be positive, not {rate}")
    count = max(1, round(len(samples) * wanted / rate))
    cut = min(1.0, wanted / rate)
    half = 16 / cut
    taps = np.arange(-int(half), int(half) + 2)
    padded = np.pad(samples, int(half) + 2)
    out = np.empty(count, np.float32)
    block = 1 << 14
    for start in range(0, count, block):
        at = np.arange(start, min(start + block, count)) * (rate / wanted)
        whole = np.floor(at).astype(np.int64)
        distance = (at - whole)[:, None] - taps
        window = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / half, -1, 1))
        weights = cut * np.sinc(distance * cut) * window
        out[start : start + block] = (padded[whole[:, None] + taps + int(half) + 2] * weights).sum(axis=1)
    return out


def _mel(frequency: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + frequency / 700.0))
    # Slaney's Auditory Toolbox: linear below 1 kHz, logarithmic above.
    linear = frequency / (200.0 / 3.0)
    return np.where(
        frequency < 1000.0, linear, 15.0 + np.log(np.maximum(frequency, 1.0) / 1000.0) * 27.0 / np.log(6.4)
    )


def _hz(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def mel_filters(card: AudioInput) -> npt.NDArray[np.float32]:
    """Triangular filters, equally wide on the mel scale: `[fft_size / 2 + 1, mels]`.

    On HTK's scale their peak is 1, on Slaney's their area.
    """
    size, high = fft_size(card), card.max_hz or card.sample_rate / 2
    limits = _mel(np.array([card.min_hz, high]), card.mel_scale)
    edges = _hz(np.linspace(limits[0], limits[1], card.mels + 2), card.mel_scale)
    bins = np.arange(size // 2 + 1) * card.sample_rate / size
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    if card.mel_scale == "slaney":
        triangles *= 2.0 / (edges[2:] - edges[:-2])
    return np.asarray(triangles, np.float32)


def fft_size(card: AudioInput) -> int:
    """The card's FFT size, or the next power of two that holds a frame."""
    frame = round(card.frame_s * card.sample_rate)
    return card.fft_size or 1 << (frame - 1).bit_length()


def frame_window(card: AudioInput) -> npt.NDArray[np.float32]:
    """The window function that frames are multiplied by."""
    frame = round(card.frame_s * card.sample_rate)
    low = {"hann": 0.5, "hamming": 0.46, "none": 0.0}[card.window]
    return np.asarray((1.0 - low) - low * np.cos(2 * np.pi * np.arange(frame) / frame), np.float32)


def cosine_transform(card: AudioInput) -> npt.NDArray[np.float32]:
    """The matrix from log-mel energies to MFCC, `[mels, coefficients]` (DCT-II, orthonormal)."""
    rows = np.arange(card.coefficients)[None, :] * (np.arange(card.mels)[:, None] + 0.5) * np.pi / card.mels
    dct = np.asarray(np.cos(rows) * np.sqrt(2.0 / card.mels), np.float32)
    dct[:, 0] /= np.float32(np.sqrt(2.0))
    return dct


@dataclass(frozen=True)
class TableShapes:
    """Sizes of the tables of the compiled feature extraction, padded to whole vectors so that no remainders arise."""

    half: int
    """Half a frame, rounded up."""
    step: int
    samples: int
    """Samples in a block of frames."""
    bins: int
    mels: int
    width: int
    """Features per frame."""

    @staticmethod
    def of(card: AudioInput) -> TableShapes:
        """Compute the sizes for a card."""
        half = (round(card.frame_s * card.sample_rate) + 1) // 2
        step = max(1, round(card.step_s * card.sample_rate))
        bins = -(-(fft_size(card) // 2 + 1) // 32) * 32
        width = card.mels if card.features == "log-mel" else card.coefficients
        return TableShapes(half, step, (BLOCK - 1) * step + 2 * half, bins, -(-card.mels // 16) * 16, width)


def tables(card: AudioInput) -> list[Array]:
    """Constant arguments of the compiled feature extraction, in its order."""
    shapes, size = TableShapes.of(card), fft_size(card)
    used = size // 2 + 1
    angles = 2 * np.pi / size * (np.arange(shapes.half)[:, None] + 0.5) * np.arange(used)
    made = [
        _padded(frame_window(card), (2 * shapes.half,)),
        _padded(np.cos(angles), (shapes.half, shapes.bins)),
        _padded(np.sin(angles), (shapes.half, shapes.bins)),
        _padded(mel_filters(card), (shapes.bins, shapes.mels)),
    ]
    if card.features == "mfcc":
        made.append(_padded(cosine_transform(card), (card.mels, card.coefficients)))
    return made


def _padded(table: npt.NDArray[np.floating], shape: tuple[int, ...]) -> Array:
    """Copy a table to aligned float32 memory, padded with zeros to `shape`."""
    padded = empty_aligned(shape, np.float32)
    padded[:] = 0.0
    padded[tuple(map(slice, table.shape))] = table
    return padded


class AudioPreprocessor:
    """Turns windows of samples into a model's input of a given shape and dtype.

    `compute` is the artifact's compiled feature extraction; without it numpy computes the features.
    """

    def __init__(
        self, card: AudioInput, shape: tuple[int, ...], dtype: str, compute: Compute | None = None
    ) -> None:
        self.card = card
        self._shape, self._dtype = shape, np.dtype(dtype)
        self.frame = round(card.frame_s * card.sample_rate)
        self.step = max(1, round(card.step_s * card.sample_rate))
        self._compute = compute
        self._filters, self._window, self._dct = mel_filters(card), frame_window(card), cosine_transform(card)

    def windows(self, samples: Samples) -> Iterator[tuple[float, float, Array]]:
        """Start and end in seconds and the model's input of each window; the last one is padded with silence.

        A remainder shorter than half a hop after the last complete window is dropped.
        """
        length, rate = self.card.window_samples, self.card.sample_rate
        hop = max(1, round((self.card.hop_s or self.card.window_s) * rate))
        starts = range(0, max(1, len(samples) - length + hop // 2 + 1), hop)
        for start in starts:
            window = samples[start : start + length]
            if len(window) < length:
                window = np.pad(window, (0, length - len(window)))
            yield start / rate, (start + length) / rate, self.tensor(window)

    def features(self, window: Samples) -> npt.NDArray[np.float32]:
        """The features of one window: samples, or `[frames, mels]`, or `[frames, coefficients]`."""
        card = self.card
        if card.features == "waveform":
            values = window
        else:
            if len(window) < self.frame:
                raise InputError(f"a window of {len(window)} samples is shorter than a frame ({self.frame})")
            if self._compute is not None:
                return self._compute(window, (len(window) - self.frame) // self.step + 1)
            frames = np.lib.stride_tricks.sliding_window_view(window, self.frame)[:: self.step] * self._window
            spectrum = np.abs(np.fft.rfft(frames, fft_size(card))).astype(np.float32)
            energy = spectrum * spectrum if card.power == 2 else spectrum
            values = np.log(energy @ self._filters + np.float32(card.log_offset))
            if card.features == "mfcc":
                values = values @ self._dct
        return self.scaled(values)

    def scaled(self, values: Array) -> npt.NDArray[np.float32]:
        """Apply the card's mean and scale."""
        card = self.card
        return ((values - np.float32(card.mean)) * np.float32(card.scale)).astype(np.float32, copy=False)

    def tensor(self, window: Samples) -> Array:
        """Turn one window of samples into the model's input.

        Raises:
            InputError: the number of features does not fit the model's input.
        """
        return self.fill(self.features(window))

    def fill(self, values: Array) -> Array:
        """Lay out one window's features as the model's input.

        Raises:
            InputError: their number does not fit the model's input.
        """
        if values.ndim == 2 and self.card.axes == "FT":
            values = values.T
        out = empty_aligned(self._shape, self._dtype)
        if values.size != out.size:
            raise InputError(
                f"the card's {self.card.features} features have shape {list(values.shape)}, "
                f"but the model expects {list(self._shape)}"
            )
        out[...] = values.reshape(self._shape)
        return out
