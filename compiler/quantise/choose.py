"""Which layers stay in 8 bits: as many as the user's bound allows, by measured sensitivity."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.progress import Progress
from edgec.compiler.quantise.errors import BoundNotMet
from edgec.compiler.quantise.evaluate import Evaluator, Quality
from edgec.compiler.quantise.structure import Layer, Structure


@dataclass(frozen=True)
class Bound:
    """The loss that is accepted on data held back: of accuracy, of the outputs, or both; None bounds nothing."""

    drop: float | None = None
    error: float | None = None

    def holds(self, quality: Quality) -> bool:
        """Whether a model of this quality is accepted."""
        if self.drop is not None and (quality.drop is None or quality.drop.value > self.drop):
            return False
        return self.error is None or quality.error <= self.error

    def told(self, quality: Quality) -> str:
        """A quality beside the bound, in words."""
        parts = []
        if self.drop is not None and quality.drop is not None:
            parts.append(
                f"a loss of {quality.drop.value:.2%} in {quality.measure} "
                f"(95 % interval {quality.drop.low:.2%} to {quality.drop.high:.2%}; accepted {100 * self.drop:.3g}%)"
            )
        if self.error is not None:
            parts.append(f"an output error of {100 * quality.error:.3g}% (accepted {100 * self.error:.3g}%)")
        return " and ".join(parts)


@dataclass(frozen=True)
class Choice:
    """The layers in 8 bits.

    Attributes:
        positions: of their nodes.
        quality: of the model, on data held back.
        all_in_int8: the quality with every layer in 8 bits.
        alone: the error with a layer alone in 8 bits, by its position; empty where no layer had to be given back.
    """

    positions: frozenset[int]
    quality: Quality
    all_in_int8: Quality
    alone: Mapping[int, float] = field(default_factory=dict)


class Prepared(Protocol):
    """A model that can be quantised for any choice of layers, and the data to judge it by."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers that could be in 8 bits."""

    @property
    def structure(self) -> Structure:
        """The float model's graph."""

    @property
    def few(self) -> Evaluator:
        """Measures how sensitive layers are."""

    @property
    def evaluator(self) -> Evaluator:
        """Measures on data held back."""

    @property
    def bound(self) -> Bound:
        """What has to hold on data held back."""

    def model(self, positions: Collection[int]) -> SourceModel:
        """The model with the layers at `positions` in 8 bits."""


def give_back(
    prepared: Prepared,
    progress: Progress,
    gains: Mapping[int, float] | None = None,
    skipped: Collection[int] = (),
) -> Choice:
    """Give layers back to floating point until the bound holds: first those with the most error for the time they save.

    Args:
        prepared: the model and its data.
        progress: told about the steps.
        gains: what each layer saves in 8 bits, by position; by default its multiply-adds.
        skipped: layers that are not to be in 8 bits, because that saves nothing.

    Raises:
        BoundNotMet: no layer can be in 8 bits.
    """
    everything = [layer.position for layer in prepared.layers]
    progress.stage("held-back", 1)
    whole = prepared.evaluator.of(prepared.model(everything))
    progress.advance()
    alone = sensitivity(prepared, progress)
    gains = gains or prepared.structure.work()
    order = [position for position in everything if position not in skipped]
    order.sort(key=lambda position: alone[position] ** 2 / max(gains.get(position, 0.0), 1e-9))
    if not order:
        return Choice(frozenset(), Quality(whole.examples, 0.0, 0.0), whole, alone)
    if len(order) == len(everything) and prepared.bound.holds(whole):
        return Choice(frozenset(everything), whole, whole, alone)
    return _longest(prepared, order, whole, alone, progress)


def sensitivity(prepared: Prepared, progress: Progress) -> dict[int, float]:
    """The error of the outputs with each layer alone in 8 bits, by position."""
    progress.stage("sensitivity", len(prepared.layers))
    alone = {}
    for layer in prepared.layers:
        alone[layer.position] = prepared.few.of(prepared.model([layer.position])).error
        progress.advance()
    return alone


def _longest(
    prepared: Prepared, order: Sequence[int], whole: Quality, alone: Mapping[int, float], progress: Progress
) -> Choice:
    """The most layers from the beginning of `order` with which the bound holds."""
    bound = prepared.bound
    measured: dict[int, Quality] = {}

    def fits(count: int) -> bool:
        measured[count] = prepared.evaluator.of(prepared.model(order[:count]))
        progress.advance()
        return bound.holds(measured[count])

    progress.stage("bound", len(order).bit_length() + 1)
    low, high = 0, len(order)
    if fits(high):
        low = high
    else:
        high -= 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if not low:
        fits(1)
        raise BoundNotMet(
            f"the bound cannot be kept in int8: all {len(order)} layers have {bound.told(whole)}, and the least "
            f"sensitive one alone has {bound.told(measured[1])}.\nAccept more (--max-drop, --max-error), give more "
            "calibration data, or compile with --precision auto"
        )
    return Choice(frozenset(order[:low]), measured[low], whole, alone)
