"""The back end for CPUs: blocked layouts, TIR templates chosen by timing, LLVM, and LLD."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu import library, peak, winners
from edgec.compiler.backends.cpu.dot_instructions import activations_of, feature_of, half_lanes, operands_for
from edgec.compiler.backends.cpu.layouts.channel_order import with_ordered_channels
from edgec.compiler.backends.cpu.layouts.free_rows import with_free_rows
from edgec.compiler.backends.cpu.layouts.free_sizes import name_free_convolutions
from edgec.compiler.backends.cpu.layouts.half_precision import in_half_precision
from edgec.compiler.backends.cpu.layouts.lanes import half_blocks
from edgec.compiler.backends.cpu.layouts.planner import plan_layouts
from edgec.compiler.backends.cpu.layouts.signedness import with_signedness
from edgec.compiler.backends.cpu.layouts.wide_activations import wide_operands, with_wide_activations
from edgec.compiler.backends.cpu.machine_rates import FP16, measure_rates
from edgec.compiler.backends.cpu.objects import Objects
from edgec.compiler.backends.cpu.remote import RemoteTrials, device_of
from edgec.compiler.backends.cpu.runner import runner_of, runs_here
from edgec.compiler.backends.cpu.runtime_libraries import runtime_libraries
from edgec.compiler.backends.cpu.single_operations import promised
from edgec.compiler.backends.cpu.specs import decode
from edgec.compiler.backends.cpu.templates.free_convolution import FreeConvSpec
from edgec.compiler.backends.cpu.templates.free_convolution_loops import emit_free
from edgec.compiler.backends.cpu.templates.generic import schedule_generic
from edgec.compiler.backends.cpu.templates.separable import separable_of
from edgec.compiler.backends.cpu.templates.workloads import workload_of
from edgec.compiler.backends.cpu.thread_pool import pool_library
from edgec.compiler.backends.cpu.timing import CpuTrials
from edgec.compiler.backends.interface import (
    Backend,
    Library,
    OperandsOf,
    ProgramLibrary,
    Runner,
    Trials,
    Workload,
)
from edgec.compiler.backends.object_cache import ObjectCache
from edgec.compiler.errors import TargetLacksPrecision
from edgec.compiler.graph.anchors import ANCHOR
from edgec.compiler.graph.attention import fuse_attention
from edgec.compiler.graph.channel_moves import name_channel_moves
from edgec.compiler.graph.control import Control
from edgec.compiler.graph.input_reads import read_anywhere
from edgec.compiler.graph.one_dimensional import widen
from edgec.compiler.graph.weave import Piece
from edgec.compiler.operands.operands import BFLOAT16, FLOAT16, Operands
from edgec.compiler.options import Precision
from edgec.compiler.progress import Progress
from edgec.runtime.execution.pool import POOL_LIBRARY
from edgec.targets.machine_rates import MachineRates
from edgec.targets.measured_rates import Machine
from edgec.targets.microarchitecture import this_processor


class CpuBackend(Backend):
    """Compiles for x86-64 and 64-bit ARM."""

    _objects: Objects | None = None

    def check_precision(self, precision: Precision) -> None:
        """Check that the target multiplies in `precision`."""
        if precision == "tf32":
            super().check_precision(precision)
        if precision == "fp16" and not half_lanes(self.target):
            raise TargetLacksPrecision(
                f"{self.target.name} has no half-precision vectors ({' or '.join(FP16)}): compile for a target that "
                "has them (rpi5, rk3588, sapphirerapids), or with --precision auto or fp32"
            )
        if precision == "bf16" and operands_for(BFLOAT16, self.target) != BFLOAT16:
            others = "fp16, auto or fp32" if half_lanes(self.target) else "auto or fp32"
            raise TargetLacksPrecision(
                f"{self.target.name} has no bfloat16 dot products that edgec has kernels for (they are x86's "
                f"{feature_of(BFLOAT16)}): compile with --precision {others}, or for zen4 or sapphirerapids"
            )

    def gain(self, operands: Operands) -> float:
        """By the rates of the core."""
        if operands == FLOAT16:
            return half_lanes(self.target) / self.target.fp32_lanes
        if operands_for(operands, self.target) != operands or operands.instruction is None:
            return 0.0
        dot = self.target.core.dots.get(operands.instruction)
        return 0.0 if dot is None else operands.step * dot.per_cycle / self.target.core.fma_per_cycle

    def choose_layouts(self, mod: tvm.IRModule, operands_of: OperandsOf, error_budget: float) -> tvm.IRModule:
        """Blocked layouts from end to end; attention and products with constant weights become template kernels."""
        mod = with_signedness(mod, activations_of(self.target))
        if wide_operands(self.target) is not None:
            mod = with_wide_activations(with_ordered_channels(mod))
        mod = fuse_attention(name_channel_moves(widen(mod)), self.target.fp32_lanes)
        half = in_half_precision(mod, operands_of) if half_lanes(self.target) else None
        if half is not None:
            return plan_layouts(half, self.target, operands_of, half_lanes(self.target), error_budget)
        made = plan_layouts(mod, self.target, operands_of, error_budget=error_budget)
        block = half_blocks(made, self.target, error_budget)
        if block is None:
            return made
        return plan_layouts(mod, self.target, operands_of, error_budget=error_budget, block=block)

    def with_free_sizes(self, mod: tvm.IRModule, threads: int) -> tvm.IRModule:
        """Products and convolutions with constant fp32 weights have tiles of registers for every size."""
        return with_free_rows(name_free_convolutions(mod, self.target), self.target, threads)

    def joined(self, first: str, second: str, threads: int) -> str | None:
        """A depthwise convolution and a 1×1 convolution, where one kernel is estimated to be faster."""
        return separable_of(first, second, self.target, threads)

    def workload_of(
        self, func: PrimFunc, anchor: str, operators: tuple[str, ...], threads: int, error_budget: float
    ) -> Workload | None:
        """The workload of a fused kernel; None when no template makes it."""
        return workload_of(func, anchor, operators, self.target, threads, error_budget)

    def schedule(self, func: PrimFunc, threads: int) -> PrimFunc:
        """Inlined, spread over cores and vectorised; a convolution of free sizes in tiles."""
        made = self._tiled(func, threads)
        if made is not None:
            return made
        return schedule_generic(func, self.target, threads)

    def reading_inputs(self, func: PrimFunc, positions: Collection[int]) -> PrimFunc:
        """Arrays of the caller lie on any boundary."""
        return read_anywhere(func, positions)

    def _tiled(self, func: PrimFunc, threads: int) -> PrimFunc | None:
        """A kernel whose sizes are known only at run time, if a template makes it."""
        anchor = func.attrs[ANCHOR] if func.attrs is not None and ANCHOR in func.attrs else None
        spec = decode(str(anchor)) if anchor is not None else None
        if not isinstance(spec, FreeConvSpec):
            return None
        made = emit_free(func, spec, self.target, threads)
        return None if made is None else promised(made, func)

    @property
    def winners_key(self) -> str:
        """Architecture, processor, registers, the instructions that kernels choose by, and the core that was timed."""
        timed = this_processor()[1] if self._measures_here else self.target.core.microarchitecture
        return winners.cache_key(self.target, timed)

    @property
    def shipped_keys(self) -> tuple[str, ...]:
        """Architecture, microarchitecture and registers: of the target's own core, and of the one it borrows from."""
        return winners.shipped_keys(self.target)

    @property
    def current_workloads(self) -> tuple[str, ...]:
        """Names and versions of the templates."""
        return winners.CURRENT

    @property
    def can_time(self) -> bool:
        """Whether this machine runs code for the target, or a device times it."""
        return self.target.timed_on is not None or runs_here(self.target)

    @property
    def _measures_here(self) -> bool:
        return self.target.timed_on is None and runs_here(self.target)

    def trials(self) -> Trials:
        """Begin to time the candidates of a workload, in this process or on the target's device."""
        if self.target.timed_on is not None:
            return RemoteTrials(device_of(self.target.timed_on, self.target), self.target)
        return CpuTrials(self.target)

    def probes(self, threads: int) -> Machine | None:
        """Probes with the same loops as the templates."""
        return peak.probes(self.target, threads) if self._measures_here else None

    def machine_rates(self, threads: int) -> MachineRates:
        """Measured by kernels of a few instructions each."""
        return measure_rates(self.target, threads)

    def fp32_peak_gflops(self, threads: int) -> float:
        """Measured by multiply-adds on registers alone."""
        return peak.fp32_peak_gflops(self.target, threads)

    def begin(self, kernel: PrimFunc, cache_dir: Path | None) -> None:
        """Begin to make the object file of a kernel."""
        if self._objects is None:
            self._objects = Objects(self.target, ObjectCache(cache_dir))
        self._objects.begin(kernel)

    def abandon(self) -> None:
        """Make no further object files."""
        if self._objects is not None:
            self._objects.stop()
            self._objects = None

    def _finish(self, cache_dir: Path | None) -> Objects:
        begun, self._objects = self._objects, None
        return begun or Objects(self.target, ObjectCache(cache_dir))

    def build(self, mod: tvm.IRModule, cache_dir: Path | None, progress: Progress) -> Library:
        """A shared library for the runtime's virtual machine."""
        return library.build_library(mod, self.target, self._finish(cache_dir), progress)

    def build_program(
        self,
        pieces: Sequence[Piece],
        control: Sequence[Control],
        main: str,
        cache_dir: Path | None,
        progress: Progress,
    ) -> ProgramLibrary:
        """A shared library for the runtime's virtual machine."""
        return library.build_program(pieces, control, main, self.target, self._finish(cache_dir), progress)

    def build_functions(self, functions: Mapping[str, PrimFunc]) -> bytes:
        """A shared library of plain functions."""
        return library.build_functions(functions, self.target)

    def runner(self) -> Runner:
        """This machine, or an emulator of the target's processor."""
        return runner_of(self.target)

    def own_libraries(self, cache_dir: Path | None) -> dict[str, bytes]:
        """The thread pool."""
        return {POOL_LIBRARY: pool_library(self.target.arch, cache_dir)}

    def emulator(self) -> Runner:
        """qemu's user mode, also for code that this machine could run."""
        return runner_of(self.target, emulate=True)

    def runtime_libraries(self) -> dict[str, bytes]:
        """TVM's runtime for the target's architecture."""
        return runtime_libraries(self.target.arch)
