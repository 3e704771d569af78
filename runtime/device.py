"""The runtime's interface to a kind of hardware; `edgec.compiler.backends.interface.Backend` is its counterpart.

A `Device` loads code that its back end compiled, binds it to the weights, and makes a function of it that takes arrays
of the host. A device with memory of its own can be a `StagedDevice`, whose functions copy inputs there and results
back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.errors import IncompatibleDevice
from edgec.targets.device_kinds import DEVICE_KINDS

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.artifact.weights import Weight
    from edgec.runtime.execution.fallback import FallbackSegments
    from edgec.runtime.execution.profiling import LayerRuns, Probe
    from edgec.runtime.execution.threads import Threading

    Array = npt.NDArray[Any]

Buffer = Any  # memory of a device, as the device itself describes it


class Executable(Protocol):
    """A model's compiled function, ready to be called from any thread."""

    def __call__(self, arrays: Sequence[Array], /) -> list[Array]:
        """Run on contiguous arrays of the right shapes and dtypes; the results are the caller's own."""

    def profile_runs(
        self, config: ArtifactConfig, arrays: Sequence[Array], repeats: int, probe: Probe | None = None
    ) -> list[LayerRuns]:
        """Times of all kernels in `repeats` runs, as `edgec.runtime.Model.profile_runs` returns them."""

    def state_calls(self, specs: Sequence[TensorSpec], states: Sequence[tuple[int, int]]) -> StateCalls:
        """The same function for sessions.

        Args:
            specs: all inputs, in call order.
            states: positions of each state among the inputs and among the outputs.
        """

    def close(self) -> None:
        """Release what no call is using."""


class StateCalls(Protocol):
    """A compiled function whose states stay on the device, ready to be called from any thread."""

    def put(self, array: Array) -> Buffer:
        """A state on the device with the content of an array."""

    def get(self, state: Buffer) -> Array:
        """A copy of a state's content."""

    def __call__(
        self, arrays: Sequence[Array], states: Sequence[Buffer], /
    ) -> tuple[list[Array], Sequence[Buffer]]:
        """Run on the inputs that are no states and the present states, which stay valid.

        Returns:
            the outputs that are no states, owned by the caller, and the next states.
        """

    def close(self) -> None:
        """Release what no call is using."""


class Program(Protocol):
    """Code on a device, bound to its weights."""

    def __call__(self, buffers: Sequence[Buffer], /) -> list[Buffer]:
        """Start a run on buffers of the device; the results are complete after `Device.synchronise`."""

    def profile_runs(
        self, config: ArtifactConfig, buffers: Sequence[Buffer], repeats: int, probe: Probe | None = None, /
    ) -> list[LayerRuns]:
        """Times of all kernels in `repeats` runs on buffers of the device."""

    def close(self) -> None:
        """Release what no call is using."""


class Device(ABC):
    """A kind of hardware that runs compiled code."""

    # Whether it can.

    @abstractmethod
    def check(self) -> None:
        """Check that the libraries and drivers that the device needs are installed, without loading them.

        Raises:
            IncompatibleDevice: one is missing, or of another version.
        """

    @abstractmethod
    def check_code(self, code: bytes, config: ArtifactConfig) -> None:
        """Check that code matches its config, without loading it.

        Raises:
            ArtifactError: the config and the code do not belong together.
        """

    @abstractmethod
    def load_installed(self) -> None:
        """Load libraries that are installed on this machine; those that an artifact bundles are not trusted yet."""

    @abstractmethod
    def ensure_runtime(self, bundled: Callable[[str], bytes | None]) -> None:
        """Load the libraries that compiled code needs.

        Args:
            bundled: returns the content of a library that the artifact bundles, or None.

        Raises:
            IncompatibleDevice: one is missing.
        """

    # Running.

    @abstractmethod
    def function(
        self,
        code: bytes,
        config: ArtifactConfig,
        weights: Sequence[Weight],
        segments: FallbackSegments | None = None,
        calls: bytes | None = None,
    ) -> Executable:
        """Load a library and bind it to its weights. From here on its code can run.

        Args:
            code: the library; `check_code` accepted it.
            config: of one set of input shapes.
            weights: in call order, in the host's memory.
            segments: the parts that ONNX Runtime runs; the function closes them when it goes.
            calls: the table of a run's calls, as the artifact stores it; a device need not use it.

        Raises:
            IncompatibleDevice: the machine cannot load the code.
        """

    @staticmethod
    @abstractmethod
    def use_threads(wanted: Threading) -> None:
        """Prepare the calling thread for a run on so many of the host's threads; called before each run."""


class StagedDevice(Device):
    """A device with memory of its own, whose functions stage inputs and results."""

    # Memory.

    @abstractmethod
    def allocate(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Buffer:
        """A buffer on the device."""

    @abstractmethod
    def copy_in(self, array: Array, buffer: Buffer) -> None:
        """Copy an array into a buffer of its shape and dtype."""

    @abstractmethod
    def copy_out(self, buffer: Buffer) -> Array:
        """A new array with a buffer's content."""

    # Running.

    @abstractmethod
    def load(
        self,
        code: bytes,
        config: ArtifactConfig,
        weights: Sequence[Weight],
        segments: FallbackSegments | None = None,
    ) -> Program:
        """Load a library and bind it to its weights. From here on its code can run.

        Args:
            code: the library; `check_code` accepted it.
            config: of one set of input shapes.
            weights: in call order, in the host's memory.
            segments: the parts that ONNX Runtime runs; the program closes them when it goes.

        Raises:
            IncompatibleDevice: the machine cannot load the code.
        """

    @abstractmethod
    def synchronise(self) -> None:
        """Wait until every run that was started is complete."""

    def function(
        self,
        code: bytes,
        config: ArtifactConfig,
        weights: Sequence[Weight],
        segments: FallbackSegments | None = None,
        calls: bytes | None = None,
    ) -> Executable:
        """`load`, callable with arrays of the host."""
        return StagedFunction(self, self.load(code, config, weights, segments))


class StagedFunction:
    """Runs a program on a device with memory of its own: copies in, runs, waits, copies out."""

    def __init__(self, device: StagedDevice, program: Program) -> None:
        self._device, self._program = device, program

    def _staged(self, arrays: Sequence[Array]) -> list[Buffer]:
        buffers = []
        for array in arrays:
            buffer = self._device.allocate(array.shape, array.dtype)
            self._device.copy_in(array, buffer)
            buffers.append(buffer)
        return buffers

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run on contiguous arrays of the right shapes and dtypes; the results are new arrays."""
        results = self._program(self._staged(arrays))
        self._device.synchronise()
        return [self._device.copy_out(result) for result in results]

    def profile_runs(
        self, config: ArtifactConfig, arrays: Sequence[Array], repeats: int, probe: Probe | None = None
    ) -> list[LayerRuns]:
        """Times of all kernels; copies are not part of them."""
        return self._program.profile_runs(config, self._staged(arrays), repeats, probe)

    def state_calls(self, specs: Sequence[TensorSpec], states: Sequence[tuple[int, int]]) -> StagedStateCalls:
        """The same program for sessions; states stay in the device's memory."""
        return StagedStateCalls(self._device, self._program, len(specs), states)

    def close(self) -> None:
        """Release the program."""
        self._program.close()


class StagedStateCalls:
    """As `StagedFunction`, with states that are never copied: a result of one run is an argument of the next."""

    def __init__(
        self, device: StagedDevice, program: Program, count: int, states: Sequence[tuple[int, int]]
    ) -> None:
        self._device, self._program, self._count = device, program, count
        self._into = {given: number for number, (given, _) in enumerate(states)}
        self._out = [made for _, made in states]

    def put(self, array: Array) -> Buffer:
        """A buffer with the content of an array."""
        buffer = self._device.allocate(array.shape, array.dtype)
        self._device.copy_in(array, buffer)
        return buffer

    def get(self, state: Buffer) -> Array:
        """A copy of a buffer's content."""
        self._device.synchronise()
        return self._device.copy_out(state)

    def __call__(self, arrays: Sequence[Array], states: Sequence[Buffer]) -> tuple[list[Array], list[Buffer]]:
        """Run once: copy the other inputs in and the other outputs out."""
        given = iter(arrays)
        buffers = [
            states[self._into[n]] if n in self._into else self.put(next(given)) for n in range(self._count)
        ]
        results = self._program(buffers)
        self._device.synchronise()
        outputs = [self._device.copy_out(r) for n, r in enumerate(results) if n not in self._out]
        return outputs, [results[n] for n in self._out]

    def close(self) -> None:
        """Release nothing: the program belongs to its function."""


def device_of(kind: str) -> Device:
    """The device of a kind that an artifact names; its module is imported now.

    Raises:
        IncompatibleDevice: this runtime has none.
    """
    if kind not in DEVICE_KINDS:
        raise IncompatibleDevice(f"this runtime drives {', '.join(sorted(DEVICE_KINDS))} devices, not {kind}")
    module, name = DEVICE_KINDS[kind]["device"].split(":")
    made: Device = getattr(import_module(module), name)()
    return made
