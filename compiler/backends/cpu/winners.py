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


def cache_key(target: Target) -> str:
    """A key of everything about a target that determines which schedule is fast."""
    present = "-".join(sorted(target.features & _DECIDING))
    cpu = target.tvm.get("mcpu", "generic")
    return f"{target.arch}-{cpu}-v{target.vector_bits}x{target.vector_registers}-{present}"


def shipped_key(target: Target) -> str:
    """A key of the targets that share shipped winners: same microarchitecture, same registers."""
    core = target.core.winners or target.core.microarchitecture
    return f"{target.arch}-{core}-v{target.vector_bits}x{target.vector_registers}"
