"""Whether a model is a sequence of kernels, which is what a library without a virtual machine can run."""

from __future__ import annotations

from collections.abc import Iterable

from edgec.compiler.c_library.objects import defined, undefined
from edgec.compiler.errors import CompilerError
from edgec.compiler.lowered import Lowered
from edgec.targets.target import Target

_ARTIFACT = "compile it as an artifact (without --format c)"


class NotStraight(CompilerError):
    """A model that is more than a sequence of kernels; the message says what else it needs."""


def check_straight(lowered: Lowered, target: Target) -> None:
    """Check that a model can be a C library.

    Raises:
        NotStraight: it cannot; the message says why.
    """
    if target.device_kind != "cpu":
        raise NotStraight(
            f"a C library runs on processors, and {target.name} is a {target.device_kind} device: {_ARTIFACT}"
        )
    if lowered.varies:
        raise NotStraight(
            "a C library of one model is a sequence of kernels, and this model has branches, loops or sizes known only "
            "at run time: give its inputs fixed sizes with --input, or compile it as an artifact (without --format c) "
            "and run that with libedgec"
        )
    if lowered.plan is None or lowered.plan.program is None:
        raise NotStraight(f"this model calls more than kernels, which a C library cannot: {_ARTIFACT}")


# Of TVM's runtime, what the C library has, too: runtime/c/kernels_abi.c.
_OFFERED = frozenset(
    {
        "TVMFFIErrorSetRaisedFromCStrParts",
        "__TVMBackendParallelLaunch",
        "__TVMBackendAllocWorkspace",
        "__TVMBackendFreeWorkspace",
    }
)


def check_kernels(objects: Iterable[bytes]) -> None:
    """Check that kernels call nothing of TVM's runtime that the C library lacks.

    Raises:
        NotStraight: one does; the message names the function.
    """
    for content in objects:
        names = {
            name for name in (*defined(content), *undefined(content)) if name.lstrip("_").startswith("TVM")
        }
        if missing := sorted(names - _OFFERED):
            raise NotStraight(f"a kernel of this model calls TVM's {missing[0].lstrip('_')}: {_ARTIFACT}")
