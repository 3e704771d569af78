"""What of a verification needs no compiled model: begun while the model is still being lowered.

A compile keeps one core busy with Python, and the others in part. Meanwhile the process that will run the artifact
starts and opens the reference there, and a thread computes what is expected. Nothing of it is begun where candidates
are timed: they have to run alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from edgec.compiler.backends.registry import backend_of
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.process import Child, Measure, started
from edgec.compiler.verify.questions import Questions, questions_for
from edgec.targets import Target


@dataclass(frozen=True)
class Begun:
    """A process that waits for the artifact.

    Attributes:
        artifact: the file that it will load.
        inputs: the main ones that it will run on.
        half: whether those beside them are for half precision.
        child: the process.
    """

    artifact: Path
    inputs: Arrays
    half: bool
    child: Child

    def fits(self, artifact: Path, inputs: Arrays, *, half: bool) -> bool:
        """Whether this is the verification to carry out."""
        return (
            artifact == self.artifact
            and half == self.half
            and inputs.keys() == self.inputs.keys()
            and all(_same(array, self.inputs[name]) for name, array in inputs.items())
        )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


class Ahead:
    """Begins verifications; what was begun and not used ends with the context."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.begun: Begun | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(
        self,
        source: SourceModel,
        target: Target,
        inputs: Callable[[], Arrays],
        *,
        threads: int,
        measure: Measure,
        half: bool,
        expect: Callable[[Questions], object],
    ) -> None:
        """Begin to verify a model.

        Args:
            source: the model.
            target: that its artifact will be for.
            inputs: makes the main ones.
            threads: to run with.
            measure: how long to time.
            half: whether the artifact will compute in half precision.
            expect: computes what is expected, and keeps it.
        """
        if self.begun is not None or source.original is not None:
            return
        backend = backend_of(target)
        main = inputs()
        asked = questions_for(source, main, half=half)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="edgec-compile-")))
        if backend.can_time and target.timed_on is None:  # else an emulator's, whose time is not free
            artifact = folder / "unproven.edge"
            how = (threads, measure, backend.runner(), asked.steps)
            child = self._stack.enter_context(started(artifact, source, asked.values, *how))
            self.begun = Begun(artifact, main, half, child)
        worker = ThreadPoolExecutor(1)
        self._stack.callback(worker.shutdown, wait=False, cancel_futures=True)
        worker.submit(expect, asked)
