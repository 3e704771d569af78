"""Measures of accuracy, their intervals, and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.quantise.dataset import Example
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.quantise.labels import Truth, by_folder, read_labels
from edgec.compiler.quantise.measures import Boxes, Events, OutputErrors, TopOne, measure_for
from edgec.runtime import card as cards
from edgec.runtime.processing.image import Placement

CARD = rt.ModelCard(
    input=cards.TensorInput(), output=cards.Classification(activation="none"), labels=("cat", "dog", "bird")
)


def top_one(right: list[bool]) -> TopOne:
    made = TopOne(CARD)
    for one in right:
        scores = np.float32([[1, 0, 0]] if one else [[0, 1, 0]])
        made.add(Example("e", ({},), truth=Truth.of_class(0)), [{"y": scores}])
    return made


def test_top_one_is_the_share_of_right_ones_and_its_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        before = rng.random(100) < 0.9
        after = np.where(rng.random(100) < 0.03, ~before, before)  # flips cost 0.03 · (0.9 - 0.1) on average
        drop = top_one(before.tolist()).drop_to(top_one(after.tolist()))
        assert drop.value == pytest.approx(before.mean() - after.mean())
        assert drop.low <= drop.value <= drop.high
        covered += drop.low <= 0.024 <= drop.high
    assert covered >= 0.91 * 400
    same = top_one([True] * 100).drop_to(top_one([True] * 100))
    assert same.value == 0
    assert same.high > 0.005  # a hundred equal answers do not prove that nothing is lost


def test_of_several_windows_the_surest_decides() -> None:
    made = TopOne(CARD)
    windows = [{"y": np.float32([[0.4, 0.3, 0.3]])}, {"y": np.float32([[0.0, 0.1, 0.9]])}]
    made.add(Example("e", ({}, {}), truth=Truth.of_class(2)), windows)
    assert made.value() == 1


def test_events_are_counted_at_the_threshold() -> None:
    card = rt.ModelCard(
        input=cards.TensorInput(),
        output=cards.SoundEvents(activation="none", threshold=0.5),
        labels=("a", "b"),
    )
    made = Events(card)
    made.add(Example("1", ({},), truth=Truth((0,))), [{"y": np.float32([[0.9, 0.6]])}])
    made.add(Example("2", ({},), truth=Truth(())), [{"y": np.float32([[0.1, 0.2]])}])
    made.add(Example("3", ({},), truth=Truth((1,))), [{"y": np.float32([[0.1, 0.2]])}])
    assert made.value() == pytest.approx(2 * 1 / (2 + 1 + 0 + 0 + 0 + 1))


def test_boxes_are_judged_by_average_precision() -> None:
    card = rt.ModelCard(
        input=cards.ImageInput(width=100, height=100),
        output=cards.Yolov8(score_threshold=0.5),
        labels=("a", "b"),
    )

    def found(*boxes: tuple[float, float, float, float, float, float]) -> dict[str, np.ndarray]:
        columns = [[x, y, w, h, a, b] for x, y, w, h, a, b in boxes]
        return {"y": np.float32(columns).T[None]}

    place = Placement(100, 100, 1.0, 1.0, 0.0, 0.0)
    truth = Truth((0, 1), ((0.0, 10, 10, 30, 30), (1.0, 50, 50, 70, 70)))
    example = Example("p", ({"x": np.zeros((1, 3, 100, 100), "f4")},), place, truth)
    good, half = Boxes(card), Boxes(card)
    good.add(example, [found((20, 20, 20, 20, 0.9, 0), (60, 60, 20, 20, 0, 0.05))])
    half.add(example, [found((20, 20, 20, 20, 0.9, 0))])
    assert good.value() == pytest.approx(1.0)  # found at a score below the card's threshold, too
    assert half.value() == pytest.approx(0.5)
    assert good.drop_to(half).value == pytest.approx(0.5)


def test_output_errors_are_relative_and_of_the_worst_output() -> None:
    errors = OutputErrors(["a", "b", "n"])
    a, b = np.float32([3, 4]), np.float32([100, 0])
    errors.add({"a": a, "b": b, "n": np.int64([1, 2])}, {"a": a * 1.1, "b": b, "n": np.int64([1, 2])})
    assert errors.worst == pytest.approx(0.1, rel=1e-5)
    errors.add({"a": a, "b": b, "n": np.int64([1, 2])}, {"a": a, "b": b, "n": np.int64([3, 4])})
    assert errors.worst == pytest.approx(np.sqrt(0.5))


def test_labels_come_from_a_table_or_from_folders(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(
        "file,label,left,top,right,bottom\na.png,dog,1,2,3,4\na.png,cat,5,6,7,8\nb.png,,,,,\nc.png,2,,,,\n"
    )
    found = read_labels(table, CARD, ["a.png", "b.png", "c.png"])
    assert found["a.png"] == Truth((1, 0), ((1, 1, 2, 3, 4), (0, 5, 6, 7, 8)))
    assert found["b.png"] == Truth()
    assert found["c.png"] == Truth((2,))
    assert by_folder(["dog/1.png", "cat/x/2.png"], CARD) == {
        "dog/1.png": Truth((1,)),
        "cat/x/2.png": Truth((0,)),
    }
    assert by_folder(["dog/1.png", "other/2.png"], CARD) == {}
    assert by_folder(["dog/1.png", "2.png"], CARD) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,class\na.png,dog\n", "must name the columns file,label"),
        ("file,label\na.png,horse\n", "line 2: 'horse' is neither a label"),
        ("file,label\nz.png,dog\n", "names none of the examples, such as 'a.png'"),
        ("file,label,left,top,right,bottom\na.png,dog,x,1,1,1\n", "line 2: .* must be numbers"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(text: str, told: str, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(CalibrationError, match=told):
        read_labels(table, CARD, ["a.png"])


def test_results_without_a_measure_are_refused_with_the_way_out() -> None:
    truths = {"a": Truth.of_class(0)}
    for output, told in (
        (cards.Raw(), "is raw"),
        (cards.Embedding(), "no measure of accuracy for embedding"),
    ):
        card = rt.ModelCard(input=cards.TensorInput(), output=output)
        with pytest.raises(CalibrationError, match=told) as caught:
            measure_for(card, truths)
        assert "--max-error" in str(caught.value)
    with pytest.raises(CalibrationError, match="needs a model card"):
        measure_for(None, truths)
    detector = rt.ModelCard(input=cards.ImageInput(width=8, height=8), output=cards.Yolov8())
    with pytest.raises(CalibrationError, match="judged by boxes"):
        measure_for(detector, truths)
