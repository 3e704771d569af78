"""What an artifact is run on to be verified."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.extremes import Probe, deciding_otherwise, probes_for
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.sequences import initial_inputs, runs_alone, steps_of


@dataclass(frozen=True)
class Questions:
    """See the module.

    Attributes:
        probes: all inputs, the main ones first.
        steps: for a model with states, the inputs of each run of a sequence.
    """

    probes: list[Probe]
    steps: list[Arrays]

    @property
    def values(self) -> list[Arrays]:
        """The inputs of the probes."""
        return [probe.inputs for probe in self.probes]


def questions_for(source: SourceModel, inputs: Arrays, *, half: bool) -> Questions:
    """The questions that follow from the main inputs.

    Args:
        source: the model.
        inputs: the main ones.
        half: the artifact computes in half precision.
    """
    if source.states:
        steps, alone = steps_of(source, inputs), runs_alone(source, inputs)
        first = Probe("", steps[0] | initial_inputs(source))
        return Questions([first, *deciding_otherwise(source, alone)], steps)
    return Questions([Probe("", inputs), *probes_for(source, inputs, half=half)], [])
