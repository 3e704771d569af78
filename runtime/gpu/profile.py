"""Time per layer of a GPU program, by events around its launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgec.runtime.artifact.config import ArtifactConfig
from edgec.runtime.execution.profiling import LayerRuns, Probe
from edgec.runtime.gpu.code import (
    GpuCode,
    HostCall,
    Launch,
    Step,
    operands_of,
)
from edgec.runtime.gpu.contexts import Context

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


HOST = "ONNX Runtime on the host, with copies"
"""The schedule of a part that runs there."""


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


def profile(context: Context, config: ArtifactConfig, repeats: int, probe: Probe | None) -> list[LayerRuns]:
    """Device time of each layer in `repeats` runs; what a context has in its inputs is what it runs on."""
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
        if isinstance(steps[0], HostCall):
            op, schedule = op or "host", HOST
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
