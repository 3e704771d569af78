"""Trained models of other people's making on real pictures: what their cards make of them is what is in
the pictures.

The numbers are those that the data's manifest states, measured there with ONNX Runtime.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgec.runtime as rt
from edgec.models.reference import Reference
from edgec.runtime.processing.input_files import read_picture
from edgec.targets import detect

CARDS = Path(__file__).resolve().parents[2] / "examples" / "cards"
long = pytest.mark.long


@pytest.fixture(scope="module")
def artifact_of(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a model of the shared data with its card, once."""
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    folder = tmp_path_factory.mktemp("real")

    def make(name: str) -> Path:
        from edgec.compiler.options import CompileOptions
        from edgec.compiler.pipeline import compile_model

        output = folder / f"{name}.edge"
        if not output.is_file():
            shapes = {"input": (1, 321, 481, 3)} if name.startswith("bodypix") else {}
            options = CompileOptions(threads=1, tune="none", verify=False, input_shapes=shapes)
            source = next((shared_data / "onnx").rglob(f"{name}.onnx"))
            compile_model(source, detect(), options, card=rt.load_card(CARDS / f"{name}.toml"), output=output)
        return output

    return make


def seen(model: rt.Model, picture: Path) -> Counter[str]:
    found = [one for one in model.predict(read_picture(picture)) if isinstance(one, rt.Detection)]
    return Counter(one.label for one in found if one.score > 0.5)


DETECTORS = [
    ("ultraface_rfb_320", {"faces/obama": {"face": 1}, "faces/oi_face": {"face": 4},
    "faces/ultraface_demo_1": {"face": 19}}), pytest.param("yunet_n_320", {"faces/obama": {"face": 1},
    "faces/oi_face": {"face": 4}, "people/three_people": {"face": 3}}, marks=long),
    pytest.param("yolox_nano_416", {"objects/cats_and_dogs": {"cat": 3}, "objects/bird": {"bird": 1}},
    marks=long), pytest.param("lightweight_person_192", {"people/three_people": {"person": 2}},
    marks=long),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pictures"), DETECTORS)
def test_detectors_count_what_is_there(
    name: str, pictures: dict[str, dict[str, int]], artifact_of: Callable[[str], Path], shared_data: Path
) -> None:
    images = shared_data / "images"
    with rt.load(artifact_of(name)) as model:
        for picture, expected in pictures.items():
            assert seen(model, next(images.glob(f"{picture}.*"))) == expected, picture
        assert seen(model, images / "people" / "room_no_person.jpg") == {}


def test_boxes_lie_on_the_faces(artifact_of: Callable[[str], Path], shared_data: Path) -> None:
    with rt.load(artifact_of("ultraface_rfb_320")) as model:
        frame = read_picture(shared_data / "images" / "faces" / "obama.jpg")
        (face,) = model.predict(frame)
    assert isinstance(face, rt.Detection)
    found = [face.box.left, face.box.top, face.box.right, face.box.bottom]
    assert found == pytest.approx([383, 90, 603, 405], abs=4)
    assert face.score > 0.99


def test_digits_are_read(artifact_of: Callable[[str], Path], shared_data: Path) -> None:
    with rt.load(artifact_of("mnist_pytorch_logsoftmax")) as model:
        for picture in sorted((shared_data / "images" / "digits").glob("mnist_sample*.png")):
            (best,) = model.predict(read_picture(picture))
            assert isinstance(best, rt.Classification)
            assert best.label == picture.stem[-1]


@long
def test_flowers_are_named(artifact_of: Callable[[str], Path], shared_data: Path) -> None:
    with rt.load(artifact_of("mobilenetv2_035_128_flowers5")) as model:
        for picture, label in (("daisy", "daisy"), ("rose", "roses")):
            best = model.predict(read_picture(shared_data / "images" / "objects" / f"{picture}.jpg"))[0]
            assert isinstance(best, rt.Classification)
            assert (best.label, best.score > 0.9) == (label, True)


@long
def test_a_bird_is_cut_out(artifact_of: Callable[[str], Path], shared_data: Path) -> None:
    objects = shared_data / "images" / "objects"
    with rt.load(artifact_of("deeplabv3_mnv2_voc21_257_nhwc")) as model:
        (found,) = model.predict(read_picture(objects / "bird_segmentation.bmp"))
    assert isinstance(found, rt.Segmentation)
    truth = read_picture(objects / "bird_segmentation_mask.bmp")[:, :, 0] == 3
    bird = found.mask == 3
    assert (bird & truth).sum() / (bird | truth).sum() > 0.87


@long
def test_a_pose_is_found(artifact_of: Callable[[str], Path], shared_data: Path) -> None:
    name = "bodypix_mnv1_050_s16_dynamic_nhwc"
    picture = read_picture(shared_data / "images" / "people" / "pose.jpg")
    with rt.load(artifact_of(name)) as model:
        (body,) = model.predict(picture)
    assert isinstance(body, rt.Keypoints)
    points = {point.name: point for point in body.points}
    # The manifest states 0.975 without saying how the picture was fitted.
    card = rt.load_card(CARDS / f"{name}.toml")
    (expected,) = Reference(next((shared_data / "onnx").rglob(f"{name}.onnx")), card).predict(picture)
    assert isinstance(expected, rt.Keypoints)
    assert points["nose"].score == pytest.approx(expected.points[0].score, abs=1e-3)
    assert points["nose"].score > 0.9
    # A warrior pose: the arms stretched to both sides (wrists as one sees them in the picture), ankles below the knees.
    assert points["left wrist"].x == pytest.approx(705, abs=25)
    assert points["right wrist"].x == pytest.approx(302, abs=25)
    assert points["left ankle"].y > points["left knee"].y > points["left hip"].y > points["left shoulder"].y


def edgec(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgec.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_and_draws(
    artifact_of: Callable[[str], Path], shared_data: Path, tmp_path: Path
) -> None:
    artifact, picture = artifact_of("ultraface_rfb_320"), shared_data / "images" / "faces" / "obama.jpg"
    done = edgec("run", artifact, picture, "--json", "--output", tmp_path / "drawn.png")
    assert done.returncode == 0, done.stderr
    (face,) = json.loads(done.stdout)["results"]
    assert (face["type"], face["label"]) == ("detection", "face")
    drawn = read_picture(tmp_path / "drawn.png")
    assert drawn.shape == read_picture(picture).shape
    assert (drawn != read_picture(picture)).any()


@pytest.mark.parametrize(
    ("source", "status", "message"),
    [
        ("cat.xyz", 2, "unknown file type"),
        ("cat.jpg", 5, "cat.jpg: cannot be read: No such file or directory"),
        ("text.jpg", 5, "text.jpg: not a picture"),
        ("text.npz", 5, "text.npz: not an .npz file of arrays"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(
    tiny: Any, tmp_path: Path, source: str, status: int, message: str
) -> None:
    for name in ("text.jpg", "text.npz"):
        (tmp_path / name).write_text("just text")
    done = edgec("run", tiny, tmp_path / source)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_arrays_go_in_and_out_of_files(tiny: Any, tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "in.npz", x=np.ones((1, 32), np.float32))
    done = edgec("run", tiny, tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert "y.0" in done.stdout
    with np.load(tmp_path / "out.npz") as file:
        assert file["y.0"].shape == (1, 32)
    done = edgec("run", tiny, tmp_path / "in.npz", "--output", tmp_path / "out.png")
    assert (done.returncode, "give an .npz file" in done.stderr) == (2, True)
