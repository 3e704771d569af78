"""How a model is quantised: the calibrator and the refinements, each kept where it makes the error smaller."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.progress import Progress
from edgec.compiler.quantise.calibrators import Histogram, range_of
from edgec.compiler.quantise.dataset import Dataset
from edgec.compiler.quantise.evaluate import Evaluator
from edgec.compiler.quantise.moments import Moments, gather
from edgec.compiler.quantise.observe import observe
from edgec.compiler.quantise.qdq import (
    Parameters,
    Weights,
    default_weights,
    grids_of,
    quantised_model,
)
from edgec.compiler.quantise.refine import corrected_bias, equalised, learned_rounding
from edgec.compiler.quantise.structure import Structure

GAIN = 0.98  # a refinement is kept if it leaves at most this share of the error
# By how much the error may grow, before it is refined, for weights that `pmaddubsw` takes.
PAIRED_LOSS = 1.5
PAIRED = "reduced range"


@dataclass(frozen=True)
class Recipe:
    """A way to quantise a model, for any choice of layers.

    Attributes:
        structure: of the float model, after refinements that leave it the same function.
        calibrator: found the ranges.
        applied: refinements, in order.
        ranges: of activations.
        signed: type of activations.
        biases: corrected ones, by the position of the layer.
        weights: with learned rounding, by the position of the layer.
        paired: whether no two neighbouring weights saturate (see `weight_scales`).
    """

    structure: Structure
    calibrator: str
    ranges: Mapping[str, tuple[float, float]]
    signed: bool
    applied: tuple[str, ...] = ()
    biases: Mapping[int, npt.NDArray[Any]] = field(default_factory=dict)
    weights: Mapping[int, Weights] = field(default_factory=dict)
    paired: bool = False

    def parameters(self, positions: Collection[int]) -> Parameters:
        """The parameters of the model with the layers at `positions` in 8 bits."""
        plan = self.structure.plan(positions)
        bare = Parameters(self.ranges, self.signed, {}, self.biases)
        grids = grids_of(plan, bare)
        weights = default_weights(self.structure, plan, grids, self.biases, paired=self.paired)
        learned = {at: made for at, made in self.weights.items() if at in weights}
        return replace(bare, weights={**weights, **learned})

    def model(self, positions: Collection[int]) -> SourceModel:
        """The model with the layers at `positions` in 8 bits."""
        return quantised_model(self.structure, self.structure.plan(positions), self.parameters(positions))

    @property
    def everything(self) -> frozenset[int]:
        """The positions of all layers."""
        return frozenset(layer.position for layer in self.structure.layers)

    @property
    def name(self) -> str:
        """The recipe in words."""
        return " + ".join((self.calibrator, *self.applied))


class Recipes:
    """Makes recipes from calibration data, and compares them by the error of the quantised model."""

    def __init__(
        self, structure: Structure, data: Dataset, *, signed: bool, paired: bool, progress: Progress
    ) -> None:
        self.structure, self.data, self.signed, self.progress = structure, data, signed, progress
        self.paired = paired

    def best(self, calibrators: Sequence[str], few: Evaluator) -> tuple[Recipe, dict[str, float]]:
        """The recipe with the smallest error on a few examples, and the error of each that was tried."""
        tried: dict[str, float] = {}

        def better(before: Recipe, after: Recipe) -> Recipe:
            tried[after.name] = few.of(after.model(after.everything)).error
            return after if tried[after.name] <= GAIN * tried[before.name] else before

        best = self._calibrated(self.structure, calibrators, few, tried)
        flat = equalised(self.structure)
        if flat is not None:
            best = self._calibrated(Structure(flat), [best.calibrator], few, tried, best)
        if self.paired:
            made = replace(best, paired=True, applied=(*best.applied, PAIRED))
            tried[made.name] = few.of(made.model(made.everything)).error
            best = made if tried[made.name] <= PAIRED_LOSS * tried[best.name] else best
        self.progress.stage("refine", len(few.data) + len(best.structure.layers))
        moments = gather(best.structure, best.model(best.everything), few.data, self.progress.advance)
        best = better(best, self._rounded(best, moments))
        return better(best, _with_biases(best, moments)), tried

    def _calibrated(
        self,
        structure: Structure,
        calibrators: Sequence[str],
        few: Evaluator,
        tried: dict[str, float],
        before: Recipe | None = None,
    ) -> Recipe:
        """The best of the calibrators on `structure`, or `before` if it is not better than that."""
        self.progress.stage("calibrate", len(self.data))
        seen = self._seen(structure)
        applied = ("equalised channels",) if before else ()
        made = [replace(self._plain(structure, seen, name), applied=applied) for name in calibrators]
        self.progress.stage("compare", len(made))
        for recipe in made:
            tried[recipe.name] = few.of(recipe.model(recipe.everything)).error
            self.progress.advance()
        best = min(made, key=lambda recipe: tried[recipe.name])
        return best if before is None or tried[best.name] <= GAIN * tried[before.name] else before

    def _rounded(self, recipe: Recipe, moments: Mapping[int, Moments]) -> Recipe:
        """The recipe with learned rounding."""
        structure, weights = recipe.structure, dict(recipe.parameters(recipe.everything).weights)
        learned: dict[int, Weights] = {}
        for layer in structure.layers:
            if layer.position in moments:
                at = layer.position
                made = learned_rounding(structure, layer, weights[at], moments[at])
                learned |= {} if made is None else {at: made}
            self.progress.advance()
        return replace(recipe, weights=learned, applied=(*recipe.applied, "learned rounding"))

    def _seen(self, structure: Structure) -> dict[str, Histogram]:
        tensors = list(structure.plan([layer.position for layer in structure.layers]).tensors)
        return observe(structure.source, tensors, self.data, self.progress.advance)

    def _plain(self, structure: Structure, seen: Mapping[str, Histogram], calibrator: str) -> Recipe:
        ranges = {name: range_of(histogram, calibrator) for name, histogram in seen.items()}
        return Recipe(structure, calibrator, ranges, self.signed)


def _with_biases(recipe: Recipe, moments: Mapping[int, Moments]) -> Recipe:
    """The recipe with corrected biases."""
    structure, weights = recipe.structure, recipe.parameters(recipe.everything).weights
    biases: dict[int, npt.NDArray[Any]] = {}
    for layer in structure.layers:
        if layer.position in moments:
            made = corrected_bias(structure, layer, weights[layer.position], moments[layer.position])
            biases |= {} if made is None else {layer.position: made}
    return replace(recipe, biases=biases, applied=(*recipe.applied, "bias correction"))
