"""The demo's video: frames by seed and index, clips that OpenCV reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgec.models.demo_video import DemoScene, write_clip
from edgec.targets.errors import EdgecError, UsageError


def test_scene_depends_on_seed_and_index_alone() -> None:
    one, two = DemoScene(3), DemoScene(3)
    frame, truth = one.frame(400)
    two.frame(17)
    again, same = two.frame(400)
    assert np.array_equal(frame, again)
    assert np.array_equal(truth, same)
    assert not np.array_equal(frame, DemoScene(4).frame(400)[0])
    assert one.light(8.0) == pytest.approx(0.25)
    assert one.frame(200)[0].mean() < one.frame(5)[0].mean()


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_clip_can_be_read_by_opencv(suffix: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", 1.0, fps=10, width=160, height=120)
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 10
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    capture.release()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_clip_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.avi"):
        write_clip(tmp_path / "clip.gif", 1.0)
    with pytest.raises(UsageError, match="no frame"):
        write_clip(tmp_path / "clip.avi", 0.0)
    with pytest.raises(EdgecError, match="written"):
        write_clip(tmp_path / "nowhere" / "clip.avi", 1.0)
    assert not list(tmp_path.iterdir())


def test_clip_command(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    command = [sys.executable, "-m", "edgec.models.demo_video", str(path), "--seconds", "0.2"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert path.stat().st_size > 10_000
