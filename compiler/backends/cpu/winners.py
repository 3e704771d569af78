"""Cache keys of tuning winners: which targets and template versions share them."""

from __future__ import annotations

from edgec.compiler.backends.cpu.dot_instructions import INSTRUCTIONS
from edgec.compiler.backends.cpu.templates.workloads import TEMPLATES
from edgec.targets.features import AVX2, AVX512F
from edgec.targets.target import Target

# What the keys begin with of workloads that today's templates make.
CURRENT = tuple(f"{template.kind}.v{version}|" for template in TEMPLATES for version in template.versions)

# Features that decide which schedule is fast.
_DECIDING = {AVX2, AVX512F, *(instruction.feature for instruction in INSTRUCTIONS.values())}


def cache_key(target: Target, timed: str) -> str:
    """A key of everything about a target that determines which schedule is fast.

    Args:
        timed: the microarchitecture on which its candidates are timed: a folder may serve several machines.
    """
    present = "-".join(sorted(target.features & _DECIDING))
    cpu = target.tvm.get("mcpu", "generic")
    return f"{target.arch}-{cpu}-{timed}-v{target.vector_bits}x{target.vector_registers}-{present}"


def shipped_key(target: Target, core: str) -> str:
    """A key of the targets that share shipped winners: same microarchitecture, same registers."""
    return f"{target.arch}-{core}-v{target.vector_bits}x{target.vector_registers}"


def shipped_keys(target: Target) -> tuple[str, ...]:
    """The keys to look for: the core's own winners, then those that it borrows."""
    cores = dict.fromkeys(core for core in (target.core.microarchitecture, target.core.winners) if core)
    return tuple(shipped_key(target, core) for core in cores)
