"""Time per kernel, through the hook that TVM's virtual machine calls before and after each one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgec.runtime.config import ArtifactConfig
from edgec.runtime.library import ffi
from edgec.runtime.native import Array, NativeFunction

_RUNTIME_PREFIX = "vm.builtin."


@dataclass(frozen=True)
class LayerTime:
    """One kernel of a run: ``ms`` is the median over the repeats, ``share`` its part of all kernels' time
    (0 to 1).

    ``nodes`` are the source model's nodes that it computes. The hook costs a few microseconds a kernel,
    most of it outside the time measured.
    """

    kernel: str
    nodes: tuple[str, ...]
    ms: float
    share: float
    op: str = ""
    flops: int = 0


class _Recorder:
    """Collects the kernels of one run, in order, with their times in seconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self._begin = 0.0

    def __call__(self, _function: Any, name: str, before: bool, _result: Any, *_args: Any) -> None:  # noqa: ANN401
        now = time.perf_counter()
        if not before:
            if not name.startswith(_RUNTIME_PREFIX):
                self.calls.append((name, now - self._begin))
            return
        self._begin = time.perf_counter()


def _runs_of(
    function: NativeFunction, arrays: Sequence[Array], repeats: int
) -> list[list[tuple[str, float]]]:
    recorder = _Recorder()
    vm = function.new_vm()
    vm["set_instrument"](ffi().convert_func(recorder))
    call = vm[function.name]
    arguments = [*function.wrap_all(arrays), *function.weights, *function.arena()]
    runs = []
    for _ in range(repeats + 1):
        recorder.calls = []
        call(*arguments)
        runs.append(recorder.calls)
    del call, vm
    return runs[1:]


def profile(
    engine: NativeFunction, config: ArtifactConfig, arrays: Sequence[Array], repeats: int
) -> list[LayerTime]:
    """Times of all kernels of a model; parts that ONNX Runtime runs appear as one kernel each."""
    runs = _runs_of(engine, arrays, repeats)
    rows = [(name, median(run[number][1] for run in runs)) for number, (name, _) in enumerate(runs[0])]
    total = sum(seconds for _, seconds in rows) or 1.0
    seen: dict[str, int] = {}
    layers = []
    for kernel, seconds in rows:
        info = config.kernels.get(kernel)
        number = seen.get(kernel, 0)
        seen[kernel] = number + 1
        nodes = () if info is None else info.calls[number] if number < len(info.calls) else info.nodes
        op, flops = ("", 0) if info is None else (info.op, info.flops)
        layers.append(LayerTime(kernel, nodes, seconds * 1e3, seconds / total, op, flops))
    return layers
