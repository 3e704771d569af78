"""Run the code of a GPU artifact: weights uploaded once, a fixed arena, one recorded graph for each run.

A call copies its inputs into pinned memory, starts the graph (copies in, kernels, copies out) and waits once. Calls
from several threads run side by side, each with its own stream, arena and graph; weights and machine code are shared.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.weights import Weight
from edgec.runtime.execution.profiling import LayerRuns, Probe
from edgec.runtime.gpu.api import GpuApi, copies
from edgec.runtime.gpu.arrays import DeviceArray, received
from edgec.runtime.gpu.chain import Chain
from edgec.runtime.gpu.code import GpuCode, specialised, unpack
from edgec.runtime.gpu.contexts import Context, Loaded, Resident
from edgec.runtime.gpu.fault import GpuFault
from edgec.runtime.gpu.limits import Limits
from edgec.runtime.gpu.profile import profile

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.execution.fallback import FallbackSegments

    Array = npt.NDArray[Any]


class GpuFunction:
    """A model's compiled function on a GPU: an `edgec.runtime.device.Executable`."""

    def __init__(
        self,
        api: GpuApi,
        header: GpuCode,
        binaries: memoryview,
        weights: Sequence[Weight],
        segments: FallbackSegments | None,
    ) -> None:
        self._api, self._header, self._binaries = api, header, binaries
        self._weights, self._segments = weights, segments
        self._lock = threading.Lock()
        self._idle: list[Context] = []
        self._loaded: Loaded | None = None
        with api.generations.call() as generation:
            loaded = self._current(generation)
            try:  # what does not fit is said now
                self._idle.append(Context(loaded, header, segments, Resident()))
            except BaseException:
                loaded.close()
                raise

    def _current(self, generation: int) -> Loaded:
        """What this generation of the device has of the model; set up if it has nothing yet."""
        with self._lock:
            if self._loaded is None or self._loaded.generation != generation:
                self._idle.clear()
                self._loaded = Loaded(self._api, self._header, self._binaries, self._weights, generation)
            return self._loaded

    def _take(self, resident: Resident, generation: int) -> Context:
        loaded = self._current(generation)
        with self._lock:
            numbers = range(len(self._idle))
            # that of the same kind as the last call's needs no recording
            same = next((n for n in numbers if self._idle[n].resident == resident), None)
            found = self._idle.pop(-1 if same is None else same) if self._idle else None
        if found is None:
            return Context(loaded, self._header, self._segments, resident)
        try:
            found.use(resident)
        except BaseException:
            found.close()
            raise
        return found

    def _give(self, context: Context) -> None:
        context.stream = context.own
        with self._lock:
            if context.loaded is self._loaded:
                self._idle.append(context)
                return
        context.close()

    @contextmanager
    def context(self, resident: Resident) -> Iterator[Context]:
        """A context for one call, which is not used again if the call ends in a fault."""
        with self._api.generations.call() as generation:
            context = self._take(resident, generation)
            try:
                yield context
            except GpuFault as fault:
                if not fault.lost:  # else everything goes with the device's context
                    context.close()
                raise
            except BaseException:
                self._give(context)
                raise
            self._give(context)

    def receive(self, name: str, value: Any, place: tuple[int, int]) -> DeviceArray:  # noqa: ANN401
        """An array of another library for a call, where it lies.

        Args:
            name: of the input.
            value: the array.
            place: as `edgec.runtime.gpu.arrays.place_of` says.

        Raises:
            InputError: it lies elsewhere, or not as a model needs it.
        """
        with self._api.generations.call() as generation:
            made = received(self._api, self._current(generation).arrivals, name, value, place)
            made.generation = generation
            return made

    def __call__(self, arrays: Sequence[Array], /) -> list[Array]:
        """Run on contiguous arrays of the right shapes and dtypes, which may lie on the device; results are new arrays.

        Raises:
            GpuFault: a kernel failed or took too long. The next call starts afresh.
        """
        return self.call_keeping(arrays, frozenset())

    def call_keeping(self, arrays: Sequence[Array | DeviceArray], kept: frozenset[int]) -> list[Any]:
        """As calling it; the results whose numbers are in `kept` stay on the device, but for those that vary in size.

        Raises:
            GpuFault: as calling it.
        """
        kept -= {n for n, one in enumerate(self._header.outputs) if one.varies}
        given = {n: array for n, array in enumerate(arrays) if isinstance(array, DeviceArray)}
        chain = next((array.chain for array in given.values() if array.chain is not None), None)
        with self.context(Resident(frozenset(given), kept)) as context:
            if chain is not None:
                chain.join(context)
            self._start(context, arrays, given)
            stay = {number: context.keep(number) for number in kept}
            come = iter(context.finish())
            if chain is not None:
                chain.waited()
            return [stay[n] if n in stay else next(come) for n in range(len(self._header.outputs))]

    def queue(self, chain: Chain, arrays: Sequence[Array | DeviceArray]) -> list[DeviceArray]:
        """Queue a run as the next program of a chain; its results are for the programs after it."""
        given = {n: array for n, array in enumerate(arrays) if isinstance(array, DeviceArray)}
        every = frozenset(range(len(self._header.outputs)))
        context = chain.hold(self.context(Resident(frozenset(given), every)))
        self._start(context, arrays, given)
        made = [context.lend(number) for number in range(len(every))]
        for one in made:
            one.chain = chain
        return made

    @staticmethod
    def _start(
        context: Context, arrays: Sequence[Array | DeviceArray], given: Mapping[int, DeviceArray]
    ) -> None:
        for number, array in given.items():
            context.take(number, array)
        context.start([array for array in arrays if not isinstance(array, DeviceArray)])

    def chain(self) -> Chain:
        """A chain of programs on this GPU."""
        return Chain(self._api)

    def profile_runs(
        self, config: ArtifactConfig, arrays: Sequence[Array], repeats: int, probe: Probe | None = None
    ) -> list[LayerRuns]:
        """Device time of each layer, by events around its launches; a segment's copies count as its time."""
        with self.context(Resident()) as context:
            for number, array in enumerate(arrays):
                if isinstance(array, DeviceArray):
                    context.take(number, array)
            held = [a if not isinstance(a, DeviceArray) else context.copied(n) for n, a in enumerate(arrays)]
            context.start(held)
            context.finish()
            return profile(context, config, repeats, probe)

    def device_seconds(self, arrays: Sequence[Array], repeats: int) -> list[float]:
        """Time of whole runs between events on the stream: copies in, kernels, copies out.

        Raises:
            GpuFault: as calling it.
        """
        times = []
        with self.context(Resident()) as context:
            for _ in range(repeats):
                begin = context.stream.mark()
                context.start(arrays)
                end = context.stream.mark()
                context.finish()
                times.append(context.stream.seconds_between(begin, end))
        return times

    def beside(
        self, code: bytes, shapes: Sequence[tuple[int, ...]] = (), fixed: Sequence[Array] = ()
    ) -> GpuFunction:
        """A function of another code layer without weights, on the same GPU.

        Args:
            code: the layer.
            shapes: of its first inputs, where these may have any.
            fixed: the values of the last inputs, which are uploaded once.
        """
        return load_program(self._api, code, shapes, fixed)

    @property
    def results(self) -> int:
        """How many results a run has."""
        return len(self._header.outputs)

    @property
    def limits(self) -> Limits | None:
        """The GPU's highest rates, where they are known."""
        return self._api.limits

    def state_calls(self, specs: Sequence[TensorSpec], states: Sequence[tuple[int, int]]) -> GpuStateCalls:
        """The same function for sessions, whose states stay on the device."""
        return GpuStateCalls(self, self._api, states)

    def close(self) -> None:
        """Release everything that no call is using."""
        with self._lock:
            idle, self._idle = self._idle, []
            loaded, self._loaded = self._loaded, None
        for context in idle:
            context.close()
        if loaded is not None:
            loaded.close()
        if self._segments is not None:
            self._segments.close()


def load_program(
    api: GpuApi, code: bytes, shapes: Sequence[tuple[int, ...]] = (), fixed: Sequence[Array] = ()
) -> GpuFunction:
    """As `GpuFunction.beside`, on a GPU."""
    header, binaries = unpack(code)
    weights = [Weight(array, str(array.dtype)) for array in fixed]
    header = specialised(header, shapes, weights=len(weights))
    return GpuFunction(api, header, binaries, weights, None)


class State:
    """A session's state on the device, released with its last reference.

    Attributes:
        content: what it was made with, by which it survives the device's context; None for what a run made.
    """

    def __init__(
        self,
        api: GpuApi,
        generation: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        content: Array | None = None,
    ) -> None:
        self._api, self.generation, self.shape, self.dtype = api, generation, shape, dtype
        self.content = content
        self.bytes = math.prod(shape) * dtype.itemsize
        self.address = api.allocate(max(1, self.bytes))
        if content is not None:
            self._fill(content)

    def _fill(self, content: Array) -> None:
        with copies(self._api) as stream:
            stream.copy_in(self.address, content)

    def present(self, generation: int) -> State:
        """This state, or one of the same content in the present generation.

        Raises:
            GpuFault: a run made it, and it was lost.
        """
        if self.generation == generation:
            return self
        if self.content is None:
            raise GpuFault(
                "the state of this session was lost with the GPU's context, which a fault ended.\n"
                "Begin again by reset(), or continue from a snapshot by restore()."
            )
        self.generation, self.address = generation, self._api.allocate(max(1, self.bytes))
        self._fill(self.content)
        return self

    def __del__(self) -> None:
        if hasattr(self, "address") and self._api.generations.has(self.generation):
            self._api.free(self.address)


class GpuStateCalls:
    """An `edgec.runtime.device.StateCalls`: states are copied on the device only."""

    def __init__(self, function: GpuFunction, api: GpuApi, states: Sequence[tuple[int, int]]) -> None:
        self._function, self._api = function, api
        self._into = [given for given, _ in states]
        self._out = [made for _, made in states]

    def put(self, array: Array) -> State:
        """A state with the content of an array."""
        content = np.array(array, order="C")
        with self._api.generations.call() as generation:
            return State(self._api, generation, array.shape, array.dtype, content)

    def get(self, state: State) -> Array:
        """A copy of a state's content."""
        array = np.empty(state.shape, state.dtype)
        with self._api.generations.call() as generation:
            present = state.present(generation)
            with copies(self._api) as stream:
                stream.copy_out(array, present.address)
        return array

    def __call__(
        self, arrays: Sequence[Array | DeviceArray], states: Sequence[State], /
    ) -> tuple[list[Array], list[State]]:
        """Run once; the present states stay as they are.

        Raises:
            GpuFault: as a function's call; after one that lost the device, states are lost, too.
        """
        numbers = [number for number in range(len(arrays) + len(states)) if number not in self._into]
        given = {n: a for n, a in zip(numbers, arrays, strict=True) if isinstance(a, DeviceArray)}
        resident = Resident(frozenset((*self._into, *given)), frozenset(self._out))
        chain = next((array.chain for array in given.values() if array.chain is not None), None)
        with self._function.context(resident) as context:
            if chain is not None:
                chain.join(context)
            generation = context.loaded.generation
            for number, state in zip(self._into, states, strict=True):
                context.stream.copy(context.inputs[number], state.present(generation).address, state.bytes)
            for number, array in given.items():
                context.take(number, array)
            following = [State(self._api, generation, state.shape, state.dtype) for state in states]
            context.start([array for array in arrays if not isinstance(array, DeviceArray)])
            for number, state in zip(self._out, following, strict=True):
                context.stream.copy(state.address, context.outputs[number], state.bytes)
            outputs = context.finish()
            if chain is not None:
                chain.waited()
            return outputs, following

    def close(self) -> None:
        """Release nothing: the program belongs to its function."""
