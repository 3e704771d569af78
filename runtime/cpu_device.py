"""The CPU as a device: its programs work on host memory, so most calls copy nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.weights import Weight
from edgec.runtime.device import Device
from edgec.runtime.execution import pool, threads
from edgec.runtime.execution.compiled_functions import (
    Array,
    CompiledFunction,
    check_code,
    load_code,
)
from edgec.runtime.execution.shared_libraries import check_ffi, ensure_runtime, load_installed
from edgec.runtime.execution.straight import StraightProgram, read_table

if TYPE_CHECKING:
    from edgec.runtime.execution.fallback import FallbackSegments
    from edgec.runtime.execution.profiling import LayerRuns, Probe
    from edgec.runtime.execution.state_calls import StateCalls
    from edgec.runtime.execution.straight_state_calls import StraightStateCalls


class CpuFunction(CompiledFunction):
    """A compiled function whose kernels can be timed."""

    def profile_runs(
        self, config: ArtifactConfig, arrays: Sequence[Array], repeats: int, probe: Probe | None = None
    ) -> list[LayerRuns]:
        """Times of all kernels in `repeats` runs, after one to warm up."""
        from edgec.runtime.execution.profiling import profile_runs

        return profile_runs(self, config, arrays, repeats, probe)

    def state_calls(
        self, specs: Sequence[TensorSpec], states: Sequence[tuple[int, int]]
    ) -> StateCalls | StraightStateCalls:
        """The same function for sessions, whose states are never copied."""
        if self.straight is not None and (program := self.straight.of_session(states)).returns_little():
            from edgec.runtime.execution.straight_state_calls import StraightStateCalls

            return StraightStateCalls(program, self.library)
        from edgec.runtime.execution.state_calls import StateCalls

        return StateCalls(self, specs, states)


class CpuDevice(Device):
    """The processor that this process runs on."""

    def check(self) -> None:
        """Check the version of tvm-ffi."""
        check_ffi()

    def check_code(self, code: bytes, config: ArtifactConfig) -> None:
        """Check that the code is a shared library of the config's architecture."""
        check_code(code, config)

    def load_installed(self) -> None:
        """Load the TVM runtime that is installed on this machine, if there is one."""
        load_installed()

    def ensure_runtime(self, bundled: Callable[[str], bytes | None]) -> None:
        """Load the TVM runtime, if need be the artifact's own, and the thread pool that artifacts bring."""
        ensure_runtime(bundled)
        pool.load(bundled)

    def function(
        self,
        code: bytes,
        config: ArtifactConfig,
        weights: Sequence[Weight],
        segments: FallbackSegments | None = None,
        calls: bytes | None = None,
    ) -> CpuFunction:
        """Load a shared library and bind its function to the weights where they are mapped."""
        table = read_table(calls)
        if table is None or segments is not None or not table.fits(config.inputs, len(weights)):
            straight, module = None, load_code(code)
        else:
            module = load_code(code, kernels := table.symbols())
            straight = StraightProgram(table, kernels, [weight.array for weight in weights], config.inputs)
        return CpuFunction(
            module,
            config.entry,
            weights,
            config.inputs,
            segments,
            config.plan,
            varies=config.varies,
            straight=straight,
        )

    use_threads = staticmethod(threads.use)
