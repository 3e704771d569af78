"""The runtime's half of a back end of the tests: programs of calls of numpy, on a memory that pretends to be far away.

Nothing here imports the compiler: a process that verifies an artifact has none.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import edgec.runtime as rt
from edgec.runtime.device import StagedDevice
from edgec.runtime.execution.profiling import LayerRuns
from edgec.targets.device_kinds import DEVICE_KINDS

# The line that registers a back end; a fixture and the process below add it, so that other tests do not see it.
REGISTRATION = {
    "backend": "tests.compiler.backends.numpy.backend:NumpyBackend",
    "device": "tests.compiler.backends.numpy.device:NumpyDevice",
}
MAGIC = b"numpy calls\n"
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "maximum": np.maximum,
    "minimum": np.minimum, "exp": np.exp, "tanh": np.tanh, "sqrt": np.sqrt, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}  # fmt: skip


class FarBuffer:
    """Memory of the device: only the device reads and writes it."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.content = np.full(shape, 77, dtype)


def evaluate(expression: Any, buffers: list[Any], rank: int) -> Any:
    """The value of an expression over whole arrays: `[function, …]`, `["load", buffer, axes]` or a number."""
    if not isinstance(expression, list):
        return np.float32(expression)
    name, *operands = expression
    if name != "load":
        return FUNCTIONS[name](*(evaluate(operand, buffers, rank) for operand in operands))
    buffer, axes = operands
    shape = [1] * rank
    for axis, extent in zip(axes, buffers[buffer].shape, strict=True):
        if axis is not None:
            shape[axis] = extent
    return buffers[buffer].reshape(shape)


class NumpyProgram:
    """The calls of a library. They are queued, and done when the device is waited for."""

    def __init__(self, device: NumpyDevice, code: bytes, weights: list[FarBuffer]) -> None:
        self.device, self.weights = device, weights
        self.content = json.loads(code.removeprefix(MAGIC))

    def __call__(self, buffers: Sequence[FarBuffer], /) -> list[FarBuffer]:
        values = dict(zip(self.content["parameters"], [*buffers, *self.weights], strict=True))
        for call in self.content["calls"]:
            values[call["result"]] = FarBuffer(call["shape"], call["dtype"])
            self.device.queue.append(lambda call=call: self._run(call, values))
        return [values[name] for name in self.content["results"]]

    def _run(self, call: dict[str, Any], values: dict[str, FarBuffer]) -> None:
        kernel = self.content["kernels"][call["kernel"]]
        result = values[call["result"]].content
        buffers: list[Any] = [*(values[name].content for name in call["arguments"]), result]
        for step in kernel:
            value = evaluate(step["value"], buffers, len(step["shape"]))
            value = np.broadcast_to(value, step["shape"]).astype(step["dtype"])
            if step["buffer"] == len(buffers):
                buffers.append(value)
            else:
                buffers[step["buffer"]][...] = value

    def profile_runs(
        self, config: rt.ArtifactConfig, buffers: Sequence[FarBuffer], repeats: int, probe: Any = None, /
    ) -> list[LayerRuns]:
        seconds: list[list[float]] = [[] for _ in self.content["calls"]]
        for _ in range(repeats):
            self(buffers)
            queue, self.device.queue = self.device.queue, []
            for times, job in zip(seconds, queue, strict=True):
                begin = time.perf_counter()
                job()
                times.append(time.perf_counter() - begin)
        kernels = [config.kernels[call["kernel"]] for call in self.content["calls"]]
        return [
            LayerRuns(
                call["kernel"], kernel.nodes, kernel.op, kernel.flops, kernel.schedule, 0, 0, tuple(times)
            )
            for call, kernel, times in zip(self.content["calls"], kernels, seconds, strict=True)
        ]

    def close(self) -> None:
        self.weights.clear()


class NumpyDevice(StagedDevice):
    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []

    def check(self) -> None: ...

    def check_code(self, code: bytes, config: rt.ArtifactConfig) -> None:
        if not code.startswith(MAGIC):
            raise rt.ArtifactError("the artifact's code is no program of numpy calls")

    def load_installed(self) -> None: ...

    def ensure_runtime(self, bundled: Callable[[str], bytes | None]) -> None: ...

    def allocate(self, shape: Sequence[int], dtype: Any) -> FarBuffer:
        return FarBuffer(shape, dtype)

    def copy_in(self, array: np.ndarray, buffer: FarBuffer) -> None:
        buffer.content[...] = array

    def copy_out(self, buffer: FarBuffer) -> np.ndarray:
        return buffer.content.copy()

    def load(self, code: bytes, config: Any, weights: Sequence[Any], segments: Any = None) -> NumpyProgram:
        near = [weight.array for weight in weights]
        far = [self.allocate(array.shape, array.dtype) for array in near]
        for array, buffer in zip(near, far, strict=True):
            self.copy_in(array, buffer)
        return NumpyProgram(self, code, far)

    @staticmethod
    def use_threads(wanted: Any) -> None: ...

    def synchronise(self) -> None:
        queue, self.queue = self.queue, []
        for job in queue:
            job()


if __name__ == "__main__":  # as Python, in which the device is registered: -m MODULE ARGUMENTS…
    DEVICE_KINDS["numpy"] = REGISTRATION
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
