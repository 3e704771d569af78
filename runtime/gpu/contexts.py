"""What the calls of a GPU program need on the device: shared machine code and weights, and a context for each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from edgec.runtime.artifact.weights import Weight
from edgec.runtime.gpu.api import GpuApi, Replay, Stream, copies
from edgec.runtime.gpu.arrays import DeviceArray
from edgec.runtime.gpu.code import (
    Copy,
    GpuCode,
    HostCall,
    Launch,
    Operand,
    Step,
    choose_binaries,
)
from edgec.runtime.gpu.fault import GpuFault
from edgec.runtime.gpu.results import DeviceResult, Pool
from edgec.runtime.gpu.stored import StoredArray, missing_bytes, store

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.execution.fallback import FallbackSegments

    Array = npt.NDArray[Any]


class Resident(NamedTuple):
    """Inputs and outputs, by number, that stay on the device between runs: a session's states."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


class Loaded:
    """What all calls share: machine code and weights on the device.

    Attributes:
        generation: of the device's context that it belongs to.
        arrivals: the stream on which arrays of other libraries are received.
        results: memory of results that stay on the device.
    """

    arrivals: Stream

    def __init__(
        self, api: GpuApi, header: GpuCode, binaries: memoryview, weights: Sequence[Weight], generation: int
    ) -> None:
        self.api, self.generation = api, generation
        self.results = Pool(api, generation)
        self.modules: list[Any] = []
        self._stored: list[StoredArray] = []
        self.weights: list[int] = []
        self.functions: dict[str, Any] = {}
        try:
            self._load(header, binaries, weights)
        except BaseException:
            self.close()
            raise

    def _load(self, header: GpuCode, binaries: memoryview, weights: Sequence[Weight]) -> None:
        chosen = choose_binaries(header, self.api.capability)
        buffers = sum(one.bytes for one in (*header.inputs, *header.outputs))
        arrays = [np.ascontiguousarray(weight.array) for weight in weights]
        new = missing_bytes(self.api, self.generation, arrays)
        self.api.check_memory(header.arena_bytes + buffers + new)
        self.arrivals = self.api.stream()
        shared: dict[str, int] = {}
        for step in header.steps:
            if isinstance(step, Launch):
                shared[step.kernel] = max(shared.get(step.kernel, 0), step.shared_bytes)
        for binary in chosen:
            module = self.api.load(bytes(binaries[binary.offset : binary.offset + binary.size]))
            self.modules.append(module)
            for name in binary.kernels:
                self.functions[name] = self.api.function(module, name, shared.get(name, 0))
        with copies(self.api) as stream:
            for array in arrays:
                self._stored.append(store(self.api, self.generation, array, stream))
        self.weights = [one.address for one in self._stored]

    def close(self) -> None:
        """Release both."""
        self.results.close()
        self._stored.clear()
        if not self.api.generations.has(self.generation):
            return
        if hasattr(self, "arrivals"):
            self.arrivals.close()
        for module in self.modules:
            self.api.unload(module)
        self.weights, self.modules, self.functions = [], [], {}


class Context:
    """What one call at a time needs: a stream, memory for activations, staging, and recorded work.

    Attributes:
        stream: on which the present call's work is queued: its own, or that of the chain of which the call is part.
        resident: what stays on the device in the present call.
    """

    def __init__(
        self, loaded: Loaded, header: GpuCode, segments: FallbackSegments | None, resident: Resident
    ) -> None:
        self.loaded, self.header, self.segments, self.resident = loaded, header, segments, resident
        api = loaded.api
        self._allocated: list[int] = []
        self.own = self.stream = api.stream()
        self._staged: dict[tuple[str, int], Array] = {}
        self._varied: dict[int, Array] = {}  # outputs of the present call whose sizes it tells
        self._parts: dict[Resident, list[Replay | HostCall]] = {}
        try:
            self.arena = self._allocate(header.arena_bytes)
            self.inputs = [self._allocate(one.bytes) for one in header.inputs]
            self.outputs = [self._allocate(one.bytes) for one in header.outputs]
            self.use(resident)
        except BaseException:
            self.close()
            raise

    def use(self, resident: Resident) -> None:
        """Prepare for a call in which these stay on the device: the first of its kind is recorded."""
        self.resident = resident
        if resident not in self._parts:
            self._parts[resident] = self._record()

    def _staging(self, place: Literal["input", "output"]) -> list[tuple[int, Array]]:
        """Addresses and page-locked arrays of what is copied in a call."""
        operands, addresses, stay = (
            (self.header.inputs, self.inputs, self.resident.inputs)
            if place == "input"
            else (self.header.outputs, self.outputs, self.resident.outputs)
        )
        pairs = []
        for number, (one, address) in enumerate(zip(operands, addresses, strict=True)):
            if number in stay or one.varies:
                continue
            if (place, number) not in self._staged:
                self._staged[place, number] = self.loaded.api.host_array(one.shape, one.dtype)
            pairs.append((address, self._staged[place, number]))
        return pairs

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
        copied_in, copied_out = self._staging("input"), self._staging("output")

        def record(last: bool) -> None:
            nonlocal first
            begin, steps = first, tuple(waiting)

            def work() -> None:
                for address, array in copied_in if begin else ():
                    self.stream.copy_in(address, array)
                for step in steps:
                    if not isinstance(step, HostCall):
                        self.queue(step)
                for address, array in copied_out if last else ():
                    self.stream.copy_out(array, address)

            parts.append(self.stream.record(work))
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

    def take(self, number: int, array: DeviceArray) -> None:
        """Queue the copy of an input that lies on the device, after what writes it.

        Raises:
            GpuFault: a fault has ended the context in which it lay.
        """
        if array.generation != self.loaded.generation:
            raise GpuFault("an input on the GPU was lost with its context, which a fault ended: make it anew")
        if array.chain is None:
            self.stream.follow(self.loaded.arrivals.handle)
        self.stream.copy(self.inputs[number], array.address, array.bytes)

    def copied(self, number: int) -> Array:
        """An input's content on the host."""
        one = self.header.inputs[number]
        array = np.empty(one.shape, one.dtype)
        self.stream.copy_out(array, self.inputs[number])
        self.stream.synchronise()
        return array

    def keep(self, number: int) -> DeviceResult:
        """A copy of an output on the device, which is queued."""
        one = self.header.outputs[number]
        made = DeviceResult(self.loaded.results, one.shape, one.dtype)
        self.stream.copy(made.address, self.outputs[number], made.nbytes)
        return made

    def lend(self, number: int) -> DeviceArray:
        """An output where a run makes it, which the next run overwrites."""
        one = self.header.outputs[number]
        made = DeviceArray(self, self.outputs[number], one.shape, one.dtype)
        made.generation = self.loaded.generation
        return made

    def start(self, arrays: Sequence[Array]) -> None:
        """Queue a run on the inputs that are not resident."""
        for array, (_, staged) in zip(arrays, self._staging("input"), strict=True):
            np.copyto(staged, array)
        for part in self._parts[self.resident]:
            if isinstance(part, HostCall):
                self.call_host(part)
            else:
                part.start(self.stream)

    def finish(self) -> list[Array]:
        """Wait for everything that was queued; the results, but for resident ones, are new arrays."""
        self.stream.synchronise()
        come = iter([staged.copy() for _, staged in self._staging("output")])
        return [
            self._varied[number] if one.varies else next(come)
            for number, one in enumerate(self.header.outputs)
            if number not in self.resident.outputs
        ]

    def call_host(self, call: HostCall) -> None:
        """Run a segment on the host, on copies of its operands."""
        if self.segments is None:
            raise GpuFault(f"the segment {call.function} has no graph")
        arrays = [np.empty(one.shape, one.dtype) for one in call.operands]
        count = self.segments.input_count(call.function)
        for array, operand in zip(arrays[:count], call.operands, strict=False):
            self.stream.copy_out(array, self.address(operand))
        self.stream.synchronise()
        made = self.segments.call(call.function, arrays)
        results = (
            zip(made, call.results, strict=True)
            if call.results
            else zip(arrays[count:], call.operands[count:], strict=True)
        )
        for array, operand in results:
            if not operand.varies:
                self.stream.copy_in(self.address(operand), array)
            elif operand.place == "output":
                self._varied[operand.index] = array
        self.stream.synchronise()

    def close(self) -> None:
        """Release all of it, but for what went with the device's context."""
        if self.loaded.api.generations.has(self.loaded.generation):
            for parts in self._parts.values():
                for part in parts:
                    if not isinstance(part, HostCall):
                        part.close()
            self.own.close()
            for address in self._allocated:
                self.loaded.api.free(address)
        self._allocated, self._parts = [], {}
