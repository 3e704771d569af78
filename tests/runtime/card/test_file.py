"""Model cards: read, checked, and refused with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.runtime import CardError, load_card
from edgec.runtime.card import ImageInput, Ssd, Yolox

CARDS = Path(__file__).resolve().parents[3] / "examples" / "cards"

GOOD = """name = "cats"
labels = "labels.txt"

[input]
kind = "image"
width = 320
height = 240
mean = [1, 2, 3]

[output]
decoder = "yolox"
score_threshold = 0.5
"""


def card(folder: Path, text: str) -> Path:
    (folder / "labels.txt").write_text("cat\ndog\n")
    path = folder / "model.toml"
    path.write_text(text)
    return path


def test_a_card_says_what_it_says(tmp_path: Path) -> None:
    found = load_card(card(tmp_path, GOOD))
    assert isinstance(found.input, ImageInput)
    assert isinstance(found.output, Yolox)
    assert (found.input.width, found.input.mean, found.output.score_threshold) == (320, (1, 2, 3), 0.5)
    assert (found.labels, found.label(1), found.label(7)) == (("cat", "dog"), "dog", "7")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width = 320", "width = 0", r"model\.toml:6: input\.width: .* >= 1, not 0"),
        ("width = 320", "wide = 320", r"model\.toml:6: input\.wide: unknown key"),
        ("width = 320", "", r"model\.toml:4: input\.width: required"),
        ("mean = [1, 2, 3]", "mean = [1, 2]", r"model\.toml:4: input: mean needs one number or 3"),
        (
            "score_threshold = 0.5",
            "score_treshold = 0.5",
            r"model\.toml:12: output\.score_treshold: unknown key",
        ),
        (
            "score_threshold = 0.5",
            "score_threshold = 2",
            r"model\.toml:12: output\.score_threshold: .* not 2",
        ),
        (
            'decoder = "yolox"',
            'decoder = "yolo"',
            r"model\.toml:11: output\.decoder: .*'yolox'.*, not 'yolo'",
        ),
        (
            'decoder = "yolox"',
            'decoder = "ssd"\nscores = "s"\nboxes = "b"',
            r"model\.toml:10: output: anchors are needed",
        ),
        (
            'kind = "image"',
            'kind = "smell"',
            r"model\.toml:5: input\.kind: expected '[a-z]+' or .*, not 'smell'",
        ),
        ('name = "cats"', 'name = "Cats!"', r"model\.toml:1: name: "),
        ('"labels.txt"', '"../labels.txt"', "is outside the card's folder"),
        ('"labels.txt"', '"none.txt"', "cannot read none.txt"),
        ('name = "cats"', "name = ", "cannot be read as a model card"),
    ],
)
def test_a_wrong_card_is_refused_with_line_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(CardError, match=message):
        load_card(card(tmp_path, GOOD.replace(old, new)))


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"nothing\.toml"):
        load_card(tmp_path / "nothing.toml")


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_cards_of_the_real_models_are_valid(path: Path) -> None:
    assert load_card(path).name


def test_an_ssd_with_decoded_boxes_needs_no_anchors() -> None:
    assert Ssd(scores="s", boxes="b", coding="corner").anchors == ()
