"""The pipeline of `predict`: the path of each kind of input, and the errors for a card that does not fit."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.processing.predictor import Predictor


def spec(name: str, *shape: int) -> rt.TensorSpec:
    return rt.TensorSpec(name=name, safe_name=name, shape=shape, dtype="float32")


class Predicting:
    """A predictor with the model that it calls."""

    def __init__(self, made: Predictor, call: Any) -> None:
        self.made, self.call = made, call

    def __call__(self, source: Any, rate: int | None) -> Any:
        return self.made(source, rate, self.call)

    def listen(self) -> Any:
        return self.made.listen(self.call)


def predictor(source: dict[str, Any], output: dict[str, Any], *inputs: rt.TensorSpec) -> Predicting:
    """A model whose only output is the mean of its first input over all axes but the second."""
    card = msgspec.convert(
        {"input": source, "output": output, "labels": ["blue", "green", "red"]}, rt.ModelCard
    )
    config = rt.ArtifactConfig(
        name="mean", target="host", arch="x86_64", inputs=inputs, outputs=(spec("y", 1, 3),), pipeline=card
    )

    def call(arrays: list[Any]) -> list[Any]:
        axes = tuple(axis for axis in range(arrays[0].ndim) if axis != 1)
        return [arrays[0].mean(axis=axes)[None]]

    return Predicting(Predictor(config, card, b""), call)


IMAGE = {"kind": "image", "width": 4, "height": 4, "colour": "bgr", "scale": 1 / 255}
CLASSES = {"decoder": "classification", "activation": "none", "top_k": 1}


def test_a_frame_becomes_a_class() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[..., 2] = 255
    (found,) = predictor(IMAGE, CLASSES, spec("x", 1, 3, 4, 4))(frame, None)
    assert found == rt.Classification("red", 2, 1.0)


def test_sound_becomes_a_result_for_each_window() -> None:
    sound = {"kind": "audio", "sample_rate": 100, "window_s": 0.1}
    decide = {"decoder": "keyword", "activation": "none", "threshold": 0.5}
    listening = predictor(sound, decide, spec("x", 1, 10, 1))
    samples = np.zeros(30, np.float32)
    samples[11] = 1.0  # the second sample of the second window
    (heard,) = listening(samples, 100)
    assert isinstance(heard, rt.Sound)
    assert (heard.class_id, heard.start_s, heard.end_s) == (1, 0.1, 0.2)
    stream = listening.listen()
    assert stream.push(samples[:9]) is None
    assert [one.start_s for one in stream.push(samples[9:]) or () if isinstance(one, rt.Sound)] == [0.1]


def test_tensors_go_through_by_name() -> None:
    raw = predictor({"kind": "tensor"}, {"decoder": "raw"}, spec("x", 1, 3), spec("z", 1, 2))
    arrays = {"z": np.zeros((1, 2), np.float32), "x": np.ones((1, 3), np.float32)}
    (result,) = raw(arrays, None)
    assert isinstance(result, rt.Raw)
    assert result.outputs["y"].tolist() == [[1, 1, 1]]
    with pytest.raises(rt.InputError, match=r"this model takes a dict of arrays .*not ndarray"):
        raw(arrays["x"], None)
    with pytest.raises(rt.InputError, match=r"input 'z' float32.* is missing or of another shape or dtype"):
        raw({"x": arrays["x"]}, None)
    with pytest.raises(rt.InputError, match="mean does not take sound"):
        raw.listen()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((spec("x", 1, 3, 8, 8),), r"describes an input of \[1, 3, 4, 4\], but the model takes 'x'"),
        ((spec("x", 1, 3, 4, 4), spec("z", 1)), "the model card expects one input, but mean has 'x'.*'z'"),
    ],
)
def test_a_card_that_does_not_fit_the_model_says_why(inputs: tuple[rt.TensorSpec, ...], message: str) -> None:
    with pytest.raises(rt.InputError, match=message):
        predictor(IMAGE, CLASSES, *inputs)


def test_an_input_that_the_model_lacks_is_named() -> None:
    with pytest.raises(rt.InputError, match="expects one input named 'frame', but mean has 'x'"):
        predictor(IMAGE | {"name": "frame"}, CLASSES, spec("x", 1, 3, 4, 4))
