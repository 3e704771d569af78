"""Inputs of a card: values that do not fit each other are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgec.runtime.card import AudioInput, ImageInput, Input


def parse(**fields: Any) -> Input:
    return msgspec.convert(fields, Input)  # type: ignore[arg-type]


def test_the_kind_chooses_the_input() -> None:
    image = parse(kind="image", width=8, height=4, mean=[1, 2, 3], scale=0.5)
    assert isinstance(image, ImageInput)
    assert (image.kind, image.channels, image.mean, image.scale) == ("image", 3, (1.0, 2.0, 3.0), 0.5)
    audio = parse(kind="audio", window_s=0.5, sample_rate=16000)
    assert isinstance(audio, AudioInput)
    assert audio.window_samples == 8000
    assert parse(kind="tensor").kind == "tensor"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "image", "width": 8, "height": 4, "colour": "gray", "mean": [1, 2, 3]},
            "mean needs one number or 1",
        ),
        ({"kind": "image", "width": 8, "height": 4, "scale": [1, 2]}, "scale needs one number or 3"),
        ({"kind": "image", "width": 0, "height": 4}, "width"),
        ({"kind": "image", "width": 8}, "height"),
        ({"kind": "audio", "window_s": 0}, "window_s"),
        ({"kind": "audio", "mel_scale": "bark"}, "mel_scale"),
        ({"kind": "video"}, "video"),
        ({"kind": "tensor", "width": 8}, "width"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        parse(**fields)
