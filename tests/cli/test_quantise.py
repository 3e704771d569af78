"""`edgec compile --precision int8` as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.conftest import Edgec
from tests.compiler.quantise.small import CLASSES, network, npz, pictures
from tests.compiler.small_models import save

CARD = """
labels = ["a", "b", "c", "d", "e"]
[input]
kind = "image"
width = 16
height = 16
mean = 127.5
scale = 0.01
[output]
decoder = "classification"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A model with its card, and pictures in a folder for each class."""
    save(network(), tmp_path)
    (tmp_path / "model.toml").write_text(CARD)
    for number, picture in enumerate(pictures(40)):
        folder = tmp_path / "data" / "abcde"[number % CLASSES]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(picture[0].transpose(1, 2, 0) * 100 + 127, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return tmp_path


def model_in(folder: Path) -> str:
    return next(folder.glob("*.onnx")).name


def test_pictures_in_folders_by_class_quantise_a_model(edgec: Edgec, project: Path) -> None:
    asked = (
        "--precision",
        "int8",
        "--calibrate",
        "data",
        "--max-drop",
        "20%",
        "--tune",
        "none",
        "--threads",
        "1",
    )
    done = edgec("compile", model_in(project), *asked, "-o", "m.edge", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["evidence"]["precision"]
    assert found["calibration"]["max_drop"] == 0.2
    assert (found["calibration"]["examples"], found["calibration"]["held_back"]) == (20, 20)
    chosen = next(v for v in found["variants"] if v["name"] == found["chosen"])
    assert chosen["quality"]["measure"] == "top-1 accuracy"
    assert chosen["quality"]["drop"] <= 0.2
    shown = edgec("inspect", "m.edge", cwd=project).stdout
    assert "top-1 accuracy" in shown
    assert "Ranges from 20 examples; judged by 20 held back" in shown
    results = edgec("run", "m.edge", "data/a/0.png", "--json", cwd=project)
    assert len(json.loads(results.stdout)["results"]) == CLASSES


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            ("--precision", "int8"),
            "needs data to find ranges with: --calibrate FOLDER (or FILE.npz), with 100 to 500",
        ),
        (("--precision", "int8", "--calibrate", "none"), "none: no such folder or file"),
        (("--precision", "int8", "--calibrate", "data/a"), "8 examples are too few to calibrate with"),
        (("--precision", "int8", "--calibrate", "data", "--max-drop", "much"), "is not a share such as 0.5%"),
        (("--calibrate", "data"), "--calibrate is for --precision int8, w8, w4 or auto"),
        (("--precision", "int8", "--max-drop", "1%"), "give --calibrate with data"),
        (("--precision", "int8", "--calibrate", "flat.npz"), "a single constant value"),
        (
            ("--precision", "int8", "--calibrate", "unlabelled.npz", "--max-drop", "1%"),
            "--max-drop needs labels",
        ),
    ],
)
def test_data_that_do_not_do_are_refused_and_nothing_is_written(
    edgec: Edgec, project: Path, asked: tuple[str, ...], told: str
) -> None:
    npz(project, np.ones((40, 1, 3, 16, 16), "f4")).rename(project / "flat.npz")
    npz(project, pictures(40)).rename(project / "unlabelled.npz")
    before = {path.name for path in project.iterdir()}
    done = edgec("compile", model_in(project), *asked, "--tune", "none", "-o", "m.edge", cwd=project)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert {path.name for path in project.iterdir()} == before


def test_an_interruption_leaves_nothing_half_written(project: Path) -> None:
    labels = project / "labels.csv"
    os.mkfifo(labels)  # whoever opens it waits, so that the compile is known to be at the calibration data
    before = {path.name for path in project.iterdir()}
    asked = ["--precision", "int8", "--calibrate", "data", "--labels", "labels.csv", "-o", "m.edge"]
    command = [sys.executable, "-m", "edgec.cli.main", "compile", model_in(project), *asked]
    with subprocess.Popen(
        command, cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        with labels.open("w"):
            os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert {path.name for path in project.iterdir()} == before
