"""Run the code of a GPU artifact: weights uploaded once, a fixed arena, one recorded graph for each run.

A call copies its inputs into pinned memory, starts the graph (copies in, kernels, copies out) and waits once. Calls
from several threads run side by side, each with its own stream, arena and graph; weights and machine code are shared.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig
from edgec.runtime.artifact.weights import Weight
from edgec.runtime.execution.profiling import LayerRuns, Probe
from edgec.runtime.gpu.api import GpuApi, GpuFault, Replay, Stream
from edgec.runtime.gpu.code import (
    Copy,
    GpuCode,
    HostCall,
    Launch,
    Operand,
    Step,
    choose_binaries,
    operands_of,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.execution.fallback import FallbackSegments

    Array = npt.NDArray[Any]


class _Loaded:
    """What all calls share: machine code and weights on the device."""

    def __init__(self, api: GpuApi, header: GpuCode, binaries: memoryview, weights: Sequence[Weight]) -> None:
        self.api = api
        self.modules: list[Any] = []
        self.weights: list[int] = []
        self.functions: dict[str, Any] = {}
        try:
            self._load(header, binaries, weights)
        except BaseException:
            self.close()
            raise

    def _load(self, header: GpuCode, binaries: memoryview, weights: Sequence[Weight]) -> None:
        shared: dict[str, int] = {}
        for step in header.steps:
            if isinstance(step, Launch):
                shared[step.kernel] = max(shared.get(step.kernel, 0), step.shared_bytes)
        for binary in choose_binaries(header, self.api.capability):
            module = self.api.load(bytes(binaries[binary.offset : binary.offset + binary.size]))
            self.modules.append(module)
            for name in binary.kernels:
                self.functions[name] = self.api.function(module, name, shared.get(name, 0))
        stream = self.api.stream()
        try:
            for weight in weights:
                address = self.api.allocate(max(1, weight.array.nbytes))
                self.weights.append(address)
                if weight.array.nbytes:
                    stream.copy_in(address, np.ascontiguousarray(weight.array))
            stream.synchronise()
        finally:
            stream.close()

    def close(self) -> None:
        """Release both."""
        for address in self.weights:
            self.api.free(address)
        for module in self.modules:
            self.api.unload(module)
        self.weights, self.modules, self.functions = [], [], {}


class _Context:
    """What one call at a time needs: a stream, memory for activations, staging, and recorded work."""

    def __init__(self, loaded: _Loaded, header: GpuCode, segments: FallbackSegments | None) -> None:
        self.loaded, self.header, self.segments = loaded, header, segments
        api = loaded.api
        self._allocated: list[int] = []
        self.stream: Stream = api.stream()
        self._replays: list[Replay] = []
        try:
            self.arena = self._allocate(header.arena_bytes)
            self.inputs = [self._allocate(one.bytes) for one in header.inputs]
            self.outputs = [self._allocate(one.bytes) for one in header.outputs]
            self.staged_in = [api.host_array(one.shape, one.dtype) for one in header.inputs]
            self.staged_out = [api.host_array(one.shape, one.dtype) for one in header.outputs]
            self._parts = self._record()
        except BaseException:
            self.close()
            raise

    def _allocate(self, size: int) -> int:
        address = self.loaded.api.allocate(max(1, size))
        self._allocated.append(address)
        return address

    def address(self, operand: Operand) -> int:
        """Where an operand lies on the device."""
        if operand.place == "arena":
            return self.arena + operand.offset
        return {"input": self.inputs, "weight": self.loaded.weights, "output": self.outputs}[operand.place][
            operand.index
        ]

    def queue(self, step: Launch | Copy) -> None:
        """Queue a step on the stream."""
        if isinstance(step, Copy):
            self.stream.copy(self.address(step.target), self.address(step.source), step.source.bytes)
            return
        self.stream.launch(
            self.loaded.functions[step.kernel],
            step.grid,
            step.block,
            step.shared_bytes,
            [self.address(operand) for operand in step.arguments],
        )

    def _record(self) -> list[Replay | HostCall]:
        """The run as graphs, with the calls of the host between them."""
        parts: list[Replay | HostCall] = []
        waiting: list[Step] = []
        first = True

        def record(last: bool) -> None:
            nonlocal first
            begin, steps = first, tuple(waiting)

            def work() -> None:
                for array, address in zip(self.staged_in, self.inputs, strict=True) if begin else ():
                    self.stream.copy_in(address, array)
                for step in steps:
                    if not isinstance(step, HostCall):
                        self.queue(step)
                for array, address in zip(self.staged_out, self.outputs, strict=True) if last else ():
                    self.stream.copy_out(array, address)

            replay = self.stream.record(work)
            self._replays.append(replay)
            parts.append(replay)
            waiting.clear()
            first = False

        for step in self.header.steps:
            if isinstance(step, HostCall):
                record(last=False)
                parts.append(step)
            else:
                waiting.append(step)
        record(last=True)
        return parts

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run once; the results are new arrays."""
        for array, staged in zip(arrays, self.staged_in, strict=True):
            np.copyto(staged, array.view(staged.dtype) if array.dtype != staged.dtype else array)
        for part in self._parts:
            if isinstance(part, HostCall):
                self.call_host(part)
            else:
                part.start()
        self.stream.synchronise()
        return [staged.copy() for staged in self.staged_out]

    def call_host(self, call: HostCall) -> None:
        """Run a segment on the host, on copies of its operands."""
        if self.segments is None:
            raise GpuFault(f"the segment {call.function} has no graph")
        arrays = [np.empty(one.shape, one.dtype) for one in call.operands]
        count = self.segments.input_count(call.function)
        for array, operand in zip(arrays[:count], call.operands, strict=False):
            self.stream.copy_out(array, self.address(operand))
        self.stream.synchronise()
        self.segments.call(call.function, arrays)
        for array, operand in zip(arrays[count:], call.operands[count:], strict=True):
            self.stream.copy_in(self.address(operand), array)
        self.stream.synchronise()

    def close(self) -> None:
        """Release all of it."""
        for replay in self._replays:
            replay.close()
        self.stream.close()
        for address in self._allocated:
            self.loaded.api.free(address)
        self._allocated, self._replays = [], []


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
        self._idle: list[_Context] = []
        self._loaded: _Loaded | None = _Loaded(api, header, binaries, weights)
        try:
            self._idle.append(_Context(self._loaded, header, segments))  # what does not fit is said now
        except BaseException:
            self._loaded.close()
            raise

    def _take(self) -> _Context:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._loaded is None:
                self._api.reset()
                self._loaded = _Loaded(self._api, self._header, self._binaries, self._weights)
            loaded = self._loaded
        return _Context(loaded, self._header, self._segments)

    def _give(self, context: _Context) -> None:
        with self._lock:
            if context.loaded is self._loaded:
                self._idle.append(context)
                return
        context.close()

    def _abandon(self, context: _Context, fault: GpuFault) -> None:
        """After a fault the context is not used again; what was lost is set up anew by the next call."""
        with self._lock:
            if fault.lost and self._loaded is context.loaded:
                self._loaded, self._idle = None, []
                return
        if not fault.lost:
            context.close()

    def __call__(self, arrays: Sequence[Array], /) -> list[Array]:
        """Run on contiguous arrays of the right shapes and dtypes; the results are new arrays.

        Raises:
            GpuFault: a kernel failed or took too long. The next call starts afresh.
        """
        context = self._take()
        try:
            results = context.run(arrays)
        except GpuFault as fault:
            self._abandon(context, fault)
            raise
        except BaseException:
            self._give(context)
            raise
        self._give(context)
        return results

    def profile_runs(
        self, config: ArtifactConfig, arrays: Sequence[Array], repeats: int, probe: Probe | None = None
    ) -> list[LayerRuns]:
        """Device time of each layer, by events around its launches; a segment's copies count as its time."""
        self(arrays)
        context = self._take()
        try:
            return _profile(context, config, repeats, probe)
        finally:
            self._give(context)

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


def _groups(header: GpuCode) -> list[tuple[str, int, list[Step]]]:
    """The steps by call of a layer, in order: name, number of the call, steps."""
    groups: list[tuple[str, int, list[Step]]] = []
    for step in header.steps:
        if isinstance(step, Launch):
            name, call = step.layer, step.call
        else:
            name, call = (step.function, 0) if isinstance(step, HostCall) else ("copy", 0)
        if groups and isinstance(step, Launch) and groups[-1][:2] == (name, call):
            groups[-1][2].append(step)
        else:
            groups.append((name, call, [step]))
    return groups


def _profile(context: _Context, config: ArtifactConfig, repeats: int, probe: Probe | None) -> list[LayerRuns]:
    groups = _groups(context.header)
    seconds: list[list[float]] = [[] for _ in groups]
    probes: list[list[tuple[float, float]]] = [[] for _ in groups]
    for _ in range(repeats):
        for place, (_, _, steps) in enumerate(groups):
            before = probe() if probe else 0.0
            begin = context.stream.mark()
            for step in steps:
                if isinstance(step, HostCall):
                    context.call_host(step)
                else:
                    context.queue(step)
            end = context.stream.mark()
            context.stream.synchronise()
            seconds[place].append(context.stream.seconds_between(begin, end))
            if probe:
                probes[place].append((before, probe()))
    layers = []
    for (name, call, steps), times, asked in zip(groups, seconds, probes, strict=True):
        info = config.kernels.get(name)
        nodes = () if info is None else info.calls[call] if call < len(info.calls) else info.nodes
        op, flops, schedule = ("", 0, "") if info is None else (info.op, info.flops, info.schedule)
        size, of_weights = _sizes(steps)
        layers.append(
            LayerRuns(name, nodes, op, flops, schedule, size, of_weights, tuple(times), tuple(asked))
        )
    return layers


def _sizes(steps: Sequence[Step]) -> tuple[int, int]:
    """Bytes of the distinct tensors that steps touch, and of those that are weights."""
    touched = {operand for step in steps for operand in operands_of(step)}
    size = sum(operand.bytes for operand in touched)
    return size, sum(operand.bytes for operand in touched if operand.place == "weight")
