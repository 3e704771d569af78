"""What a template is: schedules for the kernels of one specification, and the code of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.targets.target import Target

# Waking the thread pool costs some microseconds: a kernel of fewer operations, or bytes moved, runs on one thread.
PARALLEL_FLOPS = 200_000
# Products of bytes take a sixth of the time of as many operations on floats.
PARALLEL_INTEGER_OPERATIONS = 6 * PARALLEL_FLOPS
PARALLEL_BYTES = 131_072


@dataclass(frozen=True)
class Request:
    """A fused kernel that needs schedules.

    Attributes:
        func: the kernel, not scheduled.
        target: the hardware.
        threads: threads that the kernel runs on.
        error_budget: the largest error that the model's outputs may have, relative to their largest value.
        epilogue: what the kernel does with its anchor's result; None where the template takes no epilogue.
    """

    func: PrimFunc
    target: Target
    threads: int
    error_budget: float
    epilogue: Epilogue | None

    @property
    def fused(self) -> Epilogue:
        """The epilogue, for templates that take one."""
        if self.epilogue is None:
            raise TypeError("a template that takes an epilogue was given a kernel without one")
        return self.epilogue


@dataclass(frozen=True)
class Choice:
    """What a template offers for a kernel.

    Attributes:
        version: of the template; raised by any change that invalidates known winners.
        candidates: schedules, best guess first.
        emit: the kernel of a schedule.
    """

    version: int
    candidates: list[Any]
    emit: Callable[[Any], PrimFunc]


@dataclass(frozen=True)
class Template:
    """A way to make kernels.

    Attributes:
        kind: the operator, in reports and in the keys of tuned kernels.
        versions: every version that a choice of today may have.
        claims: whether it makes the kernels of a specification.
        choose: its schedules for a kernel; None when none fits.
        takes_epilogue: whether element-wise operators behind the anchor are part of the kernel.
    """

    kind: str
    versions: tuple[int, ...]
    claims: Callable[[Any], bool]
    choose: Callable[[Any, Request], Choice | None]
    takes_epilogue: bool = True


def fused_with_epilogue(
    version: int,
    candidates: Callable[[Any, Target, int], list[Any]],
    emit: Callable[[Any, Epilogue, Any, int], PrimFunc],
) -> Callable[[Any, Request], Choice | None]:
    """`Template.choose` from a template's schedules and the code of one; None where there is no schedule."""

    def choose(spec: Any, request: Request) -> Choice | None:  # noqa: ANN401 - each template has its own type
        epilogue, threads = request.fused, request.threads
        found = candidates(spec, request.target, threads)
        return (
            Choice(version, found, lambda schedule: emit(spec, epilogue, schedule, threads))
            if found
            else None
        )

    return choose
