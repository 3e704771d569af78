"""A loaded model: `run` on arrays, `predict` on frames and sounds, `profile` by layer."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.reader import Artifact
from edgec.runtime.card import ModelCard
from edgec.runtime.device import Executable
from edgec.runtime.errors import InputError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.execution.threads import Threading
from edgec.runtime.session import Session, Signature, check_numbers, misfit

if TYPE_CHECKING:  # not needed by a process that only runs arrays
    from edgec.runtime.device import Buffer, StateCalls
    from edgec.runtime.execution.profiling import LayerRuns, LayerTime, Probe
    from edgec.runtime.gpu.limits import Limits
    from edgec.runtime.processing.gpu import GpuProcessing
    from edgec.runtime.processing.predictor import Predictor
    from edgec.runtime.processing.results import Result
    from edgec.runtime.processing.sound_stream import SoundStream

_OF_OTHERS = ("__dlpack_device__", "__cuda_array_interface__")
Call = Callable[[list[Array]], list[Array]]
_alive: weakref.WeakSet[Model] = weakref.WeakSet()


def _is_others(value: object) -> bool:
    """Whether it is an array of another library than numpy."""
    return not isinstance(value, np.ndarray) and any(hasattr(value, name) for name in _OF_OTHERS)


class Variant:
    """A model for one set of input shapes: a config without buckets, and its compiled function.

    Args:
        initial: what the states begin with, in their order; None for zeros.
    """

    __slots__ = (
        "_begin",
        "_initial",
        "calls",
        "config",
        "engine",
        "invoke",
        "names",
        "shown",
        "signature",
        "use_threads",
        "visible",
    )

    def __init__(
        self,
        config: ArtifactConfig,
        engine: Executable,
        use_threads: Callable[[Threading], None],
        initial: Sequence[Array | None] = (),
    ) -> None:
        self.config, self.shown = config, config.visible()
        self.use_threads = use_threads
        self.engine: Executable | None = engine
        self.invoke: Call | None = engine.__call__
        """The engine's call, which is looked up only once."""
        self.signature, self.visible = Signature(config), Signature(self.shown)
        self.names = self.signature.outputs
        self._initial = tuple(initial)
        self.calls: StateCalls | None = None
        self._begin: list[Buffer] | None = None

    def state_calls(self) -> StateCalls:
        """The compiled function for sessions.

        Raises:
            InputError: the model is closed.
        """
        engine, calls = self.engine, self.calls
        if engine is None:
            raise self.closed()
        if calls is None:
            inputs = [spec.name for spec in self.config.inputs]
            places = [(inputs.index(s.input), self.names.index(s.output)) for s in self.config.states]
            calls = self.calls = engine.state_calls(self.config.inputs, places)
        return calls

    def initial_values(self) -> dict[str, Array]:
        """What the states begin with, by the names of their inputs."""
        return {
            state.input: np.zeros(state.shape, state.dtype) if value is None else np.array(value)
            for state, value in zip(self.config.states, self._initial, strict=True)
        }

    def initial(self) -> list[Buffer]:
        """The states that a session begins with; sessions share them, as no run writes to its states."""
        begin = self._begin
        if begin is None:
            calls = self.state_calls()
            begin = self._begin = [calls.put(value) for value in self.initial_values().values()]
        return begin

    def call(self, arrays: list[Array], threading: Threading) -> list[Array]:
        """Run on arrays that fit.

        Raises:
            InputError: the model is closed.
        """
        engine = self.engine
        if engine is None:
            raise self.closed()
        self.use_threads(threading)
        return engine(arrays)

    def open_engine(self) -> Any:  # noqa: ANN401 - whatever the device's function can do
        """The compiled function.

        Raises:
            InputError: the model is closed.
        """
        if self.engine is None:
            raise self.closed()
        return self.engine

    def closed(self) -> InputError:
        """The error of a call after `close`."""
        return InputError(f"the model {self.config.name} has been closed")

    def arrived(self, inputs: Any) -> Any:  # noqa: ANN401 - whatever the caller passed
        """Inputs of which arrays of other libraries have become such as a run takes.

        Raises:
            InputError: one lies where the model cannot take it, or is of a type that it cannot be of.
        """
        if not isinstance(inputs, Mapping) or not any(_is_others(one) for one in inputs.values()):
            return inputs
        from edgec.runtime.gpu.arrays import from_host, on_host, place_of, refused

        receive = getattr(self.engine, "receive", None)
        made = dict(inputs)
        for name, value in inputs.items():
            place = place_of(value)
            if place is None:
                continue
            if on_host(place):
                made[name] = from_host(name, value)
            elif receive is None:
                raise refused(name, place, self.config.name)
            else:
                made[name] = receive(name, value, place)
        return made

    def call_keeping(self, arrays: list[Array], outputs: bool | Collection[str]) -> list[Any]:
        """As `call`, with results that stay on the GPU: those with these names, or all.

        Raises:
            InputError: there is no such output, the model does not run on a GPU, or it is closed.
        """
        run = getattr(self.open_engine(), "call_keeping", None)
        if run is None:
            raise InputError(
                f"{self.config.name} runs on the processor, and its results lie there: call run() without on_device"
            )
        wanted = (
            self.names if outputs is True else [outputs] if isinstance(outputs, str) else list(outputs or ())
        )
        if unknown := [name for name in wanted if name not in self.names]:
            raise InputError(
                f"{self.config.name} has no output {unknown[0]!r}; it has {', '.join(self.names)}"
            )
        kept: list[Any] = run(arrays, frozenset(self.names.index(name) for name in wanted))
        return kept

    def close(self) -> None:
        """Release code and weights."""
        calls, self.calls, self._begin = self.calls, None, None
        engine, self.engine, self.invoke = self.engine, None, None
        if calls is not None:
            calls.close()
        if engine is not None:
            engine.close()


class Model:
    """A model that is ready to run, as returned by `edgec.runtime.load`.

    Safe to use from several threads at once: each call has its own virtual machine. Outputs belong to the caller and
    stay valid after `close`. `inputs` and `outputs` describe the first set of input shapes; `config.buckets` has the
    others, and a run selects the set that fits its inputs. The states that `session` carries are among both.

    Attributes:
        refuse_nan: whether `call`, `predict`, `listen` and those of sessions raise `BrokenOutput` where an output
            contains NaN, which decoders would take for "nothing found". To be set before the first of them.
    """

    refuse_nan = False

    def __init__(
        self,
        artifact: Artifact,
        variants: Sequence[Variant],
        threading: Threading,
        processing: bytes = b"",
    ) -> None:
        self.artifact = artifact
        self.config: ArtifactConfig = artifact.config
        self.inputs: tuple[TensorSpec, ...] = artifact.config.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.config.outputs
        self.manifest_digest = artifact.manifest_digest
        self.card: ModelCard | None = artifact.card()
        self._threading = threading
        self._variants = tuple(variants)
        self._first = self._variants[0]
        self._processing = processing
        self._predictor: Predictor | None = None
        self._on_gpu: GpuProcessing | None = None
        _alive.add(self)

    @property
    def threads(self) -> int:
        """Number of threads that a call runs on."""
        return self._threading.threads

    def run(
        self, inputs: Mapping[str, Array], *, on_device: bool | Collection[str] = False
    ) -> dict[str, Array]:
        """Run once on arrays.

        A run depends on nothing but its inputs. States that are not given are at their initial values, and their next
        values are among the outputs; `session` carries them from one run to the next.

        Args:
            inputs: an array for every input, by the source model's names, with the shapes and dtypes in `inputs`.
                Arrays of other libraries are read by DLPack. A model for a GPU takes those that lie there from where
                they are (DLPack or `__cuda_array_interface__`): what writes them need not be done, and the host
                does not wait for it.
            on_device: for a model that runs on a GPU: outputs that stay there, all (True) or by name. They are
                `edgec.runtime.gpu.results.DeviceResult`s: `torch.from_dlpack` and `cupy.from_dlpack` read them
                without a copy, `numpy()` copies them to the host.

        Returns:
            the outputs by the source model's names: new arrays, owned by the caller.

        Raises:
            InputError: a name, shape or dtype does not fit, or the model is closed.
        """
        variant = self._first
        arrays = variant.signature.match(inputs)
        if arrays is None:
            variant, arrays = self._fitting(inputs)
        if on_device:
            return variant.signature.named(variant.call_keeping(arrays, on_device))
        invoke = variant.invoke
        if invoke is None:
            raise variant.closed()
        # what `Variant.call` and `Signature.named` do: of a tiny model's run, their calls are a tenth
        variant.use_threads(self._threading)
        outputs, names = invoke(arrays), variant.names
        return {names[0]: outputs[0]} if len(outputs) == 1 else dict(zip(names, outputs, strict=True))

    def _fitting(self, inputs: Mapping[str, Array]) -> tuple[Variant, list[Array]]:
        """Find the variant that fits these inputs, and order them for it."""
        inputs = self._first.arrived(inputs)
        for variant in self._variants:
            arrays = variant.signature.match(inputs)
            if arrays is None and variant.config.states and isinstance(inputs, Mapping):
                arrays = variant.signature.match(variant.initial_values() | dict(inputs))
            if arrays is not None:
                return variant, arrays
        raise misfit([variant.config for variant in self._variants], inputs)

    def call(self, arrays: list[Array]) -> list[Array]:
        """Run on arrays that are known to fit, in the order of `inputs`; outputs are in the order of `outputs`.

        Raises:
            InputError: the model is closed.
            BrokenOutput: an output contains NaN, and `refuse_nan` is set.
        """
        outputs = self._first.call(arrays, self._threading)
        if self.refuse_nan:
            check_numbers(self.outputs, outputs)
        return outputs

    def predict(self, source: Any, *, sample_rate: int | None = None) -> list[Result]:  # noqa: ANN401
        """Preprocess, run and decode as the model card declares: typed results of a frame or of sound.

        Args:
            source: for a picture `[height, width, 3]` uint8 in BGR, as OpenCV returns it, or gray
                `[height, width]`, or `edgec.runtime.Nv12`, which for a model on a GPU may lie there (DLPack or
                `__cuda_array_interface__`); for sound `[n]` or `[n, channels]` samples (float in -1 to 1, or
                integers); for plain tensors the dict that `run` takes.
            sample_rate: samples per second of `source`; None for the card's.

        Returns:
            results in pixels of the frame, best score first; for sound the results of all windows in order.

        Raises:
            InputError: `source` is of the wrong kind, the model has no card, or the card does not fit the model.
        """
        return self._get_predictor()(source, sample_rate, self._caller())

    def listen(self) -> SoundStream:
        """Open a stream of sound; its `push` takes samples and returns the results of each complete window.

        Raises:
            InputError: the model has no card, or its input is not sound.
        """
        return self._get_predictor().listen(self._caller())

    def session(self) -> Session:
        """Begin a stream of runs that carries the model's states from one to the next.

        For a model without states, too, where each run stands alone.
        """
        return Session(self._variants, self._threading, self._get_predictor, refuse_nan=self.refuse_nan)

    def _caller(self) -> Call:
        """How `predict` and `listen` run the model: with states of their own, if it has any."""
        return self.session().call if self.config.states else self.call

    def _get_predictor(self) -> Predictor:
        predictor = self._predictor
        if predictor is None:
            if self.card is None:
                raise InputError(
                    f"{self.config.name} was compiled without a model card: use run() on arrays, "
                    "or compile with --card model.toml"
                )
            from edgec.runtime.processing.predictor import Predictor

            shown = self._first.shown
            beside = getattr(self._first.engine, "beside", None)
            if beside is not None and self.config.around:
                from edgec.runtime.processing.gpu import GpuProcessing

                names = [spec.name for spec in shown.outputs]
                function = None if self.config.states else self._first.open_engine
                self._on_gpu = GpuProcessing(
                    self._processing, self.config.around, self.card, names, beside, function,
                    refuse_nan=self.refuse_nan,
                )  # fmt: skip
            predictor = self._predictor = Predictor(shown, self.card, self._processing, self._on_gpu)
        return predictor

    def profile(self, inputs: Mapping[str, Array], repeats: int = 20) -> list[LayerTime]:
        """Time each compiled kernel, in the order of a run, with the source nodes that it computes.

        Args:
            inputs: as for `run`.
            repeats: runs to take the median of, after a warm-up run.

        Raises:
            InputError: as `run`.
        """
        from edgec.runtime.execution.profiling import summarise

        return summarise(self.profile_runs(inputs, repeats))

    def profile_runs(
        self, inputs: Mapping[str, Array], repeats: int = 20, probe: Probe | None = None
    ) -> list[LayerRuns]:
        """As `profile`, with every run's times and the figures of a probe.

        Args:
            inputs: as for `run`.
            repeats: runs to time, after a warm-up run.
            probe: called right before each kernel and after the last one, on the calling thread; it should not
                disturb the caches.

        Raises:
            InputError: as `run`.
        """
        self.run(inputs)
        variant, arrays = self._fitting(inputs)
        if variant.engine is None:
            raise InputError(f"the model {self.config.name} has been closed")
        return variant.engine.profile_runs(variant.config, arrays, repeats, probe)

    def device_seconds(self, inputs: Mapping[str, Array], repeats: int = 20) -> list[float]:
        """Time of whole runs as a GPU's events tell it: copies in, kernels, copies out; empty on a processor.

        Raises:
            InputError: as `run`.
        """
        self.run(inputs)
        variant, arrays = self._fitting(inputs)
        timed = getattr(variant.engine, "device_seconds", None)
        return [] if timed is None else list(timed(arrays, repeats))

    @property
    def gpu_limits(self) -> Limits | None:
        """The highest rates of the GPU that it runs on; None on a processor, and where they are not known."""
        found: Limits | None = getattr(self._first.engine, "limits", None)
        return found

    def close(self) -> None:
        """Release code and weights. Outputs that the caller still holds stay valid."""
        self._predictor = None
        if self._on_gpu is not None:
            self._on_gpu.close()
        for variant in self._variants:
            variant.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@atexit.register
def _close_all() -> None:
    # Virtual machines must go before the interpreter tears down the libraries under them.
    for model in list(_alive):
        model.close()
