"""Run the code of a GPU artifact: weights uploaded once, a fixed arena, one recorded graph for each run.

A call copies its inputs into pinned memory, starts the graph (copies in, kernels, copies out) and waits once. Calls
from several threads run side by side, each with its own stream, arena and graph; weights and machine code are shared.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.weights import Weight
from edgec.runtime.execution.profiling import LayerRuns, Probe
from edgec.runtime.gpu.api import GpuApi, GpuFault
from edgec.runtime.gpu.arrays import DeviceArray
from edgec.runtime.gpu.code import (
    GpuCode,
)
from edgec.runtime.gpu.contexts import Context, Loaded, Resident
from edgec.runtime.gpu.profile import profile

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.execution.fallback import FallbackSegments

    Array = npt.NDArray[Any]


class GpuFunction:
    """A model's compiled function on a GPU: an `edgec.runtime.device.Executable`."""

    takes_device_arrays = True

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
        self._loaded: Loaded | None = Loaded(api, header, binaries, weights)
        try:  # what does not fit is said now
            self._idle.append(Context(self._loaded, header, segments, Resident()))
        except BaseException:
            self._loaded.close()
            raise

    def _take(self, resident: Resident) -> Context:
        with self._lock:
            for number, context in enumerate(self._idle):
                if context.resident == resident:
                    return self._idle.pop(number)
            if self._loaded is None:
                self._api.reset()
                self._loaded = Loaded(self._api, self._header, self._binaries, self._weights)
            loaded = self._loaded
        return Context(loaded, self._header, self._segments, resident)

    def _give(self, context: Context) -> None:
        with self._lock:
            if context.loaded is self._loaded:
                self._idle.append(context)
                return
        context.close()

    def _abandon(self, context: Context, fault: GpuFault) -> None:
        """After a fault the context is not used again; what was lost is set up anew by the next call."""
        with self._lock:
            if fault.lost and self._loaded is context.loaded:
                self._loaded, self._idle = None, []
                return
        if not fault.lost:
            context.close()

    @contextmanager
    def context(self, resident: Resident) -> Iterator[Context]:
        """A context for one call, which is not used again if the call ends in a fault."""
        context = self._take(resident)
        try:
            yield context
        except GpuFault as fault:
            self._abandon(context, fault)
            raise
        except BaseException:
            self._give(context)
            raise
        self._give(context)

    def __call__(self, arrays: Sequence[Array], /) -> list[Array]:
        """Run on contiguous arrays of the right shapes and dtypes, which may lie on the device; results are new arrays.

        Raises:
            GpuFault: a kernel failed or took too long. The next call starts afresh.
            InputError: the elements of an array on the device do not lie side by side.
        """
        given = {
            number: array if isinstance(array, DeviceArray) else DeviceArray(array)
            for number, array in enumerate(arrays)
            if not isinstance(array, np.ndarray)
        }
        for stream in {array.stream for array in given.values()}:
            self._api.wait_for(stream)
        with self.context(Resident(frozenset(given))) as context:
            for number, array in given.items():
                context.stream.copy(context.inputs[number], array.address, array.bytes)
            return context.run([array for number, array in enumerate(arrays) if number not in given])

    def profile_runs(
        self, config: ArtifactConfig, arrays: Sequence[Array], repeats: int, probe: Probe | None = None
    ) -> list[LayerRuns]:
        """Device time of each layer, by events around its launches; a segment's copies count as its time."""
        self(arrays)
        with self.context(Resident()) as context:
            return profile(context, config, repeats, probe)

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


class State:
    """A session's state on the device, released with its last reference."""

    def __init__(self, api: GpuApi, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._api, self.shape, self.dtype = api, shape, dtype
        self.bytes = math.prod(shape) * dtype.itemsize
        self.address = api.allocate(max(1, self.bytes))

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._api.free(self.address)


class GpuStateCalls:
    """An `edgec.runtime.device.StateCalls`: states are copied on the device only."""

    def __init__(self, function: GpuFunction, api: GpuApi, states: Sequence[tuple[int, int]]) -> None:
        self._function, self._api = function, api
        self._into = [given for given, _ in states]
        self._out = [made for _, made in states]
        self._resident = Resident(frozenset(self._into), frozenset(self._out))

    def put(self, array: Array) -> State:
        """A state with the content of an array."""
        state = State(self._api, array.shape, array.dtype)
        stream = self._api.stream()
        try:
            stream.copy_in(state.address, np.ascontiguousarray(array))
            stream.synchronise()
        finally:
            stream.close()
        return state

    def get(self, state: State) -> Array:
        """A copy of a state's content."""
        array = np.empty(state.shape, state.dtype)
        stream = self._api.stream()
        try:
            stream.copy_out(array, state.address)
            stream.synchronise()
        finally:
            stream.close()
        return array

    def __call__(
        self, arrays: Sequence[Array], states: Sequence[State], /
    ) -> tuple[list[Array], list[State]]:
        """Run once; the present states stay as they are.

        Raises:
            GpuFault: as a function's call; after one that lost the device, states are lost, too.
        """
        following = [State(self._api, state.shape, state.dtype) for state in states]
        with self._function.context(self._resident) as context:
            for number, state in zip(self._into, states, strict=True):
                context.stream.copy(context.inputs[number], state.address, state.bytes)
            outputs = context.run(arrays)
            for number, state in zip(self._out, following, strict=True):
                context.stream.copy(state.address, context.outputs[number], state.bytes)
            context.stream.synchronise()
        return outputs, following

    def close(self) -> None:
        """Release nothing: the program belongs to its function."""
