"""From the outputs of a compiled model, and what the reference gives, to the verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.reference_evaluator import STANDARD_DESCRIPTION
from edgec.compiler.frontends.source import Reference as Original
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import ERROR_BUDGET
from edgec.compiler.verify.compare import QUANTISED_BUDGET, OutputError, compare
from edgec.compiler.verify.extremes import Probe
from edgec.compiler.verify.grids import steps_of
from edgec.compiler.verify.hollow import marked
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.judge import Judgement, judge
from edgec.compiler.verify.process import PROBES_S
from edgec.compiler.verify.reference import Reference, is_quantised, rounds_float_results
from edgec.compiler.verify.rounding import perturbed_runs
from edgec.compiler.verify.sequences import compare_steps, reference_steps


class InputsRefused(ModelError):
    """The reference fails on the inputs that a model was to be verified with."""


@dataclass(frozen=True)
class Expected:
    """What the reference gives.

    Attributes:
        reference: its name and version.
        outputs: for the main inputs.
        others: for each of the further inputs, as far as there was time; None where it fails.
        perturbed: two runs on the main inputs that show what rounding does; empty where that is not known.
        spread: how far the reference's own implementations are apart, by output.
        quantised: the model rounds values to integers on its way.
        grids: the steps of the outputs that lie on a grid, by name.
        budget: the largest error that may be accepted.
        steps: for a model with states, the outputs of each run of a sequence.
    """

    reference: str
    outputs: Arrays
    others: Sequence[Arrays | None]
    perturbed: Sequence[Arrays]
    spread: Mapping[str, float]
    quantised: bool
    grids: Mapping[str, float]
    budget: float
    steps: Sequence[Arrays] = ()


def expected_for(
    source: SourceModel, probes: Sequence[Probe], threads: int, budget: float, steps: Sequence[Arrays] = ()
) -> Expected:
    """Run the reference on all inputs, the main ones first; a model with states in `steps` one after the other.

    Raises:
        InputsRefused: the reference fails on the main inputs.
        ModelError: there is no reference for the model.
    """
    begin = time.monotonic()
    quantised = is_quantised(source.reference)
    budget = max(budget, QUANTISED_BUDGET) if quantised else budget
    reference, inputs = source.original or Reference(source, threads), probes[0].inputs
    try:
        runs = reference_steps(reference, source, steps) if steps else [dict(reference.run(inputs))]
    except ModelError as error:
        raise InputsRefused(str(error)) from error
    tight = (quantised or budget <= ERROR_BUDGET["fp32"]) and not rounds_float_results(source.reference)
    return Expected(
        reference=reference.description,
        outputs=runs[0],
        others=_others(reference, probes, begin),
        perturbed=perturbed_runs(source, inputs, threads) if tight and not steps else [],
        spread=reference.spread(inputs) if quantised and (source.original or not steps) else {},
        quantised=quantised,
        grids=steps_of(source.reference) if quantised else {},
        budget=budget,
        steps=runs if steps else (),
    )


def _others(reference: Reference | Original, probes: Sequence[Probe], begin: float) -> list[Arrays | None]:
    found: list[Arrays | None] = []
    for probe in probes[1:]:
        if time.monotonic() - begin > PROBES_S:
            break
        try:
            with np.errstate(all="ignore"):
                found.append(dict(reference.run(probe.inputs)))
        except ModelError:
            found.append(None)
    return found


def assess(
    source: SourceModel,
    probes: Sequence[Probe],
    expected: Expected,
    got: Mapping[int, Arrays],
    refusals: Sequence[str],
) -> tuple[tuple[OutputError, ...], tuple[Judgement, ...]]:
    """Compare a compiled model's outputs with what the reference gives.

    Args:
        source: the model.
        probes: all inputs, the main ones first.
        expected: what the reference gives for them.
        got: the outputs by the number of the inputs, where the compiled model ran on them.
        refusals: for each of the further inputs that it was run on, why it refused them.

    Returns:
        the errors on the main inputs, and what became of the others.
    """
    errors = [
        compare(
            port.name,
            expected.outputs[port.name],
            got[0][port.name],
            expected.budget,
            spread=expected.spread.get(port.name, 0.0),
            stored=expected.quantised,
            perturbed=[run[port.name] for run in expected.perturbed],
            grid=expected.grids.get(port.name, 0.0),
        )
        for port in source.outputs
    ]
    judged = judge_others(source, probes, expected, got, refusals)
    agreed = zip(expected.others, judged, strict=False)
    compared = [wanted for wanted, judgement in agreed if wanted is not None and judgement.equal]
    return marked(errors, [expected.outputs, *compared], source.model), judged


def judge_others(
    source: SourceModel,
    probes: Sequence[Probe],
    expected: Expected,
    got: Mapping[int, Arrays],
    refusals: Sequence[str],
) -> tuple[Judgement, ...]:
    """What became of the inputs beside the main ones; the arguments are those of `assess`."""
    pairs = enumerate(zip(expected.others, refusals, strict=False), start=1)
    return tuple(
        _judged(source, probes[number], wanted, got.get(number), told, expected)
        for number, (wanted, told) in pairs
    )


def assess_steps(source: SourceModel, expected: Expected, got: Sequence[Arrays]) -> tuple[OutputError, ...]:
    """The errors of a model with states over all runs of a sequence."""
    how = (expected.budget, expected.spread)
    return compare_steps(source, expected.steps, got, *how, stored=expected.quantised)


def _judged(
    source: SourceModel,
    probe: Probe,
    wanted: Arrays | None,
    got: Arrays | None,
    told: str,
    expected: Expected,
) -> Judgement:
    if wanted is None:
        return Judgement(probe.name, "the reference refuses them")
    if got is None:
        return Judgement(probe.name, "refused", f"the compiled model refuses what the reference runs: {told}")
    standard = expected.reference.startswith(STANDARD_DESCRIPTION)
    budget = max(expected.budget, probe.budget)
    return judge(source, probe, wanted, got, budget, stored=expected.quantised, by_standard=standard)
