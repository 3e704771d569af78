"""Cards of the zoo: each is valid and declares the input that its model has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edgec.models import list_models
from edgec.models.cards import card_text
from edgec.models.registry import card_of, describe
from edgec.runtime.card import AudioInput, ImageInput, Ssd
from edgec.runtime.card.file import load_card

CARDED = [entry.name for entry in list_models() if card_of(entry.name) is not None]


def test_only_text_models_have_no_card() -> None:
    assert {entry.name for entry in list_models()} - set(CARDED) == {"bert-mini"}
    assert card_text("bert-mini", "text") is None


@pytest.mark.parametrize("name", CARDED)
def test_a_card_fits_its_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(card_of(name) or "", encoding="utf-8")
    card = load_card(tmp_path / "model.toml")
    graph, outputs = describe(name)
    (info,) = graph.inputs
    shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
    assert name.startswith(str(card.name))
    if isinstance(card.input, ImageInput):
        assert shape == [1, card.input.channels, card.input.height, card.input.width]
    elif isinstance(card.input, AudioInput):
        step = round(card.input.step_s * card.input.sample_rate)
        frame = round(card.input.frame_s * card.input.sample_rate)
        rows = (card.input.window_samples - frame) // step + 1
        width = card.input.coefficients if card.input.features == "mfcc" else card.input.mels
        assert math.prod(shape) == rows * width
    if isinstance(card.output, Ssd):
        assert {card.output.scores, card.output.boxes} == set(outputs)
        anchors = sum(layer.rows * layer.columns * len(layer.sizes) for layer in card.output.anchors)
        assert outputs[card.output.boxes].shape == (1, anchors, 4)
    if card.labels:
        (output,) = outputs.values()
        assert len(card.labels) in output.shape or output.shape[1] == 4 + len(card.labels)
