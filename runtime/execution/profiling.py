"""Time per kernel, through the hook that TVM's virtual machine calls before and after each one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from edgec.runtime.artifact.config import ArtifactConfig
from edgec.runtime.execution import pool
from edgec.runtime.execution.compiled_functions import Array, CompiledFunction
from edgec.runtime.execution.shared_libraries import ffi

_RUNTIME_PREFIX = "vm.builtin."
BETWEEN = (
    "between layers"  # the kernel of a call that makes other calls, as the parts of a model with branches do
)
AWAKE_S = (
    3e-5  # the system takes this long to wake a thread, which then waits in a loop for three times as long
)

# Returns a figure about the machine at this moment, such as its highest rate.
Probe = Callable[[], float]


@dataclass(frozen=True)
class LayerTime:
    """Time of one kernel of a run.

    The hook costs a few microseconds a kernel, most of it outside the measured time.

    Attributes:
        kernel: name of the compiled function, or `BETWEEN`.
        nodes: the source model's nodes that it computes.
        ms: median over the repeats.
        share: its part of all kernels' time (0 to 1).
        op: kind of operator.
        flops: operations of one call.
        bytes: size of all arrays passed to a call.
        schedule: the schedule it was built with.
    """

    kernel: str
    nodes: tuple[str, ...]
    ms: float
    share: float
    op: str = ""
    flops: int = 0
    bytes: int = 0
    schedule: str = ""


@dataclass(frozen=True)
class LayerRuns:
    """One kernel, run by run.

    Attributes:
        kernel: name of the compiled function, or `BETWEEN`.
        nodes: the source model's nodes that it computes.
        op: kind of operator.
        flops: operations of the source model's operators, a multiply-add counted as two.
        schedule: the schedule it was built with.
        bytes: size of all arrays passed to a call (inputs, weights as stored, outputs): what it has to read or write
            at least once.
        weight_bytes: the weights' part of `bytes`.
        seconds: time of each run.
        probes: the probe's figures right before and right after the kernel in each run; empty without a probe.
    """

    kernel: str
    nodes: tuple[str, ...]
    op: str
    flops: int
    schedule: str
    bytes: int
    weight_bytes: int
    seconds: tuple[float, ...]
    probes: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class _Run:
    """The kernels of one run in order, with their seconds; one probe more than kernels, or none."""

    seconds: list[float]
    probes: list[float]


class _Recorder:
    """Collects the kernels of one run, in order, with their times; probes before each kernel and at the end.

    While `arguments` is a list, the names and argument sizes of all kernels are recorded in it.
    """

    def __init__(self, probe: Probe | None, weights: Collection[int]) -> None:
        self._probe, self._weights = probe, weights
        self.arguments: list[tuple[str, int, int]] | None = []
        self.run = _Run([], [])
        # calls that have begun and not ended: place in the run, begin, seconds of the calls within
        self._open: list[tuple[int, float, list[float]]] = []

    def __call__(self, _function: Any, name: str, before: bool, _result: Any, *args: Any) -> None:  # noqa: ANN401
        now = time.perf_counter()
        if name.startswith(_RUNTIME_PREFIX):
            return
        if not before:
            place, begin, inner = self._open.pop()
            self.run.seconds[place] = now - begin - sum(inner)
            if self._open:
                self._open[-1][2].append(now - begin)
            return
        if self.arguments is not None:
            if self._open:
                self.arguments[self._open[-1][0]] = BETWEEN, 0, 0  # what it was given, the calls within read
            self.arguments.append((name, *_sizes(args, self._weights)))
        self._ask()
        if self._probe is not None:
            self.ready()
        self.run.seconds.append(0.0)
        self._open.append((len(self.run.seconds) - 1, time.perf_counter(), []))

    def _ask(self) -> None:
        if self._probe is not None:
            self.run.probes.append(self._probe())

    @staticmethod
    def ready() -> None:
        """Until the pool's workers wait for a kernel as they do within a run.

        They fell asleep during a probe, or since the run before: without this the first kernel would take some ten
        microseconds more.
        """
        pool.wake()
        begin = time.perf_counter()
        while time.perf_counter() - begin < AWAKE_S:
            pass

    def finish(self) -> _Run:
        """End the run, return it and begin a new one."""
        self._ask()
        done, self.run = self.run, _Run([], [])
        return done


def _sizes(arguments: Sequence[Any], weights: Collection[int]) -> tuple[int, int]:
    """Bytes of all tensors among `arguments`, and of those whose addresses are among `weights`.

    A tensor passed twice (to a kernel that adds to its own output) counts twice: it is read and written.
    """
    everything = of_weights = 0
    for argument in arguments:
        if isinstance(argument, ffi().Tensor):
            size = argument.numel() * -(-argument.dtype.bits * argument.dtype.lanes // 8)
            everything += size
            of_weights += size * (argument.data_ptr() in weights)
    return everything, of_weights


def profile_runs(
    engine: CompiledFunction,
    config: ArtifactConfig,
    arrays: Sequence[Array],
    repeats: int,
    probe: Probe | None = None,
) -> list[LayerRuns]:
    """Times of all kernels of a model in `repeats` runs, after a warm-up run, with the probe's figures.

    Each segment that ONNX Runtime runs appears as one kernel. The probe should not disturb the caches.
    """
    recorder = _Recorder(probe, {tensor.data_ptr() for tensor in engine.weights})
    vm = engine.new_vm()
    vm["set_instrument"](ffi().convert_func(recorder))
    call = vm[engine.name]
    arguments = [*engine.wrap_all(arrays), *engine.weights, *engine.arena()]
    call(*arguments)
    called, recorder.arguments = recorder.arguments or [], None
    recorder.finish()
    runs = []
    for _ in range(repeats):
        recorder.ready()
        call(*arguments)
        runs.append(recorder.finish())
    del call, vm
    return _by_layer(called, runs, config)


def _by_layer(
    called: Sequence[tuple[str, int, int]], runs: Sequence[_Run], config: ArtifactConfig
) -> list[LayerRuns]:
    seen: dict[str, int] = {}
    layers = []
    for place, (kernel, size, weight_size) in enumerate(called):
        info = config.kernels.get(kernel)
        number = seen.get(kernel, 0)
        seen[kernel] = number + 1
        nodes = () if info is None else info.calls[number] if number < len(info.calls) else info.nodes
        op, flops, schedule = ("", 0, "") if info is None else (info.op, info.flops, info.schedule)
        seconds = tuple(run.seconds[place] for run in runs)
        probes = tuple((run.probes[place], run.probes[place + 1]) for run in runs if run.probes)
        layers.append(LayerRuns(kernel, nodes, op, flops, schedule, size, weight_size, seconds, probes))
    return layers


def join(groups: Sequence[Sequence[LayerRuns]]) -> list[LayerRuns]:
    """Concatenate groups of runs of one model."""
    return [
        replace(
            parts[0],
            seconds=tuple(second for part in parts for second in part.seconds),
            probes=tuple(pair for part in parts for pair in part.probes),
        )
        for parts in zip(*groups, strict=True)
    ]


def summarise(layers: Sequence[LayerRuns]) -> list[LayerTime]:
    """Median time of each layer, and its share of the total."""
    medians = [median(layer.seconds) for layer in layers]
    total = sum(medians) or 1.0
    return [
        LayerTime(
            layer.kernel,
            layer.nodes,
            seconds * 1e3,
            seconds / total,
            layer.op,
            layer.flops,
            layer.bytes,
            layer.schedule,
        )
        for layer, seconds in zip(layers, medians, strict=True)
    ]
