"""Models with states: several runs one after the other, with the state carried, beside the reference's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgec.compiler.frontends.source import KeepsState, SourceModel
from edgec.compiler.verify.compare import OutputError, compare
from edgec.compiler.verify.inputs import Arrays


class Runs(Protocol):
    """What runs a model once."""

    def run(self, inputs: Arrays, /) -> Mapping[str, npt.NDArray[np.generic]]:
        """The outputs by name."""


STEPS = 8
_SHIFT = 7


def steps_of(source: SourceModel, inputs: Arrays, count: int = STEPS) -> list[Arrays]:
    """The inputs of each run without the states: `inputs`, then the same values in other places.

    Values stay those of the first run, so that whatever they have to fulfil (indices, lengths) they still do. Inputs of
    several runs (see `inputs.read_inputs`) are taken as they are.
    """
    states = {state.input for state in source.states}
    shown = {name: array for name, array in inputs.items() if name not in states}
    ranks = {port.name: len(port.shape) for port in source.inputs}
    if any(array.ndim > ranks[name] for name, array in shown.items()):
        runs = max(len(array) for name, array in shown.items() if array.ndim > ranks[name])
        return [
            {name: array[n] if array.ndim > ranks[name] else array for name, array in shown.items()}
            for n in range(runs)
        ]
    return [
        {name: np.roll(array.reshape(-1), _SHIFT * n).reshape(array.shape) for name, array in shown.items()}
        for n in range(count)
    ]


def initial_inputs(source: SourceModel) -> Arrays:
    """What the states begin with, by the names of their inputs."""
    ports = {port.name: port for port in source.inputs}
    return {
        state.input: np.zeros(ports[state.input].shape, ports[state.input].dtype)
        if state.initial is None
        else np.asarray(state.initial)
        for state in source.states
    }


def runs_alone(source: SourceModel, inputs: Arrays) -> Arrays:
    """The inputs of one run on its own: the first of `inputs`, from the state that these hold.

    Variables of the model, and states that `inputs` lacks, have their initial values.
    """
    passed = {state.input for state in source.states if state.origin != "variable"}
    shapes = {port.name: tuple(port.shape) for port in source.inputs}
    given = {n: array for n, array in inputs.items() if n in passed and array.shape == shapes[n]}
    return steps_of(source, inputs, 1)[0] | initial_inputs(source) | given


def carry(
    run: Callable[[Arrays], Mapping[str, npt.NDArray[np.generic]]],
    steps: Sequence[Arrays],
    carried: Mapping[str, str],
) -> list[Arrays]:
    """The outputs of runs one after the other; the inputs in `carried` take an output of the run before."""
    outputs: list[Arrays] = []
    for inputs in steps:
        taken = {name: outputs[-1][made] for name, made in carried.items()} if outputs else {}
        outputs.append(dict(run(inputs | taken)))
    return outputs


def reference_steps(reference: Runs, source: SourceModel, steps: Sequence[Arrays]) -> list[Arrays]:
    """The reference's outputs in each run, with its own state.

    Variables of the model are the framework's own; other states are carried from one of its runs to the next.
    """
    own = {state.input for state in source.states if state.origin == "variable"}
    keeps = isinstance(reference, KeepsState) and bool(own)
    carried = {s.input: s.output for s in source.states if not (keeps and s.input in own)}
    initial = {name: array for name, array in initial_inputs(source).items() if name in carried}
    first, *others = steps
    given = [first | initial, *others]
    if isinstance(reference, KeepsState) and keeps:
        return [dict(outputs) for outputs in reference.run_steps(given, carried)]
    return carry(reference.run, given, carried)


def compare_steps(
    source: SourceModel,
    expected: Sequence[Arrays],
    got: Sequence[Arrays],
    budget: float,
    spread: Mapping[str, float],
    *,
    stored: bool,
) -> tuple[OutputError, ...]:
    """The worst error of each output over all runs, and that of each state after the last one.

    States that the reference does not show (variables of the model) appear in the outputs only.
    """
    made = {state.output for state in source.states}
    errors = []
    for port in source.outputs:
        runs = [len(got) - 1] if port.name in made else range(len(got))
        found = [
            replace(
                compare(port.name, expected[n][port.name], got[n][port.name], budget,
                        spread=spread.get(port.name, 0.0), stored=stored),
                step=n + 1,
            )
            for n in runs
            if port.name in expected[n] and port.name in got[n]
        ]  # fmt: skip
        if found:
            errors.append(max(found, key=lambda error: (not error.ok, error.max_rel, error.mismatches)))
    return tuple(errors)
