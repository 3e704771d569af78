"""Synthetic video of moving shapes, for the demo and as a test pattern.

`python -m edgec.models.demo_video clip.avi --seconds 30` writes a file that OpenCV, and so the agent, reads;
`DemoScene` generates the same frames endlessly, each with its ground truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edgec.models.synthetic import shapes
from edgec.models.synthetic.backgrounds import HELD_BACK, LOOKALIKES, TRAINING, Picture, background
from edgec.runtime.artifact.writer import check_replaceable
from edgec.targets.errors import EdgecError, UsageError

SCENE_S = 12.0
LANES = 5
CODECS = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "MJPG"}


class DemoScene:
    """Shapes that cross the picture on lanes, over changing backgrounds, in light that dims and recovers.

    A frame depends only on `seed` and its index: equal seeds give equal scenes, and frames can be generated in any
    order. The light falls to about a quarter once per `dim_period_s`.
    """

    def __init__(
        self,
        seed: int = 0,
        width: int = 320,
        height: int = 240,
        fps: float = 25.0,
        dim_period_s: float = 16.0,
    ) -> None:
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        self._dim_period_s = dim_period_s
        self._scene: tuple[int, Picture] = (-1, np.empty((0, 0, 3), np.float32))

    def light(self, time_s: float) -> float:
        """Brightness of the scene at a time: 1 by day, 0.25 at the darkest."""
        phase = 0.5 + 0.5 * np.cos(2 * np.pi * time_s / self._dim_period_s)
        return float(0.25 + 0.75 * np.clip(1.6 * phase, 0, 1))

    def frame(self, index: int) -> tuple[shapes.Frame, shapes.Truth]:
        """Generate frame `index` `[height, width, 3]` BGR uint8 and its ground truth `[objects, 5]`."""
        time_s = index / self.fps
        picture = self._background(int(time_s / SCENE_S)).copy()
        actors = [a for lane in range(LANES) if (a := self._actor(lane, time_s, picture)) is not None]
        truth = shapes.paint(picture, actors)
        light = self.light(time_s)
        noise = 2.0 + 5.0 * (1 - light)
        rng = np.random.default_rng([self.seed, 3, index])
        return shapes.camera(picture, rng, light, noise, 0.4 * self.width / 320), truth

    def frames(self, start: int = 0) -> Iterator[tuple[shapes.Frame, shapes.Truth]]:
        """Generate frames and ground truths endlessly."""
        index = start
        while True:
            yield self.frame(index)
            index += 1

    def _background(self, scene: int) -> Picture:
        if self._scene[0] != scene:
            families = [*TRAINING, *HELD_BACK, *LOOKALIKES]
            rng = np.random.default_rng([self.seed, 1, scene])
            family = families[(self.seed + 4 * scene) % len(families)]
            self._scene = (scene, background(rng, family, self.height, self.width))
        return self._scene[1]

    def _actor(self, lane: int, time_s: float, picture: Picture) -> shapes.Actor | None:
        """The shape on a lane at a time: each crosses in 4 to 9 s, then the lane rests for a while."""
        pace = np.random.default_rng([self.seed, 2, lane])
        cycle_s = float(pace.uniform(7.0, 11.0))
        crossing, phase_s = divmod(time_s + float(pace.uniform(0, cycle_s)), cycle_s)
        rng = np.random.default_rng([self.seed, 2, lane, int(crossing)])
        duration_s = float(rng.uniform(4.0, min(9.0, cycle_s)))
        if phase_s > duration_s:
            return None
        radius = float(rng.uniform(0.07, 0.17)) * self.height
        share = phase_s / duration_s
        if rng.random() < 0.5:
            share = 1 - share
        x = -radius + share * (self.width + 2 * radius)
        swing = float(rng.uniform(0.02, 0.1)) * self.height
        base = (lane + 0.5) / LANES * self.height * 0.9 + 0.05 * self.height
        y = base + swing * np.sin(phase_s * float(rng.uniform(0.8, 2.0)))
        speed = (self.width + 2 * radius) / duration_s / self.fps
        colour = shapes.contrasting(rng, picture.mean((0, 1)), 70.0)
        return shapes.Actor(
            int(rng.integers(len(shapes.CLASSES))), (float(x), float(y)), radius,
            float(rng.uniform(0, 6) + phase_s * rng.uniform(-1.2, 1.2)), colour, (speed * 0.5, 0.0),
            float(rng.uniform(-0.3, 0.3)), 0.4, float(rng.choice([0.0, 0.1])),
        )  # fmt: skip


def write_clip(
    path: Path | str, seconds: float, *, seed: int = 0, width: int = 320, height: int = 240, fps: float = 25.0
) -> Path:
    """Write a clip to `path` (`.avi`, `.mp4` or `.mkv`) atomically.

    Raises:
        UsageError: the suffix is another one, the clip would have no frame, or the path is something else than a file.
        EdgecError: OpenCV cannot write to the path.
    """
    path = Path(path)
    if path.suffix not in CODECS:
        raise UsageError(f"{path}: a clip must end in {', '.join(CODECS)}")
    count = round(seconds * fps)
    if count < 1:
        raise UsageError(f"a clip of {seconds:g} s at {fps:g} frames a second holds no frame")
    check_replaceable(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
    writer = cv2.VideoWriter(str(part), codec, fps, (width, height))
    if not writer.isOpened():
        raise EdgecError(f"{path}: cannot be written; does the folder exist, and is it writable?")
    scene = DemoScene(seed, width, height, fps)
    try:
        for index in range(count):
            writer.write(scene.frame(index)[0])
        writer.release()
        part.replace(path)
    finally:
        writer.release()
        part.unlink(missing_ok=True)
    return path


def main() -> None:
    """Write a clip from the command line."""
    parser = argparse.ArgumentParser(description="Write a clip of moving shapes.")
    parser.add_argument("path", type=Path, help="a file that ends in .avi, .mp4 or .mkv")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="320x240", help="WIDTHxHEIGHT")
    parser.add_argument("--fps", type=float, default=25.0)
    arguments = parser.parse_args()
    width, _, height = arguments.size.partition("x")
    path = write_clip(
        arguments.path, arguments.seconds, seed=arguments.seed, width=int(width), height=int(height),
        fps=arguments.fps,
    )  # fmt: skip
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
