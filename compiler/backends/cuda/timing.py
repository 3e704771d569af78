"""Build candidates and time them on a GPU of this machine, by its events.

A measurement is one recorded graph of many launches between two events, so that what the host takes to queue a launch
does not show. Between two uses of a layer's weights all other layers of a network run: launches take several copies of
their operands in turn, as many as the GPU's cache cannot hold together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

from edgec.compiler.backends.interface import CandidateFailed, Trial
from edgec.compiler.backends.random_arguments import random_arrays
from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.gpu.api import GpuApi, Replay, Stream, copies
from edgec.runtime.gpu.code import GpuCode, Launch, unpack
from edgec.runtime.gpu.contexts import Loaded
from edgec.runtime.gpu.fault import GpuFault
from edgec.targets.detection import usable_cores

FEW_BYTES = 1 << 16  # operands below this take no time to fetch beside the launch
MOST_BYTES = 256 << 20  # of copies
_PASSES = 3  # measurements that share a budget
_MOST_LAUNCHES = 200  # of a graph
Array: TypeAlias = npt.NDArray[Any]


class Arguments:
    """The arguments of all candidates of a workload, on the device.

    Attributes:
        generation: of the device's context that they belong to.
        sets: an address for each parameter, with operands in places of their own; used in turn.
    """

    def __init__(self, api: GpuApi, arrays: Sequence[Array], cache_bytes: int, generation: int) -> None:
        self._api, self._result, self.generation = api, arrays[-1], generation
        self._allocated: list[int] = []
        size = sum(array.nbytes for array in arrays[1:-1])
        count = 1 if size < FEW_BYTES else max(2, -(-min(cache_bytes, MOST_BYTES) // size))
        try:
            with copies(api) as stream:
                first, last = self._place(stream, arrays[0]), self._allocate(arrays[-1].nbytes)
                self.sets = [
                    [first, *(self._place(stream, array) for array in arrays[1:-1]), last]
                    for _ in range(count)
                ]
        except IncompatibleDevice:  # there is not so much memory
            self.close()
            raise

    def _allocate(self, size: int) -> int:
        self._allocated.append(self._api.allocate(max(1, size)))
        return self._allocated[-1]

    def _place(self, stream: Stream, array: Array) -> int:
        address = self._allocate(array.nbytes)
        stream.copy_in(address, array)
        return address

    def result(self, stream: Stream) -> Array:
        """What the last launch wrote."""
        made = np.empty_like(self._result)
        stream.copy_out(made, self.sets[0][-1])
        stream.synchronise()
        return made

    def clear(self, stream: Stream) -> None:
        """Write zeros where the result goes."""
        stream.copy_in(self.sets[0][-1], np.zeros_like(self._result))
        stream.synchronise()

    def close(self) -> None:
        """Release them, unless they went with their context."""
        if self._api.generations.has(self.generation):
            for address in self._allocated:
                self._api.free(address)
        self._allocated = []


class GpuTrial:
    """A built candidate, run once: what it computed, its times so far in seconds a call."""

    def __init__(self, trials: GpuTrials, code: bytes) -> None:
        """Load and run it.

        Raises:
            GpuFault: it failed on the device.
            IncompatibleDevice: the driver refuses it.
        """
        self.code, self.seconds = code, list[float]()
        self._trials: GpuTrials | None = trials
        with _on_device(trials.api, code) as (launches, generation):
            self.output = launches.output(trials.arguments(generation))

    @property
    def best_s(self) -> float:
        """The shortest time seen, because noise only adds; endless for one that failed as it was timed."""
        return min(self.seconds, default=float("inf"))

    def time(self, budget_s: float) -> None:
        """Add measurements of about `budget_s` in all. What fails meanwhile has no time, and is not the fastest."""
        if self._trials is None:
            raise RuntimeError("a trial at rest is not timed")
        try:
            with _on_device(self._trials.api, self.code) as (launches, generation):
                self.seconds += launches.seconds(self._trials.arguments(generation), budget_s)
        except GpuFault as fault:
            if fault.ends_process:
                raise
            self.seconds = []

    def rest(self) -> None:
        """Release the arguments of its trials."""
        if self._trials is not None:
            self._trials.close()
        self._trials = None


class GpuTrials:
    """The candidates of one workload on a GPU of this machine.

    Args:
        api: the GPU.
        build: the code layer of one scheduled kernel, for this GPU; raises what TVM does for one that it refuses.
        cache_bytes: of the GPU's last-level cache.
        refusals: what `build` raises for a candidate that cannot be built.
    """

    def __init__(
        self,
        api: GpuApi,
        build: Callable[[PrimFunc], bytes],
        cache_bytes: int,
        refusals: tuple[type[Exception], ...],
    ) -> None:
        self.api, self._build, self._cache_bytes, self._refusals = api, build, cache_bytes, refusals
        self._arrays: list[Array] = []
        self._arguments: Arguments | None = None

    def arguments(self, generation: int) -> Arguments:
        """The arguments on the device, anew after a fault that lost them."""
        if self._arguments is None or self._arguments.generation != generation:
            self._arguments = Arguments(self.api, self._arrays, self._cache_bytes, generation)
        return self._arguments

    def add_all(self, kernels: Sequence[PrimFunc]) -> list[Trial | CandidateFailed]:
        """Build candidates on all cores and run each once; for one that is refused or that fails, why."""
        if not kernels:
            return []
        if not self._arrays:
            self._arrays = random_arrays(kernels[0])
        with ThreadPoolExecutor(min(usable_cores(), len(kernels))) as threads:
            codes = list(threads.map(self._built, kernels))
        return [self._tried(code) for code in codes]

    def again(self, trial: Trial) -> GpuTrial:
        """A trial of earlier trials, with these trials' arguments."""
        if not isinstance(trial, GpuTrial):
            raise TypeError("a trial of other trials is timed beside new candidates only")
        return GpuTrial(self, trial.code)

    def close(self) -> None:
        """Release the arguments; a later measurement makes new ones."""
        if self._arguments is not None:
            self._arguments.close()
        self._arguments = None

    def _built(self, kernel: PrimFunc) -> bytes | CandidateFailed:
        try:
            return self._build(kernel)
        except self._refusals as error:
            return CandidateFailed(_last_line(error))

    def _tried(self, code: bytes | CandidateFailed) -> Trial | CandidateFailed:
        if isinstance(code, CandidateFailed):
            return code
        try:
            return GpuTrial(self, code)
        except IncompatibleDevice as error:
            return CandidateFailed(_last_line(error))
        except GpuFault as fault:
            if fault.ends_process:
                raise
            return CandidateFailed(_last_line(fault))


class _Launches:
    """A candidate on the device."""

    def __init__(self, api: GpuApi, header: GpuCode, binaries: memoryview, generation: int) -> None:
        self._api, self._header = api, header
        self._loaded = Loaded(api, header, binaries, [], generation)
        self._arena = api.allocate(max(1, header.arena_bytes))
        self._stream = api.stream()
        self._replays: list[Replay] = []

    def close(self) -> None:
        """Release it."""
        for replay in self._replays:
            replay.close()
        self._stream.close()
        self._api.free(self._arena)
        self._loaded.close()

    def _queue(self, addresses: Sequence[int]) -> None:
        given = len(self._header.inputs)
        for step in self._header.steps:
            if not isinstance(step, Launch):
                raise TypeError(f"a candidate consists of launches, not of {type(step).__name__}")
            places = [
                self._arena + one.offset
                if one.place == "arena"
                else addresses[one.index if one.place == "input" else given + one.index]
                for one in step.arguments
            ]
            function = self._loaded.functions[step.kernel]
            self._stream.launch(function, step.grid, step.block, step.shared_bytes, places)

    def output(self, arguments: Arguments) -> Array:
        """What one call computes."""
        arguments.clear(self._stream)
        self._queue(arguments.sets[0])
        return arguments.result(self._stream)

    def seconds(self, arguments: Arguments, budget_s: float) -> list[float]:
        """Seconds of a call: means of graphs of many, as many as fit into the budget."""

        def recorded(count: int) -> Replay:
            sets = arguments.sets

            def work() -> None:
                for number in range(count):
                    self._queue(sets[number % len(sets)])

            return self._stream.record(work)

        few = 2
        single = max(min(self._replayed(recorded(few), 2)) / few, 1e-7)
        count = max(few, min(_MOST_LAUNCHES, int(budget_s / _PASSES / single)))
        return [one / count for one in self._replayed(recorded(count), _PASSES)]

    def _replayed(self, replay: Replay, passes: int) -> list[float]:
        """Device time of a graph, several times; the first start, which is slower, is not timed."""
        self._replays.append(replay)
        replay.start(self._stream)
        times = []
        for _ in range(passes):
            begin = self._stream.mark()
            replay.start(self._stream)
            end = self._stream.mark()
            self._stream.synchronise()
            times.append(self._stream.seconds_between(begin, end))
        return times


@contextmanager
def _on_device(api: GpuApi, code: bytes) -> Iterator[tuple[_Launches, int]]:
    """A candidate on the device, and the generation of its context, with which it goes after a fault."""
    header, binaries = unpack(code)
    with api.generations.call() as generation:
        launches = _Launches(api, header, binaries, generation)
        try:
            yield launches, generation
        except GpuFault as fault:
            if not fault.lost:
                launches.close()
            raise
        except BaseException:
            launches.close()
            raise
        launches.close()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if not isinstance(error, GpuFault) else 0][:200]
