"""Background textures. Some families are excluded from training, to evaluate on unseen ones."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
"""`[height, width, 3]`, BGR, 0 to 255."""
Rng = np.random.Generator


def _colour(rng: Rng, low: float = 20, high: float = 225) -> Picture:
    """A random colour, usually not a vivid one: `[3]`."""
    gray = rng.uniform(low, high)
    tint = rng.uniform(-1, 1, 3) * rng.choice([10.0, 30.0, 70.0])
    return np.asarray(np.clip(gray + tint, 5, 250), np.float32)


def _mix(weight: Picture, a: Picture, b: Picture) -> Picture:
    """From colour `a` to `b` by `weight` `[height, width]` in 0 to 1."""
    result: Picture = a + weight[..., None] * (b - a)
    return result


def _value_noise(rng: Rng, height: int, width: int, cells: int) -> Picture:
    grid = rng.random((max(2, cells * height // width) + 1, cells + 1), np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _gradient(rng: Rng, height: int, width: int) -> Picture:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    return _mix(
        np.clip(slope * rng.uniform(0.6, 1.4) + 0.5, 0, 1).astype(np.float32), _colour(rng), _colour(rng)
    )


def _clouds(rng: Rng, height: int, width: int) -> Picture:
    weight = np.zeros((height, width), np.float32)
    for octave in range(4):
        weight += _value_noise(rng, height, width, int(rng.integers(2, 5)) << octave) / 2 ** (octave + 1)
    return _mix(np.clip(weight, 0, 1), _colour(rng), _colour(rng))


def _stripes(rng: Rng, height: int, width: int) -> Picture:
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.2) * width
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 6))
    weight = np.clip(wave * rng.choice([0.5, 4.0]) + 0.5, 0, 1).astype(np.float32)
    first = _colour(rng)
    return _mix(weight, first, np.clip(first + rng.uniform(-60, 60, 3), 5, 250).astype(np.float32))


def _grain(rng: Rng, height: int, width: int) -> Picture:
    noise = rng.normal(0, 1, (height, width)).astype(np.float32)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 2.0)), np.float32)
    base = _mix(_value_noise(rng, height, width, 3), _colour(rng), _colour(rng))
    result: Picture = base + (noise / noise.std() * rng.uniform(8, 25))[..., None]
    return result


def _blobs(rng: Rng, height: int, width: int) -> Picture:
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = _colour(rng)
    for _ in range(int(rng.integers(6, 25))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.uniform(0.03, 0.25) * width), int(rng.uniform(0.03, 0.25) * width))
        colour = np.clip(_colour(rng), 5, 250).tolist()
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.02, 0.06) * width), np.float32)


def _tiles(rng: Rng, height: int, width: int) -> Picture:
    size = rng.uniform(0.06, 0.22) * width
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(-0.3, 0.3)
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / size, (y * np.cos(angle) - x * np.sin(angle)) / size
    joint = (np.minimum(u % 1, v % 1) < rng.uniform(0.03, 0.1)).astype(np.float32)
    cell = np.floor(u) * 12.9898 + np.floor(v) * 78.233
    shade = np.modf(np.abs(np.sin(cell) * 43758.5453))[0].astype(np.float32)
    base = _colour(rng)
    tile = _mix(shade, base, np.clip(base + rng.uniform(-45, 45, 3), 5, 250).astype(np.float32))
    result: Picture = tile + joint[..., None] * (_colour(rng) - tile)
    return result


def _rings(rng: Rng, height: int, width: int) -> Picture:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    warp = _value_noise(rng, height, width, 4) * rng.uniform(0.05, 0.3) * width
    radius = (
        np.hypot(x - rng.uniform(-1, 2) * width, (y - rng.uniform(-1, 2) * height) * rng.uniform(0.2, 1))
        + warp
    )
    weight = (0.5 + 0.5 * np.sin(radius * 2 * np.pi / (rng.uniform(0.02, 0.08) * width))).astype(np.float32)
    first = _colour(rng)
    return _mix(weight, first, np.clip(first * rng.uniform(0.55, 0.9), 5, 250).astype(np.float32))


def _patches(rng: Rng, height: int, width: int) -> Picture:
    seeds = rng.random((int(rng.integers(8, 30)), 2)) * (width, height)
    y, x = np.mgrid[0:height:4, 0:width:4].astype(np.float32)
    nearest = np.argmin([(x - sx) ** 2 + (y - sy) ** 2 for sx, sy in seeds], axis=0).astype(np.uint8)
    nearest = np.asarray(cv2.resize(nearest, (width, height), interpolation=cv2.INTER_NEAREST))
    base = _colour(rng)
    colours = np.clip(base + rng.uniform(-50, 50, (len(seeds), 3)), 5, 250).astype(np.float32)
    return np.asarray(colours[nearest], np.float32)


def _scratches(rng: Rng, height: int, width: int) -> Picture:
    picture = _clouds(rng, height, width)
    for _ in range(int(rng.integers(15, 60))):
        start = rng.uniform((0, 0), (width, height))
        end = start + rng.normal(0, 0.25 * width, 2)
        colour = np.clip(picture.mean((0, 1)) + rng.uniform(-60, 60, 3), 5, 250).tolist()
        points = (tuple(int(v) for v in start), tuple(int(v) for v in end))
        cv2.line(picture, *points, colour, int(rng.integers(1, 3)), cv2.LINE_AA)
    return picture


Family = Callable[[Rng, int, int], Picture]
TRAINING: dict[str, Family] = {
    "gradient": _gradient, "clouds": _clouds, "stripes": _stripes, "grain": _grain, "blobs": _blobs,
}  # fmt: skip
LOOKALIKES: dict[str, Family] = {"tiles": _tiles}
"""Backgrounds that resemble the shapes; the detector's second version is trained to ignore them."""
HELD_BACK: dict[str, Family] = {
    "rings": _rings, "patches": _patches, "scratches": _scratches,
}  # fmt: skip


def background(rng: Rng, family: str, height: int, width: int) -> Picture:
    """Generate a background of the named family; some get lines and letters as distractors."""
    make = (TRAINING | LOOKALIKES | HELD_BACK)[family]
    picture = np.ascontiguousarray(np.clip(make(rng, height, width), 0, 255).astype(np.uint8))
    for _ in range(int(rng.integers(0, 4))):
        colour = _colour(rng).tolist()
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        if rng.random() < 0.6:
            end = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            cv2.line(picture, (x, y), end, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
        else:
            text = "".join(rng.choice(list("AEFHKMNRSWZ2357"), int(rng.integers(1, 5))))
            scale = float(rng.uniform(0.4, 1.4))
            cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 2, cv2.LINE_AA)
    return picture.astype(np.float32)
