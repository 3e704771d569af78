"""The reference for `predict`: the card's pipeline around ONNX Runtime."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from edgec.models.graph import Graph
from edgec.models.reference import Reference
from edgec.runtime.card import ModelCard
from edgec.runtime.processing.results import Classification, Sound
from edgec.targets.errors import EdgecError


def reference(shape: tuple[int, ...], source: dict[str, Any], output: dict[str, Any]) -> Reference:
    """A model that returns the mean of each channel."""
    graph = Graph("means")
    means = graph.flatten(graph.global_pool(graph.input("x", shape)))
    card = msgspec.convert({"input": source, "output": output, "labels": ["blue", "green", "red"]}, ModelCard)
    return Reference(graph.finish({"y": means}).SerializeToString(), card)


CLASSES = {"decoder": "classification", "activation": "none", "top_k": 1}


def test_a_frame_is_preprocessed_and_decoded() -> None:
    picture = {"kind": "image", "width": 4, "height": 4, "colour": "bgr", "scale": 1 / 255}
    frame = np.zeros((9, 12, 3), np.uint8)
    frame[..., 1] = 255
    assert reference((1, 3, 4, 4), picture, CLASSES).predict(frame) == [Classification("green", 1, 1.0)]


def test_sound_is_scored_by_window() -> None:
    sound = {"kind": "audio", "sample_rate": 100, "window_s": 0.12}
    model = reference((1, 3, 4, 1), sound, {"decoder": "keyword", "activation": "none", "threshold": 0.5})
    samples = np.repeat(np.float32([0, 0, 1, 0, 1, 0]), 4)  # red in the first window, green in the second
    heard = [found for found in model.predict(samples) if isinstance(found, Sound)]
    assert [(found.label, found.start_s) for found in heard] == [("red", 0.0), ("green", 0.12)]
    assert model.scores(samples[:12]).tolist() == [0, 0, 1]


def test_a_card_for_tensors_has_no_frames() -> None:
    model = reference((1, 3, 4, 4), {"kind": "tensor"}, {"decoder": "raw"})
    with pytest.raises(EdgecError, match="declares plain tensors"):
        model.predict(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(EdgecError, match="is not for sound"):
        model.scores(np.zeros(12, np.float32))
