"""A session: one stream of runs of a model, with its state in between."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.errors import BrokenOutput, InputError
from edgec.runtime.execution.ffi_layout import Array
from edgec.runtime.execution.threads import Threading

if TYPE_CHECKING:
    from edgec.runtime.device import Buffer, StateCalls
    from edgec.runtime.processing.predictor import Predictor
    from edgec.runtime.processing.results import Result
    from edgec.runtime.processing.sound_stream import SoundStream


class Signature:
    """Inputs and outputs as a run compares them with what the caller passes."""

    __slots__ = ("_expected", "_only", "_specs", "outputs")

    def __init__(self, config: ArtifactConfig) -> None:
        fixed = not any(spec.bounds for spec in config.inputs)
        self._expected = [(s.name, s.shape, np.dtype(s.dtype)) for s in config.inputs] if fixed else None
        self._only = self._expected[0] if self._expected is not None and len(self._expected) == 1 else None
        self._specs = config.inputs
        self.outputs = [spec.name for spec in config.outputs]

    def named(self, outputs: list[Array]) -> dict[str, Array]:
        """Outputs by their names."""
        if len(outputs) == 1:  # a third of a microsecond, which is a sixth of a tiny model's run
            return {self.outputs[0]: outputs[0]}
        return dict(zip(self.outputs, outputs, strict=True))

    def match(self, inputs: Mapping[str, Array]) -> list[Array] | None:
        """Order arrays for a call; None when their names, shapes or dtypes do not fit."""
        arrays = []
        only, expected = self._only, self._expected
        if expected is None:
            return self._match_bounds(inputs)
        try:
            if only is not None:  # as below, in two thirds of the time: that of a tiny model's run counts
                name, shape, dtype = only
                array = inputs[name]
                if (
                    array.shape == shape
                    and (array.dtype is dtype or array.dtype == dtype)
                    and len(inputs) == 1
                ):
                    return [array]
                return None
            for name, shape, dtype in expected:
                array = inputs[name]
                if array.shape != shape or (array.dtype is not dtype and array.dtype != dtype):
                    return None
                arrays.append(array)
        except (KeyError, AttributeError, TypeError):
            return None
        return arrays if len(inputs) == len(arrays) else None

    def _match_bounds(self, inputs: Mapping[str, Array]) -> list[Array] | None:
        """As `match`, where sizes are within bounds."""
        arrays: list[Array] = []
        known: dict[str, int] = {}
        for spec in self._specs:
            array = inputs.get(spec.name) if isinstance(inputs, Mapping) else None
            if not isinstance(array, np.ndarray) or array.dtype != np.dtype(spec.dtype):
                return None
            if not spec.takes(array.shape, known):
                return None
            arrays.append(array)
        return arrays if len(inputs) == len(arrays) else None


class Stateful(Protocol):
    """A model for one set of input shapes, as a session runs it."""

    config: ArtifactConfig
    shown: ArtifactConfig
    visible: Signature
    calls: StateCalls | None
    """What `state_calls` returned; None before its first call, and once the model is closed."""

    def state_calls(self) -> StateCalls:
        """The compiled function for sessions.

        Raises:
            InputError: the model is closed.
        """

    def arrived(self, inputs: Any) -> Any:  # noqa: ANN401 - whatever the caller passed
        """Inputs of which arrays of other libraries have become such as a run takes.

        Raises:
            InputError: one lies where the model cannot take it.
        """

    def initial(self) -> Sequence[Buffer]:
        """The states that a session begins with; they are never written to."""

    def use_threads(self, threading: Threading, /) -> None:
        """Prepare the calling thread for a run."""


class Session:
    """One stream of runs of a model, as returned by `Model.session`.

    The model's states stay on the device from one run to the next and are not copied. A model may have any number of
    sessions; they share code, weights and working memory. Calls of one session from several threads wait for each
    other.

    A model with several sets of input shapes may change from one set to another within a session if its states have the
    same shapes in both.

    Attributes:
        inputs, outputs: those of the first set of input shapes, without the states.
        config: the config of that set.
    """

    def __init__(
        self,
        variants: Sequence[Stateful],
        wanted: Threading,
        predictor: Any,  # noqa: ANN401
        *,
        refuse_nan: bool = False,
    ) -> None:
        self._refuse_nan = refuse_nan
        self._variants = tuple(variants)
        self._present = self._variants[0]
        self.config = self._present.shown
        self.inputs: tuple[TensorSpec, ...] = self.config.inputs
        self.outputs: tuple[TensorSpec, ...] = self.config.outputs
        self._threading, self._predictor = wanted, predictor
        self._lock = threading.Lock()
        self._stateless = not any(variant.config.states for variant in variants)
        self._states: Sequence[Buffer] | None = None
        """None until the first run: all at their initial values."""
        self.steps = 0
        """Runs since the session began, or since the last `reset` or `restore`."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on arrays, from the state that the last run left.

        Args:
            inputs: an array for every input that is no state, by the source model's names.

        Returns:
            the outputs that are no states, by the source model's names: new arrays, owned by the caller.

        Raises:
            InputError: a name, shape or dtype does not fit, or the model is closed. The state is as before.
        """
        variant = self._present
        arrays = variant.visible.match(inputs)
        if arrays is None:
            variant, arrays = self._fitting(inputs)
        return variant.visible.named(self._step(variant, arrays))

    def call(self, arrays: list[Array]) -> list[Array]:
        """As `run`, on arrays that are known to fit, in the order of `inputs`; outputs in the order of `outputs`.

        Raises:
            InputError: the model is closed.
            BrokenOutput: an output contains NaN, and the model is to refuse it.
        """
        outputs = self._step(self._variants[0], arrays)
        if self._refuse_nan:
            check_numbers(self.outputs, outputs)
        return outputs

    def _step(self, variant: Stateful, arrays: list[Array]) -> list[Array]:
        with self._lock:
            calls = variant.calls or variant.state_calls()
            if self._stateless:
                variant.use_threads(self._threading)
                outputs, _ = calls(arrays, ())
                self._present = variant
                self.steps += 1
                return outputs
            states = self._states
            if states is None:
                states = variant.initial()
            elif variant is not self._present and variant.config.states != self._present.config.states:
                raise InputError(
                    f"the states of {self.config.name} have other shapes for these inputs than for those of the run "
                    "before: reset() the session first, or open one for each set of input shapes"
                )
            variant.use_threads(self._threading)
            outputs, self._states = calls(arrays, states)
            self._present = variant
            self.steps += 1
            return outputs

    def _fitting(self, inputs: Mapping[str, Array]) -> tuple[Stateful, list[Array]]:
        inputs = self._variants[0].arrived(inputs)
        for variant in self._variants:
            arrays = variant.visible.match(inputs)
            if arrays is not None:
                return variant, arrays
        raise misfit([variant.shown for variant in self._variants], inputs)

    def predict(self, source: Any, *, sample_rate: int | None = None) -> list[Result]:  # noqa: ANN401
        """As `Model.predict`, from the state that the last run left.

        Raises:
            InputError: see `Model.predict`.
        """
        made: Predictor = self._predictor()
        return made(source, sample_rate, self.call)

    def listen(self) -> SoundStream:
        """Open a stream of sound whose windows are runs of this session.

        Raises:
            InputError: see `Model.listen`.
        """
        made: Predictor = self._predictor()
        return made.listen(self.call)

    def reset(self) -> None:
        """Return to the initial state."""
        with self._lock:
            self._states, self.steps = None, 0

    def states(self) -> dict[str, Array]:
        """Copies of the present states, by the names of the inputs that take them.

        Raises:
            InputError: the model is closed.
        """
        with self._lock:
            calls, present = self._present.state_calls(), self._states
            held = self._present.initial() if present is None else present
            names = [state.input for state in self._present.config.states]
            return {name: calls.get(buffer) for name, buffer in zip(names, held, strict=True)}

    def snapshot(self) -> bytes:
        """The present state as bytes, for `restore` in any session of the same model and version.

        Raises:
            InputError: the model is closed.
        """
        from edgec.runtime import snapshot

        return snapshot.pack(self._present.config, self.states())

    def restore(self, content: bytes) -> None:
        """Continue from a snapshot.

        Raises:
            InputError: it is damaged or of another model, or the model is closed. The state is as before.
        """
        from edgec.runtime import snapshot

        variant, failure = self._present, None
        for variant in dict.fromkeys((self._present, *self._variants)):
            try:
                values = snapshot.unpack(variant.config, content)
                break
            except InputError as error:
                failure = failure or error
        else:
            assert failure is not None
            raise failure
        calls = variant.state_calls()
        states = [calls.put(values[state.input]) for state in variant.config.states]
        with self._lock:
            self._states, self._present, self.steps = states, variant, 0


def check_numbers(specs: Sequence[TensorSpec], outputs: Sequence[Array]) -> None:
    """Check that outputs contain no NaN.

    Raises:
        BrokenOutput: one does.
    """
    for spec, output in zip(specs, outputs, strict=True):
        # The minimum of an array with a NaN is NaN: one pass.
        if output.size and output.dtype.kind == "f" and np.isnan(output.min()):
            raise BrokenOutput(f"output {spec.name} contains NaN")


def misfit(configs: Sequence[ArtifactConfig], inputs: Any) -> InputError:  # noqa: ANN401 - whatever the caller passed
    """The error that says what is wrong with `inputs`, and what was expected."""
    first = configs[0]
    expected = ", ".join(str(spec) for spec in first.inputs)
    if not isinstance(inputs, Mapping):
        return InputError(f"inputs must be a dict of arrays ({expected}), not {type(inputs).__name__}")
    names = [spec.name for spec in first.inputs]
    if held := [state.input for state in first.states if state.input in inputs and state.input not in names]:
        return InputError(
            f"{held[0]!r} is a state of {first.name}, which the session keeps; it takes {expected}"
        )
    if unknown := [name for name in inputs if name not in names]:
        return InputError(f"{first.name} has no input {unknown[0]!r}; it takes {expected}")
    if missing := [name for name in names if name not in inputs]:
        return InputError(f"input {missing[0]!r} of {first.name} is missing; it takes {expected}")
    for number, spec in enumerate(first.inputs):
        array = inputs[spec.name]
        if not isinstance(array, np.ndarray) and not isinstance(getattr(array, "dtype", None), np.dtype):
            return InputError(f"input {spec} must be a numpy array, not {type(array).__name__}")
        specs = [config.inputs[number] for config in configs]
        if not any(one.takes(array.shape, {}) for one in specs) or array.dtype != np.dtype(spec.dtype):
            texts = dict.fromkeys(f"[{', '.join(one.sizes())}]" for one in specs[1:])
            further = "".join(f" or {text}" for text in texts)
            return InputError(f"input {spec}{further} was given as {array.dtype}{list(array.shape)}")
    sets = "; or ".join(", ".join(str(spec) for spec in config.inputs) for config in configs)
    return InputError(f"the inputs of {first.name} do not fit; it takes {sets}")
