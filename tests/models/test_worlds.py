"""The generated worlds: what the truth says is what the picture and the sound hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgec.models.demo_video import DemoScene, write_clip
from edgec.models.worlds import shapes, sounds
from edgec.models.worlds.backgrounds import HELD_BACK, LOOKALIKES, TRAINING, background
from edgec.targets.errors import EdgecError, UsageError


def test_truth_lies_where_the_shape_was_painted() -> None:
    """Painting changes the picture inside the box of the truth, and nowhere else."""
    for kind in range(len(shapes.CLASSES)):
        picture = np.full((240, 320, 3), 90, np.float32)
        actor = shapes.Actor(kind, (150.0, 110.0), 40.0, 0.7, (10.0, 200.0, 60.0))
        truth = shapes.paint(picture, [actor])
        assert truth.shape == (1, 5)
        assert truth[0, 0] == kind
        rows, columns = np.nonzero((picture != 90).any(2))
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(drawn) - truth[0, 1:]).max() <= 2.5


def test_hidden_and_outside_shapes_are_no_truth() -> None:
    picture = np.full((240, 320, 3), 90, np.float32)
    small = shapes.Actor(0, (150.0, 110.0), 15.0, 0.0, (0.0, 0.0, 0.0))
    large = shapes.Actor(1, (150.0, 110.0), 60.0, 0.0, (255.0, 0.0, 0.0))
    outside = shapes.Actor(2, (-20.0, 110.0), 25.0, 0.0, (0.0, 255.0, 0.0))
    truth = shapes.paint(picture, [small, large, outside])
    assert truth[:, 0].tolist() == [1]


def test_pictures_repeat_with_their_seed() -> None:
    first, truth = shapes.random_picture(np.random.default_rng(5), shapes.ALL)
    again, _ = shapes.random_picture(np.random.default_rng(5), shapes.ALL)
    other, _ = shapes.random_picture(np.random.default_rng(6), shapes.ALL)
    assert first.dtype == np.uint8
    assert first.shape == (240, 320, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert truth.shape[1] == 5


def test_held_back_backgrounds_are_others() -> None:
    assert not set(TRAINING | LOOKALIKES) & set(HELD_BACK)
    for family in (*TRAINING, *LOOKALIKES, *HELD_BACK):
        picture = background(np.random.default_rng(0), family, 120, 160)
        assert picture.shape == (120, 160, 3)
        assert np.isfinite(picture).all()
        assert picture.std() > 0.5


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


def test_sounds_are_sound() -> None:
    rng = np.random.default_rng(0)
    for name in (*sounds.EVENTS, *sounds.OTHERS, *sounds.TRAINING_BACKGROUNDS, *sounds.HELD_BACK_BACKGROUNDS):
        x = sounds.fresh(name, rng, sounds.RATE)
        assert x.dtype == np.float32
        assert x.shape == (sounds.RATE,)
        assert np.isfinite(x).all()
        assert np.abs(x).max() > 0.5


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0])
def test_mix_holds_its_signal_to_noise_ratio(snr_db: float) -> None:
    """With two orthogonal square waves for sounds, the power rises at the onset by just the stated ratio."""

    def source(name: str, rng: np.random.Generator, count: int) -> sounds.Samples:
        period = 4 if name == "alarm" else 2
        return np.where(np.arange(count) % period < period // 2, 1, -1).astype(np.float32)

    clip = sounds.mix(np.random.default_rng(1), ("alarm",), snr_db, source=source)
    assert clip.present.tolist() == [1, 0, 0, 0]
    before, after = (float(np.mean(part**2)) for part in (clip.samples[:40], clip.samples[-1600:]))
    assert after / before == pytest.approx(1 + 10 ** (snr_db / 10), rel=1e-3)
    assert 10 ** (-36 / 20) <= np.abs(clip.samples).max() <= 10 ** (-6 / 20) + 1e-6
    assert not sounds.mix(np.random.default_rng(0), (), 10.0).present.any()
