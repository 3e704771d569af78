"""Run a quantised model beside its float one on held-back data, and gather how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.quantise.dataset import Dataset, Example
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.quantise.measures import Accuracy, Drop, OutputErrors
from edgec.compiler.quantise.simulate import Simulation
from edgec.compiler.verify.inputs import Arrays

Runs = Callable[[Arrays], Arrays]
MOST_KEPT = 512 << 20  # bytes of the float model's outputs that are kept for the next comparison


@dataclass(frozen=True)
class Quality:
    """How good a model is beside the float one.

    Attributes:
        examples: on how many it was measured.
        error: root mean square error of the worst output, relative to its root mean square.
        largest: the largest error of a value, relative to the largest value of its output in its run.
        measure: the measure of accuracy; empty without labels.
        accuracy: by that measure; `exact` is the float model's.
        drop: its loss.
    """

    examples: int
    error: float
    largest: float
    measure: str = ""
    exact: float | None = None
    accuracy: float | None = None
    drop: Drop | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        found: dict[str, Any] = {
            "examples": self.examples,
            "error": self.error,
            "largest_error": self.largest,
        }
        if self.drop is not None:
            found |= {
                "measure": self.measure,
                "accuracy": self.accuracy,
                "accuracy_fp32": self.exact,
                "drop": self.drop.value,
                "drop_interval": [self.drop.low, self.drop.high],
            }
        return found


class Evaluator:
    """Compares models with the float one on the same examples.

    Args:
        source: the float model.
        data: the examples.
        measure: makes a measure of accuracy; None compares outputs only.
    """

    def __init__(
        self, source: SourceModel, data: Dataset, measure: Callable[[], Accuracy] | None = None
    ) -> None:
        self.source, self.data, self.measure = source, data, measure
        self._exact = Simulation(source)
        self._kept: dict[int, Sequence[Arrays]] = {}
        self._bytes = 0

    def quality(self, run: Runs, data: Dataset | None = None) -> Quality:
        """The quality of what `run` computes, on all the examples or on `data`, some of them."""
        chosen = data or self.data
        errors = OutputErrors([port.name for port in self.source.outputs])
        ours, exact = (self.measure(), self.measure()) if self.measure else (None, None)
        for example, expected in self._expected(chosen):
            got = [run(inputs) for inputs in example.inputs]
            for a, b in zip(expected, got, strict=True):
                errors.add(a, b)
            if ours is not None and exact is not None:
                ours.add(example, got)
                exact.add(example, expected)
        if ours is None or exact is None:
            return Quality(len(chosen), errors.worst, errors.largest)
        if not exact.value() > 0:
            raise CalibrationError(
                f"{chosen.path}: the float model gets none of {len(chosen)} labelled examples right ({exact.name}), so "
                "no loss can be measured.\nCheck the labels and the preprocessing of the model card, or bound the "
                "error of the outputs with --max-error and no labels"
            )
        return Quality(
            len(chosen),
            errors.worst,
            errors.largest,
            ours.name,
            exact.value(),
            ours.value(),
            exact.drop_to(ours),
        )

    def of(self, source: SourceModel, data: Dataset | None = None) -> Quality:
        """The quality of a quantised model, simulated."""
        return self.quality(Simulation(source).run, data)

    def _expected(self, data: Dataset) -> Iterator[tuple[Example, Sequence[Arrays]]]:
        """Each example with what the float model gives for its windows."""
        for number, example in zip(data.numbers, data, strict=True):
            found = self._kept.get(number)
            if found is None:
                found = [self._exact.run(inputs) for inputs in example.inputs]
                size = sum(int(a.nbytes) for one in found for a in one.values())
                if self._bytes + size <= MOST_KEPT:
                    self._kept[number] = found
                    self._bytes += size
            yield example, found
