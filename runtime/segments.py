"""Models that run in parts: compiled functions, and between them sub-graphs that only ONNX Runtime can
run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgec.runtime.artifact import Artifact
from edgec.runtime.config import Segment
from edgec.runtime.errors import ArtifactError
from edgec.runtime.foreign import session_of
from edgec.runtime.library import Handle
from edgec.runtime.native import Array, NativeFunction
from edgec.runtime.threads import Threading
from edgec.runtime.weights import Weight

Step = Callable[[Sequence[Array]], list[Array]]


class Whole:
    """A model in parts, called like one function: values go from part to part by name, as arrays,
    uncopied.
    """

    def __init__(
        self, steps: Sequence[tuple[Segment, Step]], inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self.steps = tuple(steps)
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        last: dict[str, int] = {}
        for number, (segment, _) in enumerate(self.steps):
            last |= dict.fromkeys(segment.inputs, number)
        kept = set(self._outputs)
        # Values are let go as soon as no later part reads them.
        self._done = [
            [name for name, at in last.items() if at == number and name not in kept]
            for number in range(len(self.steps))
        ]

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run all parts in order on the model's inputs and return its outputs."""
        values = dict(zip(self._inputs, arrays, strict=True))
        for (segment, step), done in zip(self.steps, self._done, strict=True):
            results = step([values[name] for name in segment.inputs])
            values.update(zip(segment.outputs, results, strict=True))
            for name in done:
                del values[name]
        given = {id(array) for array in arrays}
        return [values[name].copy() if id(values[name]) in given else values[name] for name in self._outputs]

    def close(self) -> None:
        """Let all parts go."""
        for _, step in self.steps:
            if isinstance(step, NativeFunction):
                step.close()
        self.steps = ()


def in_parts(artifact: Artifact, module: Handle, weights: dict[str, Weight], threads: Threading) -> Whole:
    """Put the parts of a segmented artifact together.

    Raises:
        ArtifactError: a part refers to what the artifact does not hold.
        IncompatibleDevice: ONNX Runtime is needed and not installed.
    """
    steps: list[tuple[Segment, Step]] = []
    known = {spec.name for spec in artifact.config.inputs}
    specs = {spec.name: spec for spec in artifact.config.inputs}
    for segment in artifact.config.segments:
        if not set(segment.inputs) <= known:
            raise ArtifactError(
                f"{artifact.path}: a part reads {sorted(set(segment.inputs) - known)[0]!r} too early"
            )
        known |= set(segment.outputs)
        if segment.kind == "native":
            missing = [name for name in segment.weights if name not in weights]
            if segment.function is None or missing:
                raise ArtifactError(f"{artifact.path}: a compiled part lacks its function or a weight")
            own = [weights[name] for name in segment.weights]
            inputs = [specs.get(name) for name in segment.inputs]
            steps.append((segment, NativeFunction(module, segment.function, own, inputs)))
        else:
            steps.append((segment, _foreign(artifact, segment, threads)))
    if not {spec.name for spec in artifact.config.outputs} <= known:
        raise ArtifactError(f"{artifact.path}: no part computes all of its outputs")
    inputs_of_all = [spec.name for spec in artifact.config.inputs]
    return Whole(steps, inputs_of_all, [spec.name for spec in artifact.config.outputs])


def _foreign(artifact: Artifact, segment: Segment, threads: Threading) -> Step:
    """A part for ONNX Runtime."""
    session = session_of(artifact, segment, threads)
    inputs, outputs = list(segment.inputs), list(segment.outputs)

    def step(arrays: Sequence[Array]) -> list[Array]:
        results = session.run(outputs, dict(zip(inputs, arrays, strict=True)))
        return [np.asarray(result) for result in results]

    return step
