"""What a folder of calibration data gets that does not do, by the kind of what it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgec.compiler.options import Calibration
from edgec.compiler.progress import Silent
from edgec.compiler.quantise.calibrate import calibrate
from edgec.compiler.quantise.dataset import check_varied, open_dataset
from edgec.compiler.quantise.errors import CalibrationError
from edgec.runtime.card import Classification, ImageInput, ModelCard
from edgec.targets import load_target
from tests.compiler.quantise.small import pictures, source_in

CARD = ModelCard(
    input=ImageInput(width=16, height=16, resize="letterbox"), output=Classification(), labels=tuple("abcde")
)


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)


def one_colour(number: int) -> np.ndarray:
    return np.full((20, 30, 3), (number, 2 * number, 90), np.uint8)


def folder_of(make: Callable[[int], np.ndarray], folder: Path) -> Path:
    data = folder / "data"
    data.mkdir()
    for number in range(20):
        cv2.imwrite(str(data / f"{number:02}.png"), make(number))
    return data


def refusal(folder: Path, data: Path, card: ModelCard | None = CARD) -> str:
    with pytest.raises(CalibrationError) as caught:
        calibrate(source_in(folder), Calibration(data), load_target("x86-64-v4"), card, Silent())
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [(one_colour, "every picture is of a single colour"), (lambda _: noise(0), "all pictures are the same")],
    ids=["colours", "same"],
)
def test_pictures_that_say_nothing_are_refused_whatever_is_around_them(
    make: Callable[[int], np.ndarray], told: str, tmp_path: Path
) -> None:
    found = refusal(tmp_path, folder_of(make, tmp_path))
    assert told in found
    assert "sounds" not in found


def test_a_folder_of_another_kind_is_named_beside_what_the_card_takes(tmp_path: Path) -> None:
    (tmp_path / "data" / "some").mkdir(parents=True)
    assert "holds no pictures, sounds or .npz files" in refusal(tmp_path, tmp_path / "data", None)
    (tmp_path / "data" / "some" / "dog.wav").write_bytes(b"")
    assert "which the model card takes, but files such as some/dog.wav" in refusal(
        tmp_path, tmp_path / "data"
    )
    assert "need a model card" in refusal(tmp_path, tmp_path / "data", None)


@pytest.mark.parametrize("number", [0, 7, 13, 19])
def test_a_damaged_picture_is_named_wherever_it_is(number: int, tmp_path: Path) -> None:
    data = folder_of(noise, tmp_path)
    (data / f"{number:02}.png").write_bytes(b"not a picture")
    assert f"{number:02}.png: not a picture" in refusal(tmp_path, data)


def test_a_folder_of_arrays_does_for_a_model_that_takes_pictures(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, x in enumerate(pictures(20)):
        np.savez(tmp_path / "data" / f"{number}.npz", x=x)
    data = open_dataset(tmp_path / "data", source_in(tmp_path), CARD)
    assert data.kind == "arrays"
    check_varied(data)
    assert {example.inputs[0]["x"].shape for example in data} == {(1, 3, 16, 16)}
