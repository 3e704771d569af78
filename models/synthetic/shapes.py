"""Synthetic pictures of coloured shapes on textured backgrounds, in changing light."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.models.synthetic.backgrounds import TRAINING, Picture, Rng, background

CLASSES = ("circle", "square", "triangle", "star", "cross")
Frame = NDArray[np.uint8]
Truth = NDArray[np.float32]
"""`[objects, 5]`: class, then x0, y0, x1, y1 in pixels."""

_SHIFT = 4  # fractional bits of OpenCV's polygon corners
MIN_VISIBLE = 0.4  # share of a shape's area; less visible ones are not in the ground truth


@dataclass(frozen=True)
class Conditions:
    """Ranges from which the conditions of a picture are drawn.

    `light` scales the scene, `noise` is the sensor's standard deviation in gray levels, `blur` a radius
    and `motion` a smear, both in pixels of a picture 320 wide; `size` is a shape's height as a share of
    the picture's, `contrast` the least distance between its colour and the background's, in gray levels.
    """

    light: tuple[float, float]
    noise: tuple[float, float]
    blur: tuple[float, float]
    motion: tuple[float, float]
    size: tuple[float, float] = (0.1, 0.45)
    contrast: float = 35.0


DAY = Conditions(light=(0.75, 1.1), noise=(0.0, 6.0), blur=(0.0, 0.6), motion=(0.0, 2.0))
ALL = Conditions(light=(0.18, 1.15), noise=(0.0, 14.0), blur=(0.0, 1.6), motion=(0.0, 9.0))


@dataclass(frozen=True)
class Actor:
    """One shape in one frame: centre, radius and smear (`motion`) in pixels, `angle` in radians."""

    kind: int
    centre: tuple[float, float]
    radius: float
    angle: float
    colour: tuple[float, float, float]
    motion: tuple[float, float] = (0.0, 0.0)
    shading: float = 0.0
    shadow: float = 0.0
    outline: float = 0.0


def _ring(corners: int, inner: float = 1.0, turn: float = 0.0) -> Picture:
    angles = np.arange(corners) * 2 * np.pi / corners + turn
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return (np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]).astype(np.float32)


def _cross() -> Picture:
    a, b = 0.94, 0.33
    quarter = np.array([(a, -b), (a, b), (b, b)], np.float32)
    turns = [np.array([(c, s), (-s, c)], np.float32) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate([quarter @ turn for turn in turns])


OUTLINES = (_ring(36), _ring(4, turn=np.pi / 4), _ring(3), _ring(10, 0.45), _cross())


def corners(actor: Actor) -> Picture:
    """The outline of a shape in pixels: `[corners, 2]`."""
    c, s = np.cos(actor.angle), np.sin(actor.angle)
    turn = np.array([(c, s), (-s, c)], np.float32)
    result: Picture = OUTLINES[actor.kind] @ turn * np.float32(actor.radius) + np.array(
        actor.centre, np.float32
    )
    return result


def _mask(points: Picture, origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    fixed = np.round((points - origin) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
    return mask


def _smear(mask: NDArray[np.uint8], motion: tuple[float, float]) -> NDArray[np.uint8]:
    length = int(np.ceil(max(abs(motion[0]), abs(motion[1]))))
    if length < 2:
        return mask
    kernel = np.zeros((2 * (length // 2) + 1,) * 2, np.float32)
    middle = length // 2
    half = np.array(motion) / 2
    a, b = (tuple(round(middle + float(sign * v)) for v in half) for sign in (-1, 1))
    cv2.line(kernel, a, b, 1.0)
    return np.asarray(cv2.filter2D(mask, -1, kernel / kernel.sum()), np.uint8)


def paint(picture: Picture, actors: Sequence[Actor]) -> Truth:
    """Draw `actors` onto `picture` in place, later ones in front; return the ground truth of the visible ones."""
    height, width = picture.shape[:2]
    owner = np.zeros((height, width), np.uint8)
    areas = np.zeros(len(actors))
    for i, actor in enumerate(actors):
        points = corners(actor)
        areas[i] = cv2.contourArea(points)
        margin = 4 + max(abs(v) for v in actor.motion) + actor.radius * 0.2
        low = np.floor(points.min(0) - margin).astype(int)
        high = np.ceil(points.max(0) + margin).astype(int)
        x0, y0 = max(0, low[0]), max(0, low[1])
        x1, y1 = min(width, high[0]), min(height, high[1])
        if x0 >= x1 or y0 >= y1:
            continue
        region = picture[y0:y1, x0:x1]
        solid = _mask(points, (x0, y0), region.shape[:2])
        if actor.shadow > 0:
            offset = np.array([0.12, 0.16], np.float32) * actor.radius
            shade = cv2.GaussianBlur(_mask(points + offset, (x0, y0), region.shape[:2]), (0, 0), 1.5)
            region *= 1 - actor.shadow * shade[..., None].astype(np.float32) / 255
        _fill(region, _smear(solid, actor.motion), actor, (x0, y0), points)
        owner[y0:y1, x0:x1][solid > 127] = i + 1
    return _visible(owner, areas, actors)


def _fill(
    region: Picture, mask: NDArray[np.uint8], actor: Actor, origin: tuple[int, int], points: Picture
) -> None:
    colour = np.array(actor.colour, np.float32)
    cover = mask[..., None].astype(np.float32) / 255
    rows = (np.arange(region.shape[0], dtype=np.float32) + origin[1] - actor.centre[1]) / actor.radius
    paint_colour = colour * (1 - actor.shading * rows[:, None, None])
    region += cover * (np.clip(paint_colour, 0, 255) - region)
    if actor.outline > 0:
        fixed = np.round((points - origin) * (1 << _SHIFT)).astype(np.int32)
        dark = np.clip(colour * 0.35, 0, 255).tolist()
        thickness = max(1, round(actor.outline * actor.radius))
        cv2.polylines(region, [fixed], True, dark, thickness, cv2.LINE_AA, _SHIFT)


def _visible(owner: NDArray[np.uint8], areas: NDArray[np.float64], actors: Sequence[Actor]) -> Truth:
    height, width = owner.shape
    seen = np.bincount(owner.reshape(-1), minlength=len(actors) + 1)[1:]
    rows = []
    for i, actor in enumerate(actors):
        if seen[i] < MIN_VISIBLE * areas[i]:
            continue
        points = corners(actor)
        low, high = points.min(0), points.max(0)
        box = (max(0, low[0]), max(0, low[1]), min(width, high[0]), min(height, high[1]))
        rows.append((actor.kind, *box))
    return np.array(rows, np.float32).reshape(-1, 5)


def camera(picture: Picture, rng: Rng, light: float, noise: float, blur: float) -> Frame:
    """Simulate a sensor: light, a vignette-free lens blur, shot and read noise, clipping."""
    if blur > 0.3:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), blur), np.float32)
    picture = picture * np.float32(light)
    if noise > 0.2:
        grain = np.empty((picture.shape[0], picture.shape[1] * 3), np.float32)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(grain, np.zeros(1), np.full(1, noise))
        picture = picture + grain.reshape(picture.shape)
    return np.asarray(np.clip(picture + 0.5, 0, 255), np.uint8)


def random_actor(rng: Rng, picture: Picture, conditions: Conditions) -> Actor:
    """Draw a random shape on `picture` (possibly partly outside), in a colour that contrasts with the background."""
    height, width = picture.shape[:2]
    scale = width / 320
    low, high = np.log(conditions.size)
    radius = float(np.exp(rng.uniform(low, high)) * height / 2)
    centre = (float(rng.uniform(-0.02, 1.02) * width), float(rng.uniform(-0.02, 1.02) * height))
    around = picture[
        max(0, int(centre[1] - radius)) : max(1, int(centre[1] + radius)) : 4,
        max(0, int(centre[0] - radius)) : max(1, int(centre[0] + radius)) : 4,
    ].mean((0, 1))
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*conditions.motion) * scale
    return Actor(
        int(rng.integers(len(CLASSES))), centre, radius, float(rng.uniform(0, 2 * np.pi)),
        contrasting(rng, around, conditions.contrast),
        (float(np.cos(direction) * speed), float(np.sin(direction) * speed)),
        float(rng.choice([0.0, rng.uniform(-0.4, 0.4)])), float(rng.choice([0.0, rng.uniform(0, 0.6)])),
        float(rng.choice([0.0, 0.0, rng.uniform(0.05, 0.2)])),
    )  # fmt: skip


def contrasting(rng: Rng, around: Picture, contrast: float) -> tuple[float, float, float]:
    """A random colour at least `contrast` gray levels (root mean square) away from `around`."""
    best, distance = np.zeros(3), -1.0
    for _ in range(8):
        colour = rng.uniform(10, 245, 3)
        if rng.random() < 0.25:
            colour[:] = colour.mean()
        apart = float(np.sqrt(np.mean((colour - around) ** 2)))
        if apart > distance:
            best, distance = colour, apart
        if distance >= contrast:
            break
    return (float(best[0]), float(best[1]), float(best[2]))


def random_picture(
    rng: Rng,
    conditions: Conditions,
    families: Iterable[str] = TRAINING,
    *,
    width: int = 320,
    height: int = 240,
) -> tuple[Frame, Truth]:
    """Generate a frame `[height, width, 3]` BGR with 0 to 7 shapes, and its ground truth.

    `families` are the backgrounds to choose from.
    """
    picture = background(rng, str(rng.choice(list(families))), height, width)
    actors = [random_actor(rng, picture, conditions) for _ in range(int(rng.integers(0, 8)))]
    truth = paint(picture, actors)
    scale = width / 320
    light = float(np.exp(rng.uniform(*np.log(conditions.light))))
    frame = camera(picture, rng, light, rng.uniform(*conditions.noise), rng.uniform(*conditions.blur) * scale)
    return frame, truth
