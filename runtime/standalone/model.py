"""`load`, models and sessions, as in `edgec.runtime`."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .arrays import Array, Given
from .errors import InputError
from .program import Program, Stream, TensorSpec, misfit


@dataclass(frozen=True)
class LayerTime:
    """Time of one kernel of a run.

    Attributes:
        kernel: name of the compiled function.
        nodes: the source model's nodes that it computes.
        ms: on average over the repeats.
        share: its part of all kernels' time (0 to 1).
    """

    kernel: str
    nodes: tuple[str, ...]
    ms: float
    share: float


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Model:
    """Load a compiled model to run on this machine.

    Args:
        path: an `.edge` file.
        threads: number of threads of a run; None takes all cores that this process may use.

    Raises:
        ArtifactError: not an artifact, truncated or altered.
        IncompatibleDevice: this machine or libedgec lacks something that the artifact needs.
        InputError: the number of threads is not positive, or larger than 64.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be a positive number, not {threads!r}")
    file = os.fspath(path)
    first = Program(file, 0)
    programs = [first, *(Program(file, number) for number in range(1, first.sets))]
    return Model(programs, threads or _cores())


def _cores() -> int:
    """Cores that this process may use, as many as libedgec takes."""
    return min(len(os.sched_getaffinity(0)), 64)


class Model:
    """A model that is ready to run, as returned by `load`.

    Safe to use from several threads at once. Outputs belong to the caller. `inputs` and `outputs` describe the first
    set of input shapes, without states; a run selects the set that fits its inputs.
    """

    def __init__(self, programs: list[Program], threads: int) -> None:
        self._programs, self.threads = programs, threads
        self.first = first = programs[0]
        self.name, self.version, self.target = (first.text(what) for what in ("name", "version", "target"))
        self.inputs: tuple[TensorSpec, ...] = first.inputs
        self.outputs: tuple[TensorSpec, ...] = first.outputs
        self._idle: dict[Program, list[Stream]] = {program: [] for program in programs}
        self._lock = threading.Lock()
        self._open = True
        self._idle[first].append(Stream(first, threads))

    def run(self, inputs: Mapping[str, object]) -> dict[str, Array]:
        """Run once; a run depends on nothing but its inputs, and states are at their initial values.

        Args:
            inputs: for every input, by the source model's names, an object with the buffer protocol or DLPack: of the
                shape and data type in `inputs`, or flat in C order, or plain bytes. They are not copied if they are in
                C order on a 64-byte boundary.

        Returns:
            the outputs by the source model's names.

        Raises:
            InputError: a name, shape or data type does not fit, or the model is closed.
        """
        program, given = self.fitting(inputs)
        with _Borrowed(self, program) as stream:
            return stream.run(given)

    def fitting(self, inputs: Any) -> tuple[Program, list[Given]]:  # noqa: ANN401 - whatever the caller passed
        """The set of shapes that the inputs fit, and the inputs in its order.

        Raises:
            InputError: there is none.
        """
        if not isinstance(inputs, Mapping):
            expected = ", ".join(map(str, self.inputs))
            raise InputError(f"inputs must be a dict of arrays ({expected}), not {type(inputs).__name__}")
        held: dict[str, Given] = {}
        for name, value in inputs.items():
            try:
                held[name] = value if isinstance(value, Given) else Given(value)
            except InputError as error:
                raise InputError(f"input {name!r} of {self.name}: {error}") from error
        for program in self._programs:
            if (given := program.match(held)) is not None:
                return program, given
        raise misfit(self._programs, held)

    def session(self) -> Session:
        """Begin a stream of runs that carries the model's states from one to the next."""
        return Session(self)

    def profile(self, inputs: Mapping[str, object], repeats: int = 20) -> list[LayerTime]:
        """Time each compiled kernel, in the order of a run, with the source nodes that it computes.

        Raises:
            InputError: as `run`.
        """
        program, given = self.fitting(inputs)
        with _Borrowed(self, program) as stream:
            stream.run(given)
            layers = stream.profile(given, repeats)
        total = sum(seconds for *_, seconds in layers) or 1.0
        return [
            LayerTime(kernel, tuple(nodes.split(", ")) if nodes else (), seconds * 1e3, seconds / total)
            for kernel, nodes, seconds in layers
        ]

    def borrow(self, program: Program) -> Stream:
        """A stream in its initial state, for one thread.

        Raises:
            InputError: the model is closed.
        """
        with self._lock:
            if not self._open:
                raise InputError(f"the model {self.name} has been closed")
            idle = self._idle[program]
            stream = idle.pop() if idle else None
        if stream is None:
            return Stream(program, self.threads)
        stream.reset()
        return stream

    def give_back(self, stream: Stream) -> None:
        """Keep a stream for the next run, or end it if the model is closed."""
        with self._lock:
            if self._open:
                self._idle[stream.program].append(stream)
                return
        stream.release()

    def close(self) -> None:
        """Release the memory of runs; code and weights go with the last session. Outputs stay valid."""
        with self._lock:
            self._open = False
            streams = [stream for idle in self._idle.values() for stream in idle]
            self._idle = {program: [] for program in self._programs}
        for stream in streams:
            stream.release()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Borrowed:
    """A stream of a model for the length of a `with`."""

    def __init__(self, model: Model, program: Program) -> None:
        self._model, self._stream = model, model.borrow(program)

    def __enter__(self) -> Stream:
        return self._stream

    def __exit__(self, *_: object) -> None:
        self._model.give_back(self._stream)


class Session:
    """One stream of runs, as returned by `Model.session`. Calls from several threads wait for each other.

    A model with several sets of input shapes may change from one to another if its states have the same shapes in both.

    Attributes:
        inputs, outputs: those of the first set of input shapes, without the states.
        steps: runs since the session began, or since the last `reset` or `restore`.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._lock = model, threading.Lock()
        self._stream = model.borrow(model.first)
        self._initial = True
        self.inputs, self.outputs, self.steps = model.inputs, model.outputs, 0

    def run(self, inputs: Mapping[str, object]) -> dict[str, Array]:
        """Run once, from the state that the last run left; see `Model.run`.

        Raises:
            InputError: a name, shape or data type does not fit. The state is as before.
        """
        program, given = self._model.fitting(inputs)
        with self._lock:
            if program is not self._stream.program:
                self._change(program)
            self._initial = False
            outputs = self._stream.run(given)
            self.steps += 1
        return outputs

    def _change(self, program: Program) -> None:
        """Go on with another set of input shapes."""
        other = self._model.borrow(program)
        if self._stream.program.snapshot_bytes and not self._initial:
            try:
                other.restore(self._stream.snapshot())
            except InputError as error:
                self._model.give_back(other)
                raise InputError(
                    f"the states of {self._model.name} have other shapes for these inputs than for those of the run "
                    "before: reset() the session first, or open one for each set of input shapes"
                ) from error
        self._model.give_back(self._stream)
        self._stream = other

    def reset(self) -> None:
        """Return to the initial state."""
        with self._lock:
            self._stream.reset()
            self._initial, self.steps = True, 0

    def snapshot(self) -> bytes:
        """The present state, for `restore` in any session of the same model, here and in `edgec.runtime`.

        Raises:
            InputError: the model has none.
        """
        with self._lock:
            if not self._stream.program.snapshot_bytes:
                raise InputError(f"{self._model.name} has no state, so there is nothing to snapshot")
            return self._stream.snapshot()

    def restore(self, content: bytes) -> None:
        """Continue from a snapshot.

        Raises:
            InputError: it is damaged or of another model. The state is as before.
        """
        with self._lock:
            self._stream.restore(bytes(content))
            self._initial, self.steps = False, 0
