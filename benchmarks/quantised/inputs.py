"""Realistic inputs of quantised models: crops of photographs, spoken digits as spectrograms, sounds."""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RATE = 16000
LARGEST_SIDE = 1024  # of photographs that are kept for crops


@cache
def photographs(data: Path) -> list[Array]:
    """All pictures of a data folder, [height, width, 3], RGB."""
    files = sorted([*(data / "images").rglob("*.jpg"), *(data / "images").rglob("*.png")])
    pictures = []
    for file in files:
        if (picture := cv2.imread(str(file))) is not None:
            factor = min(LARGEST_SIDE / max(picture.shape[:2]), 1.0)
            small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            pictures.append(np.ascontiguousarray(small[..., ::-1]))
    return pictures


def crops(data: Path, count: int, height: int, width: int, seed: int = 11) -> list[Array]:
    """Random square crops of photographs, [1, height, width, 3], uint8."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        picture = photographs(data)[number % len(photographs(data))]
        side = max(int(min(picture.shape[:2]) * rng.uniform(0.3, 1)), 8)
        top = rng.integers(0, picture.shape[0] - side + 1)
        left = rng.integers(0, picture.shape[1] - side + 1)
        crop = np.ascontiguousarray(picture[top : top + side, left : left + side])
        found.append(cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)[None])
    return found


@cache
def sounds(data: Path) -> list[Array]:
    """All sounds of a data folder at 16 kHz, [samples], -1 to 1, the spoken digits last."""
    files = sorted((data / "audio").rglob("*.wav"), key=lambda file: ("fsdd" in file.parts, str(file)))
    found = []
    for file in files:
        with wave.open(str(file)) as opened:
            if opened.getsampwidth() != 2:
                continue
            samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2").astype(np.float32)
            samples = samples.reshape(-1, opened.getnchannels()).mean(1) / 32768
            rate = opened.getframerate()
        at = np.arange(0, samples.size / rate, 1 / RATE)
        found.append(np.interp(at, np.arange(samples.size) / rate, samples).astype(np.float32))
    return found


def clips(data: Path, count: int, samples: int, seed: int = 11) -> list[Array]:
    """Random pieces of sounds, [samples], -1 to 1."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        sound = sounds(data)[number % len(sounds(data))]
        start = rng.integers(0, max(sound.size - samples, 0) + 1)
        piece = sound[start : start + samples]
        found.append(np.pad(piece, (0, samples - piece.size)))
    return found


def mfcc(clip: Array) -> Array:
    """Ten cepstral coefficients of 49 frames of a second, [49, 10], as MLPerf Tiny's keyword model takes them."""

    def mel(frequency: npt.ArrayLike) -> Array:
        return np.asarray(1127 * np.log(1 + np.asarray(frequency) / 700))

    edges, bins = np.linspace(mel(20), mel(4000), 42), mel(np.arange(257) * RATE / 512)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))).T
    cosines = np.cos(np.pi * np.outer(np.arange(40) + 0.5, np.arange(10)) / 40) * np.sqrt(2 / 40)
    frames = np.stack([clip[i * 320 : i * 320 + 480] for i in range(49)]) * np.hanning(480)
    return np.asarray(np.log(np.abs(np.fft.rfft(frames, 512)) @ filters + 1e-6) @ cosines)


def on_grid(values: Array, dtype: str, scale: float, zero: int) -> Array:
    """Real numbers as integers of a grid."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale + zero), limits.min, limits.max).astype(dtype)
