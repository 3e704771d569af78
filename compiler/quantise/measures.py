"""How good a model is on data held back: by its outputs' error, or by labels with the measure of its result type."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.compiler.quantise.dataset import Example
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.quantise.labels import Truth
from edgec.compiler.verify.inputs import Arrays
from edgec.models.metrics import average_precision, matched, rows
from edgec.runtime import card as cards
from edgec.runtime.processing.activations import activate
from edgec.runtime.processing.boxes import single
from edgec.runtime.processing.decoders import decode

Z95 = 1.959964  # of the normal distribution
RESAMPLES = 200
LOWEST_SCORE = 0.01  # of detections for average precision

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drop:
    """A loss of accuracy, as a share of 1, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class OutputErrors:
    """The root mean square of the error of each output, relative to the root mean square of its values."""

    def __init__(self, names: Sequence[str]) -> None:
        self.errors = dict.fromkeys(names, 0.0)
        self.values = dict.fromkeys(names, 0.0)
        self.largest = 0.0

    def add(self, exact: Arrays, got: Arrays) -> None:
        """Count the outputs of one run."""
        for name in self.errors:
            if exact[name].dtype.kind != "f":
                self.values[name] += float(exact[name].size)
                self.errors[name] += float(np.count_nonzero(exact[name] != got[name]))
                continue
            usable = np.isfinite(exact[name].astype(np.float64))
            a = exact[name].astype(np.float64)[usable]
            b = np.nan_to_num(got[name].astype(np.float64)[usable])
            self.errors[name] += float(np.sum((a - b) ** 2))
            self.values[name] += float(np.sum(a**2))
            if a.size:
                self.largest = max(self.largest, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)))

    @property
    def worst(self) -> float:
        """The error of the worst output."""
        ratios = (math.sqrt(e / max(self.values[n], 1e-30)) for n, e in self.errors.items())
        return max(ratios, default=0.0)


class Accuracy(ABC):
    """A measure of labelled results, gathered example by example."""

    name = ""

    @abstractmethod
    def add(self, example: Example, outputs: Sequence[Arrays]) -> None:
        """Count an example; `outputs` are those of each window."""

    @abstractmethod
    def value(self) -> float:
        """The measure, from 0 to 1."""

    @abstractmethod
    def drop_to(self, other: Any) -> Drop:  # noqa: ANN401 - of the same class
        """The loss from this to `other`, measured on the same examples."""


class TopOne(Accuracy):
    """The share of examples whose best class is right."""

    name = "top-1 accuracy"

    def __init__(self, card: rt.ModelCard) -> None:
        self.card, self.right = card, list[bool]()

    def add(self, example: Example, outputs: Sequence[Arrays]) -> None:
        """Count an example: of several windows the surest decides."""
        if example.truth is None:
            return
        scores = np.stack([class_scores(one, self.card) for one in outputs])
        best = int(scores.max(axis=0).argmax())
        self.right.append(best in example.truth.classes)

    def value(self) -> float:
        """The share of right ones."""
        return float(np.mean(self.right)) if self.right else math.nan

    def drop_to(self, other: TopOne) -> Drop:
        """The difference of paired proportions.

        The interval is Agresti and Min's ("Simple improved confidence intervals for comparing matched proportions",
        Statistics in Medicine 2005), which stays honest where no or few examples change.
        """
        a, b = np.array(self.right), np.array(other.right)
        n, lost, won = len(a), int((a & ~b).sum()), int((~a & b).sum())
        middle = (lost - won) / (n + 2)
        spread = math.sqrt(max(lost + won + 1 - (n + 2) * middle**2, 0.0)) / (n + 2)
        return Drop((lost - won) / n, middle - Z95 * spread, middle + Z95 * spread)


class _Resampled(Accuracy):
    """A measure whose interval is found by drawing examples again and again (the paired bootstrap)."""

    def __init__(self, card: rt.ModelCard) -> None:
        self.card = card
        self.kept: list[Any] = []

    @abstractmethod
    def over(self, chosen: Sequence[int]) -> float:
        """The measure of some of the examples."""

    def value(self) -> float:
        """The measure of all examples."""
        return self.over(range(len(self.kept)))

    def drop_to(self, other: _Resampled) -> Drop:
        """The difference, with the percentiles of resampled differences."""
        rng, n = np.random.default_rng(0), len(self.kept)
        found = []
        for _ in range(RESAMPLES):
            drawn = rng.integers(0, n, n).tolist()
            found.append(self.over(drawn) - other.over(drawn))
        low, high = np.percentile(found, [2.5, 97.5])
        return Drop(self.value() - other.value(), float(low), float(high))


class Events(_Resampled):
    """F1 of the sounds that reach the card's threshold."""

    name = "F1"

    def add(self, example: Example, outputs: Sequence[Arrays]) -> None:
        """Count an example."""
        if example.truth is None or not isinstance(self.card.output, cards.SoundEvents):
            return
        scores = np.stack([class_scores(one, self.card) for one in outputs]).max(axis=0)
        heard = set(np.flatnonzero(scores >= self.card.output.threshold).tolist())
        wanted = set(example.truth.classes)
        self.kept.append((len(heard & wanted), len(heard) + len(wanted)))

    def over(self, chosen: Sequence[int]) -> float:
        """F1 over all sounds of the examples."""
        counts = np.array([self.kept[i] for i in chosen], np.float64)
        return float(2 * counts[:, 0].sum() / max(counts[:, 1].sum(), 1.0))


class Boxes(_Resampled):
    """Mean average precision at an overlap of 0.5."""

    name = "mAP@0.5"

    def __init__(self, card: rt.ModelCard) -> None:
        super().__init__(card)
        assert isinstance(card.output, cards.BoxOutput)
        self.loose = _with_threshold(card)

    def add(self, example: Example, outputs: Sequence[Arrays]) -> None:
        """Count a picture."""
        if example.truth is None:
            return
        results = decode(
            outputs[0], self.loose, given=next(iter(example.inputs[0].values())), place=example.place
        )
        truth = np.array(example.truth.boxes, np.float32).reshape(-1, 5)
        found = rows(results)
        kinds = {int(row[0]) for row in (*found, *truth)}
        self.kept.append({k: (*matched([found], [truth], k), int((truth[:, 0] == k).sum())) for k in kinds})

    def over(self, chosen: Sequence[int]) -> float:
        """Mean average precision over the classes that occur."""
        present = sorted({k for one in self.kept for k, (_, _, wanted) in one.items() if wanted})
        found = []
        for kind in present:
            parts = [self.kept[i][kind] for i in chosen if kind in self.kept[i]]
            scores, right, wanted = zip(*parts, strict=True) if parts else ((), (), ())
            if sum(wanted):
                found.append(average_precision(np.concatenate(scores), np.concatenate(right), sum(wanted)))
        return float(np.mean(found)) if found else math.nan


def _with_threshold(card: rt.ModelCard) -> rt.ModelCard:
    import msgspec

    return msgspec.structs.replace(
        card, output=msgspec.structs.replace(card.output, score_threshold=LOWEST_SCORE)
    )


def class_scores(outputs: Arrays, card: rt.ModelCard) -> npt.NDArray[np.float32]:
    """The score of each class."""
    spec = card.output
    assert isinstance(spec, cards.Classification | cards.Keyword | cards.SoundEvents)
    return np.asarray(activate(single(outputs, spec.output).reshape(-1).astype(np.float32), spec.activation))


def measure_for(card: rt.ModelCard | None, truths: Mapping[str, Truth]) -> Callable[[], Accuracy]:
    """The measure of accuracy for a card's result type.

    Raises:
        CalibrationError: there is none for it.
    """
    if card is None or isinstance(card.output, cards.Raw):
        if card is not None and truths and isinstance(card.output, cards.Raw):
            raise CalibrationError(
                "--max-drop needs a result that labels can judge, and the card's is raw: bound the outputs' error "
                "with --max-error instead"
            )
        raise CalibrationError(
            "--max-drop needs a model card that says what the result is: write a model.toml, or bound the outputs' "
            "error with --max-error instead"
        )
    kinds: list[tuple[type, Callable[[rt.ModelCard], Accuracy]]] = [
        (cards.Classification, TopOne),
        (cards.Keyword, TopOne),
        (cards.SoundEvents, Events),
        (cards.BoxOutput, Boxes),
    ]
    for kind, make in kinds:
        if isinstance(card.output, kind):
            if kind is cards.BoxOutput and not any(truth.boxes for truth in truths.values()):
                raise CalibrationError(
                    "a detector is judged by boxes: give --labels FILE.csv with the columns "
                    "file,label,left,top,right,bottom"
                )
            return lambda: make(card)
    raise CalibrationError(
        f"there is no measure of accuracy for {card.output.decoder} results: bound the outputs' error with "
        "--max-error instead"
    )
