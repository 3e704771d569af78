"""One case in a process of its own: a fault, a hang or a crash of it, or of PyTorch, ends nothing else."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.benchmarks.gpu.graph_data import read
from edgec.benchmarks.gpu.outcomes import Outcome, write
from edgec.benchmarks.gpu.plan import BOUNDS, NO_TORCH, Case, Plan
from edgec.compiler.verify.timing import time_in_blocks

_RUNS, _CASE_S = 100, 3.0
_PROFILED, _STEP_S = 20, 1.0

Arrays = dict[str, npt.NDArray[Any]]
Side = Callable[[], Arrays]


def run_once(folder: Path, number: int) -> None:
    """One call, for compute-sanitizer."""
    case = Plan.read(folder).cases[number]
    with rt.load(folder / case.artifact) as model:
        model.run(_arrays(folder, case, "in."))


def check(folder: Path, number: int, out: Path) -> None:
    """Compare the results with the reference, and time calls and kernels."""
    case = Plan.read(folder).cases[number]
    made = Outcome(case.network, case.precision, case.batch)
    inputs, wanted = _arrays(folder, case, "in."), _arrays(folder, case, "out.")
    with rt.load(folder / case.artifact) as model:
        made.error = _error(model.run(inputs), wanted)
        made.right = made.error <= BOUNDS[case.precision]
        write(out, made)
        sides = {"edgec": lambda: model.run(inputs)}
        made.median_ms = {
            name: one.median_ms for name, one in time_in_blocks(sides, runs=_RUNS, limit_s=_STEP_S).items()
        }
        write(out, made)
        most = 1e3 * _STEP_S / made.median_ms["edgec"]  # runs that the time of a step is enough for
        if times := model.device_seconds(inputs, max(1, min(_RUNS, int(most)))):
            made.events_ms = median(times) * 1e3
        made.device_ms = sum(layer.ms for layer in model.profile(inputs, max(1, min(_PROFILED, int(most)))))
    write(out, made)


def beside(folder: Path, number: int, out: Path) -> None:
    """Time calls beside PyTorch's, block by block; what is slow to prepare comes last, and what was measured stays."""
    case = Plan.read(folder).cases[number]
    made = Outcome(case.network, case.precision, case.batch)
    inputs, wanted = _arrays(folder, case, "in."), _arrays(folder, case, "out.")
    with rt.load(folder / case.artifact) as model:
        sides: dict[str, Callable[[], Any]] = {"edgec": lambda: model.run(inputs)}
        resident: dict[str, Callable[[], Any]] = {}
        for name, make in _torch_sides(folder, case, inputs, made):
            try:
                side, sides_there = make()
                error = _error(side(), wanted)
                if not resident:
                    resident["edgec"] = _resident(model, inputs)
            except Exception as error_:  # noqa: BLE001 - PyTorch's, of any type: the other sides are worth having
                made.notes.append(f"{name}: {type(error_).__name__}: {str(error_).strip().splitlines()[:1]}")
                write(out, made)
                continue
            if not error <= BOUNDS[case.precision]:
                made.notes.append(f"{name}: error {error:.1e}")
            sides[name], resident[name] = side, sides_there
            for found, asked in ((made.median_ms, sides), (made.resident_ms, resident)):
                times = time_in_blocks(asked, runs=_RUNS, limit_s=_CASE_S)
                found |= {one: latency.median_ms for one, latency in times.items()}
            write(out, made)
    write(out, made)


def _arrays(folder: Path, case: Case, prefix: str) -> Arrays:
    with np.load(folder / case.arrays, allow_pickle=False) as content:
        return {key.removeprefix(prefix): content[key] for key in content.files if key.startswith(prefix)}


def _error(found: Arrays, wanted: Arrays) -> float:
    return max(_distance(found[name], value) for name, value in wanted.items())


def _distance(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    scale = max(float(np.max(np.abs(wanted))), 1e-12)
    distance = float(np.max(np.abs(found.astype("float64") - wanted))) / scale
    return distance if np.isfinite(distance) else 1e30


def _resident(model: rt.Model, inputs: Arrays) -> Callable[[], Any]:
    """A call from PyTorch's tensors on the GPU, whose results stay there."""
    import torch

    there = {name: torch.from_numpy(value).cuda() for name, value in inputs.items()}
    return lambda: model.run(there, on_device=True)


def _torch_sides(
    folder: Path, case: Case, inputs: Arrays, made: Outcome
) -> Iterator[tuple[str, Callable[[], tuple[Side, Callable[[], Any]]]]]:
    """How PyTorch's sides are made, from the host's arrays and back, and on the GPU; none where it has no GPU."""
    if not importlib.util.find_spec("torch"):
        made.notes.append(NO_TORCH[0])
        return
    import torch

    if not torch.cuda.is_available():
        made.notes.append(NO_TORCH[1])
        return
    from edgec.benchmarks.gpu.torch_network import module_of

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(
        case.precision, torch.float32
    )
    network, constants = read(folder / case.graph, folder / case.constants)

    def placed(array: npt.NDArray[Any], layout: Any) -> Any:  # noqa: ANN401 - PyTorch's types
        tensor = torch.from_numpy(array).cuda()
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        return tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor

    def side(layout: Any, *, compiled: bool) -> tuple[Side, Callable[[], Any]]:  # noqa: ANN401
        call = module_of(network, constants, dtype).cuda().to(memory_format=layout)
        if compiled:
            call = torch.compile(call, mode="max-autotune")
        there = [placed(inputs[name], layout) for name in network.inputs]

        def run(tensors: list[Any]) -> Any:  # noqa: ANN401
            # asked for at every convolution, and the sides take turns
            torch.backends.cudnn.benchmark = layout is torch.channels_last
            with torch.inference_mode():
                return call(*tensors)

        def once() -> Arrays:
            results = run([placed(inputs[name], layout) for name in network.inputs])
            return {
                name: one.float().cpu().numpy() if one.is_floating_point() else one.cpu().numpy()
                for name, one in zip(network.outputs, results, strict=True)
            }

        def once_there() -> None:
            run(there)
            torch.cuda.synchronize()

        return once, once_there

    yield "eager", lambda: side(torch.contiguous_format, compiled=False)
    yield "channels last", lambda: side(torch.channels_last, compiled=False)
    yield "compiled", lambda: side(torch.channels_last, compiled=True)
