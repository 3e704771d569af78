"""The example cards on the real models they are for: what their sources' manifest says comes out.

Through ONNX Runtime and the runtime's own decoders; skipped where the real data is absent.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgec.models.reference import Reference
from edgec.runtime.card.file import load_card
from edgec.runtime.processing.results import Classification, Detection, Keypoints, Segmentation, Sound

CARDS = Path(__file__).resolve().parents[2] / "examples" / "cards"


def reference(data: Path, name: str) -> Reference:
    model = next(data.glob(f"onnx/*/{name}.onnx"))
    return Reference(model, load_card(CARDS / f"{name}.toml"))


def picture(data: Path, name: str) -> np.ndarray:
    frame = cv2.imread(str(next(data.rglob(name))))
    assert frame is not None
    return frame


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.toml")), ids=lambda p: p.stem)
def test_card_is_valid_and_names_its_model(path: Path) -> None:
    card = load_card(path)
    assert card.name
    assert card.version
    assert card.description
    assert card.licence


# The counts are the manifest's; a person stands for several where the source counts "5+".
DETECTIONS = [
    ("yolox_nano_416", "cats_and_dogs.jpg", "cat", 3, 3),
    ("yolox_nano_416", "bird.bmp", "bird", 1, 1),
    ("yolox_nano_416", "pedestrian.jpg", "person", 5, 9),
    ("yolox_nano_416", "room_no_person.jpg", "person", 0, 0),
    ("lightweight_person_192", "three_people.jpg", "person", 2, 2),
    ("lightweight_person_192", "pedestrian.jpg", "person", 3, 4),
    ("lightweight_person_192", "room_no_person.jpg", "person", 0, 0),
    ("ultraface_rfb_320", "obama.jpg", "face", 1, 1),
    ("ultraface_rfb_320", "biden.jpg", "face", 1, 1),
    ("ultraface_rfb_320", "grace_hopper.bmp", "face", 1, 1),
    ("ultraface_rfb_320", "oi_face.jpg", "face", 4, 4),
    ("ultraface_rfb_320", "ultraface_demo_1.jpg", "face", 19, 19),
    ("ultraface_rfb_320", "room_no_person.jpg", "face", 0, 0),
    ("ultraface_slim_320", "obama.jpg", "face", 1, 1),
    ("ultraface_slim_320", "oi_face.jpg", "face", 4, 4),
    ("ultraface_slim_320", "ultraface_demo_1.jpg", "face", 19, 19),
    ("yunet_n_320", "obama.jpg", "face", 1, 1),
    ("yunet_n_320", "oi_face.jpg", "face", 4, 4),
    ("yunet_n_320", "three_people.jpg", "face", 3, 3),
    ("yunet_n_320", "ultraface_demo_1.jpg", "face", 18, 20),
    ("yunet_n_320", "room_no_person.jpg", "face", 0, 0),
]


@pytest.mark.parametrize(("model", "name", "label", "low", "high"), DETECTIONS)
def test_detectors(shared_data: Path, model: str, name: str, label: str, low: int, high: int) -> None:
    frame = picture(shared_data, name)
    found = reference(shared_data, model).predict(frame)
    counts = Counter(d.label for d in found if isinstance(d, Detection))
    assert low <= counts[label] <= high, counts
    for detection in found:
        assert isinstance(detection, Detection)
        assert 0 <= detection.box.left < detection.box.right <= frame.shape[1]
        assert 0 <= detection.box.top < detection.box.bottom <= frame.shape[0]


@pytest.mark.parametrize(
    ("name", "label", "score"), [("daisy.jpg", "daisy", 0.99), ("rose.jpg", "roses", 0.93)]
)
def test_flowers(shared_data: Path, name: str, label: str, score: float) -> None:
    best = reference(shared_data, "mobilenetv2_035_128_flowers5").predict(picture(shared_data, name))[0]
    assert isinstance(best, Classification)
    assert best.label == label
    assert best.score >= score


@pytest.mark.parametrize("model", ["mnist_cntk", "mnist_pytorch_logsoftmax"])
def test_digits(shared_data: Path, model: str) -> None:
    network = reference(shared_data, model)
    for digit in (0, 1, 2, 4, 5, 6, 8):
        best = network.predict(picture(shared_data, f"mnist_sample{digit}.png"))[0]
        assert isinstance(best, Classification)
        assert best.label == str(digit)


def test_bird_is_segmented(shared_data: Path) -> None:
    result = reference(shared_data, "deeplabv3_mnv2_voc21_257_nhwc").predict(
        picture(shared_data, "bird_segmentation.bmp")
    )[0]
    assert isinstance(result, Segmentation)
    truth = cv2.imread(str(next(shared_data.rglob("bird_segmentation_mask.bmp"))), cv2.IMREAD_GRAYSCALE)
    mine, theirs = result.mask == 3, truth == 3
    assert (mine & theirs).sum() / (mine | theirs).sum() > 0.85  # the manifest's own check gave 0.873


def test_people_are_segmented(shared_data: Path) -> None:
    network = reference(shared_data, "selfie_landscape_144x256_nhwc")
    shares = []
    for name in ("three_people.jpg", "room_no_person.jpg"):
        result = network.predict(picture(shared_data, name))[0]
        assert isinstance(result, Segmentation)
        shares.append(float((result.mask == 1).mean()))
    assert shares == pytest.approx([0.707, 0.057], abs=0.02)


def test_pose_has_a_nose(shared_data: Path) -> None:
    result = reference(shared_data, "bodypix_mnv1_050_s16_dynamic_nhwc").predict(
        picture(shared_data, "pose.jpg")
    )[0]
    assert isinstance(result, Keypoints)
    points = {point.name: point for point in result.points}
    assert points["nose"].score > 0.9
    assert points["nose"].y < points["left hip"].y


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("dog_bark", "dog"),
        ("clock_tick", "clock_tick"),
        ("fire_crackle", "crackling_fire"),
        ("rain_medium", "rain"),
    ],
)
def test_sounds(shared_data: Path, name: str, label: str) -> None:
    soundfile = pytest.importorskip("soundfile", reason="pip install 'edgec[audio]'")
    samples, rate = soundfile.read(shared_data / "audio" / "events" / f"{name}.ogg", dtype="float32")
    heard = reference(shared_data, "yamnet256_esc10").predict(samples, rate)
    assert all(isinstance(s, Sound) for s in heard)
    assert Counter(s.label for s in heard).most_common(1)[0][0] == label  # type: ignore[union-attr]
