"""Decoders of everything that is no detector."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.runtime.processing.decoders import decode
from edgec.runtime.processing.image import place
from tests.runtime.processing.cards import card, decoded


def test_classes_are_ranked_and_cut() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.25, 0.05]], np.float32))
    spec = {"decoder": "classification", "top_k": 3, "threshold": 0.2}
    found = decoded({"o": logits}, spec, labels=["a", "b", "c", "d"])
    assert [(one.label, round(one.score, 3)) for one in found] == [("b", 0.6), ("c", 0.25)]


def test_a_heat_maps_peak_is_the_point() -> None:
    maps = np.zeros((1, 2, 8, 8), np.float32)
    maps[0, 0, 2, 4] = 0.9
    maps[0, 1, 7, 0] = 0.1
    (found,) = decoded({"o": maps}, {"decoder": "heatmap", "names": ["nose"]})
    nose, other = found.points
    assert (nose.name, nose.x, nose.y) == ("nose", pytest.approx(36 * 3.125), pytest.approx(20 * 1.5625))
    assert (other.name, round(other.score, 3)) == ("1", 0.1)
    assert found.score == pytest.approx(0.9)
    assert decoded({"o": maps * 0.1}, {"decoder": "heatmap"}) == []


def test_a_mask_covers_the_frame_through_a_letterbox() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    _, where = place(frame, card({"decoder": "segmentation"}, input={"resize": "letterbox"}).input)  # type: ignore[arg-type]
    maps = np.zeros((1, 3, 64, 64), np.float32)
    maps[0, 0] = 0.5
    maps[0, 2, 16:32, :32] = 1  # the upper left quarter of the picture inside the borders
    maps[0, 1, :16] = 1  # the border
    (found,) = decoded({"o": maps}, {"decoder": "segmentation", "palette": [[1, 2, 3]]}, where)
    assert found.mask.shape == (100, 200)
    assert (found.mask[:50, :100] == 2).all()
    assert (found.mask[50:] == 0).all()
    assert (found.mask[:, 100:] == 0).all()
    assert found.shares == {0: 0.75, 2: 0.25}
    assert found.coloured()[99, 0].tolist() == [3, 2, 1]


def test_anomalies_and_embeddings() -> None:
    given = np.arange(4, dtype=np.float32).reshape(1, 4)
    spec = {"decoder": "anomaly", "score": "reconstruction", "threshold": 0.25}
    tensors = msgspec.convert({"input": {"kind": "tensor"}, "output": spec}, rt.ModelCard)
    (found,) = decode({"o": given + 0.5}, tensors, given=given)
    assert found == rt.Anomaly(0.25, True)
    (vector,) = decoded({"o": np.array([[3.0, 4.0]])}, {"decoder": "embedding"})
    np.testing.assert_allclose(vector.vector, [0.6, 0.8])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    blank=st.integers(0, 5),
    layout=st.sampled_from(["TC", "CT"]),
)
def test_greedy_text_is_what_is_left_without_repeats_and_blanks(
    steps: list[int], blank: int, layout: str
) -> None:
    scores = np.full((len(steps), 6), 0.02, np.float32)
    scores[np.arange(len(steps)), steps] = 0.9
    output = scores[None] if layout == "TC" else scores.T[None]
    spec = {"decoder": "ctc", "blank": blank, "layout": layout}
    card = msgspec.convert(
        {"input": {"kind": "tensor"}, "output": spec, "labels": list("abcd")}, rt.ModelCard
    )
    (found,) = decode({"o": output}, card, given=output)
    letters = [c for c in range(6) if c != blank]
    kept = [number for number, _ in itertools.groupby(steps) if number != blank]
    assert found.text == "".join("abcd "[letters.index(number)] for number in kept)
    assert found.score == (pytest.approx(0.9) if kept else 0.0)
