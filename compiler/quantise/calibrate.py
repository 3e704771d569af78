"""Quantise a model: calibrate, refine, and give layers back to floating point until the user's bound holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import edgec.runtime as rt
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import MAX_DROP, MAX_ERROR, Calibration
from edgec.compiler.progress import Progress
from edgec.compiler.quantise.calibrators import CALIBRATORS
from edgec.compiler.quantise.choose import Bound, Choice, give_back
from edgec.compiler.quantise.contents import needed
from edgec.compiler.quantise.dataset import ENOUGH, Dataset, open_dataset
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.quantise.evaluate import Evaluator
from edgec.compiler.quantise.measures import Accuracy, measure_for
from edgec.compiler.quantise.recipes import Recipe, Recipes
from edgec.compiler.quantise.structure import Layer, Structure, opset
from edgec.compiler.verify.reference import is_quantised
from edgec.targets import Target
from edgec.targets.features import AVX512_VNNI, AVX_VNNI

MOST_CALIBRATION = 512  # examples that ranges are found on
MOST_HELD_BACK = 2000  # examples that the bound is judged by
COMPARED = 32  # examples that calibrators, refinements and layers are compared on
OLDEST_OPSET = 13  # scales per channel

__all__ = ["Calibrated", "Judge", "calibrate", "judge_of"]


@dataclass(frozen=True)
class Calibrated:
    """A model that is ready to be quantised, for any choice of layers.

    Attributes:
        structure: of the float model.
        recipe: how it is quantised.
        tried: the error by recipe, for the report.
        few: measures how sensitive layers are, on data that ranges were found on.
        evaluator: measures on data held back.
        bound: what has to hold there.
        calibrated: the number of examples that ranges were found on.
    """

    structure: Structure
    recipe: Recipe
    tried: Mapping[str, float]
    few: Evaluator = field(repr=False)
    evaluator: Evaluator = field(repr=False)
    bound: Bound
    calibrated: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers that could be in 8 bits."""
        return self.structure.layers

    def model(self, positions: Collection[int]) -> SourceModel:
        """The quantised model with the layers at `positions` in 8 bits."""
        return self.recipe.model(positions)

    def choose(
        self, progress: Progress, gains: Mapping[int, float] | None = None, skipped: Collection[int] = ()
    ) -> Choice:
        """The layers that can be in 8 bits: see `give_back`."""
        choice = give_back(self, progress, gains, skipped)
        drop = choice.quality.drop
        if drop is not None and self.bound.drop is not None and drop.high > self.bound.drop:
            progress.note(
                f"{choice.quality.examples} labelled examples say that the loss of accuracy is between {drop.low:.2%} "
                f"and {drop.high:.2%} (95 %): more examples would make that narrower"
            )
        return choice


@dataclass(frozen=True)
class Judge:
    """What a model is judged by whose weights alone are narrow: no ranges are needed, so all examples count."""

    evaluator: Evaluator = field(repr=False)
    bound: Bound


def judge_of(source: SourceModel, calibration: Calibration, card: rt.ModelCard | None) -> Judge:
    """The judge of a float model's variants.

    Raises:
        CalibrationError: the data do not fit.
    """
    _require_fixed_sizes(source)
    data = open_dataset(calibration.data, source, card, calibration.labels)
    measure, bound = _bound(calibration, data, card)
    return Judge(Evaluator(source, data.first(MOST_HELD_BACK), measure), bound)


def calibrate(
    source: SourceModel,
    calibration: Calibration,
    target: Target,
    card: rt.ModelCard | None,
    progress: Progress,
) -> Calibrated:
    """Find ranges for a float model, and the best way to quantise it.

    Args:
        source: the prepared model.
        calibration: data and bounds.
        target: whose kernels choose the type of activations.
        card: describes preprocessing and result.
        progress: told about the stages.

    Raises:
        CalibrationError: the data do not fit, or the model cannot be quantised.
    """
    structure = _checked(source)
    if source.states and calibration.data.suffix.lower() != ".npz":
        raise CalibrationError(
            f"{source.path}: keeps states between runs ({', '.join(s.input for s in source.states)}): calibrate with "
            "one .npz file that holds them beside the other inputs, as they are in a real stream"
        )
    data = open_dataset(calibration.data, source, card, calibration.labels)
    measure, bound = _bound(calibration, data, card)
    calibrating, held_back = data.divided()
    calibrating, held_back = calibrating.first(MOST_CALIBRATION), held_back.first(MOST_HELD_BACK)
    if (
        target.arch == "x86_64"
        and not {AVX512_VNNI, AVX_VNNI} & set(target.features)
        and not calibration.reduce_range
    ):
        progress.note(f"{target.name} has no VNNI: most layers in int8 are faster there with --reduce-range")
    if data.files:
        _read_all((calibrating, held_back), progress)
    signed, paired = target.arch != "x86_64", calibration.reduce_range
    recipes = Recipes(structure, calibrating, signed=signed, paired=paired, progress=progress)
    names = list(CALIBRATORS) if calibration.calibrator == "auto" else [calibration.calibrator]
    few = Evaluator(source, calibrating.first(COMPARED))
    recipe, tried = recipes.best(names, few)
    if len(data) < ENOUGH:
        progress.note(f"{len(data)} examples were given to calibrate with: better are {needed(data.kind)}")
    evaluator = Evaluator(source, held_back, measure)
    return Calibrated(structure, recipe, tried, few, evaluator, bound, len(calibrating))


def _read_all(parts: Sequence[Dataset], progress: Progress) -> None:
    """Read every file, those of `parts` that come first to be kept: a damaged one is told before any work is done."""
    progress.stage("examples", sum(len(part) for part in parts))
    for part in parts:
        for _ in part:
            progress.advance()


def _checked(source: SourceModel) -> Structure:
    """The structure of a model that can be quantised."""
    if is_quantised(source.reference):
        raise CalibrationError(
            f"{source.path}: this model is quantised already: compile it without --precision int8 and --calibrate"
        )
    _require_fixed_sizes(source)
    if opset(source.model) < OLDEST_OPSET:
        raise CalibrationError(
            f"{source.path}: its operators are of version {opset(source.model)} and could not be brought up to date; "
            f"quantisation needs {OLDEST_OPSET}: export it anew"
        )
    structure = Structure(source)
    if not structure.layers:
        raise CalibrationError(
            f"{source.path}: has no convolution or product with constant weights, so there is nothing to quantise"
        )
    return structure


def _require_fixed_sizes(source: SourceModel) -> None:
    if source.bounds:
        raise CalibrationError(
            f"{source.path}: quantisation needs inputs of fixed sizes: give them with --input"
        )


def _bound(
    calibration: Calibration, data: Dataset, card: rt.ModelCard | None
) -> tuple[Callable[[], Accuracy] | None, Bound]:
    """The measure of accuracy, if there are labels, and what has to hold."""
    if calibration.max_drop is None and not data.truths:
        return None, Bound(error=MAX_ERROR if calibration.max_error is None else calibration.max_error)
    if not data.truths:
        raise CalibrationError(
            f"--max-drop needs labels: give --labels FILE.csv (columns file,label), or put the examples in {data.path} "
            "into a folder for each class, named like the card's labels"
        )
    if calibration.max_drop is None and calibration.max_error is not None:
        return None, Bound(error=calibration.max_error)
    missing = len(data) - sum(1 for name in _names(data) if name in data.truths)
    if missing:
        raise CalibrationError(
            f"{missing} of {len(data)} examples have no label; label all, or leave them out"
        )
    measure = measure_for(card, data.truths)
    drop = MAX_DROP if calibration.max_drop is None else calibration.max_drop
    return measure, Bound(drop=drop, error=calibration.max_error)


def _names(data: Dataset) -> Sequence[str]:
    if not data.files:
        return [str(number) for number in data.numbers]
    return [data.files[number].relative_to(data.path).as_posix() for number in data.numbers]
