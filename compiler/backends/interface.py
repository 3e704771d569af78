"""The compiler's interface to a kind of hardware.

`pipeline`, `lower`, `tuning`, `verify`, `processing` and `pack` see hardware through a `Backend`, which
`edgec.compiler.backends.registry.backend_of` makes for a target. Its counterpart on the device is
`edgec.runtime.device.Device`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt
import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.errors import KernelUnsupported, TargetLacksPrecision, ToolMissing
from edgec.compiler.graph.control import Control
from edgec.compiler.graph.weave import Piece
from edgec.compiler.lowered import Plan
from edgec.compiler.operands.operands import FLOAT32, Operands
from edgec.compiler.options import Precision
from edgec.compiler.progress import Progress
from edgec.targets.machine_rates import MachineRates
from edgec.targets.measured_rates import Machine
from edgec.targets.target import Target

RESULTS = (
    "edgec.results"  # attribute of a plain function: how many of its parameters, the last ones, are results
)
FAMILY = "any"  # replaces the epilogue in the name of a family of workloads
# What the operator of a source node (None: of no node) multiplies where the hardware can.
OperandsOf: TypeAlias = Callable[[int | None], Operands]


@dataclass(frozen=True)
class Workload:
    """A kernel to be made: what it computes and the schedules that can make it.

    Attributes:
        key: names template, version, specification, epilogue and threads; equal keys may share a winner.
        family: the same without the epilogue, which decides little: where no winner of the key is known, one of the
            family does.
        kind: the operator, for reports.
        flops: operations of one call.
        bytes: bytes read and written by one call.
        threads: threads that the kernel runs on.
        candidates: schedules, best guess first.
        emit: makes the kernel of a candidate; raises `CandidateFailed` for one that does not fit.
        operands: the data types of the product, for reports.
    """

    key: str
    family: str
    kind: str
    flops: int
    bytes: int
    threads: int
    candidates: tuple[Any, ...]
    emit: Callable[[Any], PrimFunc]
    operands: Operands = FLOAT32


class CandidateFailed(Exception):
    """A schedule that does not fit its workload, or a kernel that the code generator refuses."""


class Trial(Protocol):
    """A candidate that was built and run once, and can be timed."""

    @property
    def output(self) -> npt.NDArray[Any]:
        """What the candidate computed."""

    @property
    def best_s(self) -> float:
        """The shortest time measured so far, in seconds a call."""

    def time(self, budget_s: float) -> None:
        """Measure for about `budget_s` seconds."""

    def rest(self) -> None:
        """Release its arguments; `Trials.again` gives it new ones."""


class Trials(Protocol):
    """The candidates of one workload, all of them run on the same arguments."""

    def add_all(self, kernels: Sequence[PrimFunc]) -> list[Trial | CandidateFailed]:
        """Build candidates on all cores and run each once; for one that the code generator refuses, why."""

    def again(self, trial: Trial) -> Trial:
        """A trial of earlier trials of the same workload, to be timed beside these. Requires `add_all`."""


class Runner(Protocol):
    """A place where artifacts run."""

    @property
    def description(self) -> str:
        """A description such as `this machine` or `qemu-aarch64-static -cpu cortex-a72`."""

    @property
    def is_hardware(self) -> bool:
        """Whether times measured there are representative of the target."""

    def command(self, arguments: list[str], python_path: Path) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run Python with these arguments.

        Args:
            arguments: of the interpreter.
            python_path: a folder with the package `edgec`, for an interpreter where it is not installed.
        """


@dataclass(frozen=True)
class Library:
    """A model's code for the device.

    Attributes:
        code: the content of the artifact's code layer, which the runtime's `Device` of the same kind loads.
        plan: the placement of activations, for an entry point that takes them as arguments.
        objects: the object files of the kernels in it, where a program can be linked with them.
    """

    code: bytes
    plan: Plan | None = None
    objects: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class ProgramLibrary(Library):
    """The code of a model with control flow or sizes known at run time.

    Attributes:
        weights: by name, in the order in which its function takes them.
        calls: names of the runtime's functions that it calls.
        workspace, stack: as in `Program`; of kernels whose sizes are known at compile time.
    """

    weights: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    workspace: int = 0
    stack: int = 0


class Backend(ABC):
    """The compiler for one kind of hardware, set up for a target."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    def tvm_target(self) -> tvm.target.Target:
        """The target as TVM takes it."""
        return tvm.target.Target(dict(self.target.tvm))

    # What it can do.

    runs_control = True  # branches, loops, and sizes that are known only when a model runs

    def check_precision(self, precision: Precision) -> None:
        """Check that the target multiplies in `precision`; `auto` accepts any target.

        Raises:
            TargetLacksPrecision: it does not; the message names what is missing.
        """
        if precision == "tf32":
            raise TargetLacksPrecision(
                f"{self.target.name} has no tensor cores for tf32: compile with --precision fp32"
            )
        if precision in ("bf16", "fp16"):
            kind = "bfloat16" if precision == "bf16" else "half-precision"
            raise TargetLacksPrecision(
                f"{self.target.name} has no {kind} dot products: compile with --precision fp32"
            )

    def gain(self, operands: Operands) -> float:
        """How many products of `operands` are multiplied in the time of one in fp32; 0 where the target has none.

        By the facts about the target, for machines on which nothing is timed.
        """
        return 0.0

    # From the graph to kernels.

    @abstractmethod
    def choose_layouts(self, mod: tvm.IRModule, operands_of: OperandsOf, error_budget: float) -> tvm.IRModule:
        """Rewrite the operators of `main` to the layouts, data types and kernels that suit the hardware.

        `error_budget` is the largest error that the outputs may have, relative to their largest value.

        Requires: `simplify` ran; NCHW operators as the importers emit them.
        Ensures: every remaining Relax operator has a TVM legalisation.
        """

    def with_free_sizes(self, mod: tvm.IRModule, threads: int) -> tvm.IRModule:
        """Replace operators of symbolic sizes in `main` by calls of kernels, for so many threads; by default none.

        A finished kernel has the attributes `tirx.is_scheduled` and `SCHEDULE`; `schedule` knows the others.
        """
        return mod

    def joined(self, first: str, second: str, threads: int) -> str | None:
        """The specification of one kernel for two anchors, of which the second alone reads what the first one's kernel
        makes (its anchor's result after element-wise operators); None, the default, where two are as fast.
        """
        return None

    def workload_of(
        self, func: PrimFunc, anchor: str, operators: tuple[str, ...], threads: int, error_budget: float
    ) -> Workload | None:
        """The workload of a fused kernel; None when no template makes it.

        Args:
            func: the kernel, not scheduled.
            anchor: the specification under its attribute `ANCHOR`.
            operators: names of the operators in it.
            threads: threads that the model runs on.
            error_budget: the largest error that the model's outputs may have, relative to their largest value:
                schedules that trade accuracy for speed have to stay far below it.
        """
        return None

    @abstractmethod
    def schedule(self, func: PrimFunc, threads: int) -> PrimFunc:
        """A sound schedule for a kernel that no template claims.

        Raises:
            KernelUnsupported: the hardware cannot compute it.
        """

    def settle(
        self, chosen: Mapping[str, tuple[Workload, Any]], cache_dir: Path | None, progress: Progress
    ) -> dict[str, Any]:
        """The schedules of kernels, by symbol: those chosen, or others whose machine code has no fault that only the
        compiler of the device shows; by default those chosen.

        Args:
            chosen: by symbol, the workload and its candidate.
            cache_dir, progress: as for `build`.
        """
        return {symbol: schedule for symbol, (_, schedule) in chosen.items()}

    def reading_inputs(self, func: PrimFunc, positions: Collection[int]) -> PrimFunc:
        """A scheduled kernel whose parameters at `positions` are the caller's arrays."""
        return func

    # Which of the candidates is fastest.

    @property
    def winners_key(self) -> str:
        """A key of everything about the target that determines which schedule is fast."""
        return self.target.name

    @property
    def shipped_keys(self) -> tuple[str, ...]:
        """Keys of the winners shipped with the package that fit, the target's own first."""
        return (self.winners_key,)

    @property
    def current_workloads(self) -> tuple[str, ...]:
        """Prefixes of the workload keys that this version's templates produce."""
        return ()

    @property
    def can_time(self) -> bool:
        """Whether candidates can be timed on this machine."""
        return False

    def trials(self) -> Trials:
        """Begin to time the candidates of a workload. Requires `can_time`."""
        raise NotImplementedError(f"{type(self).__name__} times no candidates")

    # How fast the hardware is at best.

    def probes(self, threads: int) -> Machine | None:
        """Probes of this machine that run the target's instructions on `threads` threads; None where it cannot."""
        return None

    def machine_rates(self, threads: int) -> MachineRates | None:
        """Measure what this machine can do with the target's instructions, in some seconds; None where nothing does."""
        return None

    def fp32_peak_gflops(self, threads: int) -> float:
        """The highest fp32 rate of this machine with the target's instructions. Requires `can_time`."""
        raise NotImplementedError(f"{type(self).__name__} measures no peak")

    # Code for the device.

    def build_program(
        self,
        pieces: Sequence[Piece],
        control: Sequence[Control],
        main: str,
        cache_dir: Path | None,
        progress: Progress,
    ) -> ProgramLibrary:
        """The code of lowered pieces and the control flow between them; `main` names the model's own.

        Raises:
            KernelUnsupported: this back end compiles models of static shapes without control flow only.
        """
        raise KernelUnsupported(
            f"{self.target.name} runs no control flow, and no sizes known only at run time"
        )

    def begin(self, kernel: PrimFunc, cache_dir: Path | None) -> None:  # noqa: B027 - a back end may do nothing
        """Begin to compile a scheduled kernel, which `build` will ask for: meanwhile others are scheduled."""

    def abandon(self) -> None:  # noqa: B027
        """Compile nothing more of what was begun: there will be no `build`."""

    @abstractmethod
    def build(self, mod: tvm.IRModule, cache_dir: Path | None, progress: Progress) -> Library:
        """Machine code of a module of scheduled kernels and of `main`, which takes inputs and weights and calls them.

        Args:
            mod: kernels with their global symbols; weights are parameters of `main` behind its inputs.
            cache_dir: folder for what can be reused by later compiles; None means the user's.
            progress: told about stages.

        Raises:
            KernelUnsupported: the module calls something that the hardware cannot run.
        """

    in_parallel = False
    """Whether `build_functions` takes functions of elements that are computed side by side, and runs them on the
    device (`edgec.compiler.processing.parallel`); else they are loops in order for the device's CPU.
    """

    def build_functions(self, functions: Mapping[str, PrimFunc]) -> bytes | None:
        """A library of plain functions (pre- and postprocessing); None if the device cannot have one."""
        return None

    # Where results run.

    @abstractmethod
    def runner(self) -> Runner:
        """The runner of the target's code: this machine or an emulator.

        Raises:
            ToolMissing: neither is possible here.
        """

    def own_libraries(self, cache_dir: Path | None) -> dict[str, bytes]:
        """The shared libraries of edgec's own that each artifact brings to its device, by file name."""
        return {}

    def emulator(self) -> Runner:
        """An emulator of the target, whatever this machine can run.

        Raises:
            ToolMissing: there is none here.
        """
        raise ToolMissing(f"there is no emulator of {self.target.name}")

    def runtime_libraries(self) -> dict[str, bytes]:
        """The shared libraries that a device needs to run artifacts, by file name.

        Raises:
            ToolMissing: they are not on this machine.
        """
        return {}
