"""What a C library of a model cannot hold: what would run in Python or in TVM's runtime."""

from __future__ import annotations

from collections.abc import Iterable

from edgec.compiler.c_library.machine import NotRunnable, machine_of
from edgec.compiler.c_library.objects import defined, undefined
from edgec.compiler.errors import CompilerError
from edgec.compiler.frontends.source import SourceNode
from edgec.compiler.lowered import Lowered
from edgec.targets.target import Target

_ARTIFACT = "compile it as an artifact (without --format c)"


class NoCLibrary(CompilerError):
    """A model that needs more than a C library has; the message says what."""


def check_c_library(lowered: Lowered, target: Target, nodes: Iterable[SourceNode] = ()) -> None:
    """Check that a model can be a C library.

    Args:
        lowered: the model.
        target: the hardware.
        nodes: of the source model, to name those that the library cannot run.

    Raises:
        NoCLibrary: it cannot; the message says why.
    """
    if target.device_kind != "cpu":
        raise NoCLibrary(
            f"a C library runs on processors, and {target.name} is a {target.device_kind} device: {_ARTIFACT}"
        )
    if lowered.calls:
        raise NoCLibrary(
            f"a C library has no sequences of tensors whose length is known only at run time, as {_collecting(nodes)} "
            f"may make: {_ARTIFACT} and run that with edgec in Python"
        )
    if lowered.varies:
        try:
            machine_of(lowered.code)
        except NotRunnable as error:
            raise NoCLibrary(f"this model needs {error}, which a C library lacks: {_ARTIFACT}") from error
    elif lowered.plan is None or lowered.plan.program is None:
        raise NoCLibrary(f"this model calls more than kernels, which a C library cannot: {_ARTIFACT}")


def _collecting(nodes: Iterable[SourceNode]) -> str:
    """The nodes that may make sequences: loops that collect rows, and operators on sequences."""
    found = [
        f"{node.label!r} ({node.op_type})"
        for node in nodes
        if node.op_type in ("Loop", "Scan") or "Sequence" in node.op_type
    ]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "") or "loops"


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
        NoCLibrary: one does; the message names the function.
    """
    for content in objects:
        names = {
            name for name in (*defined(content), *undefined(content)) if name.lstrip("_").startswith("TVM")
        }
        if missing := sorted(names - _OFFERED):
            raise NoCLibrary(f"a kernel of this model calls TVM's {missing[0].lstrip('_')}: {_ARTIFACT}")
