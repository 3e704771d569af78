"""Cycles of inner loops by llvm-mca, for cores that are not at hand."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from edgec.benchmarks.arm.loops import Loop, tool

CORES = ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "neoverse-n1")
ROUNDS = 100
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Throughput:
    """What llvm-mca says of a loop on a core: caches never miss, branches are always right."""

    core: str
    cycles: float
    products: int

    @property
    def products_per_cycle(self) -> float:
        """Multiply-adds a cycle."""
        return self.products / self.cycles


def cycles(assembly: str, core: str) -> float | None:
    """Cycles of a round of a loop's `assembly`; None where this llvm-mca has no model of the core, or an instruction.

    Raises:
        NoTool: llvm-mca is not installed.
    """
    command = [tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ROUNDS}"]
    command += ["-instruction-info=false", "-resource-pressure=false", "-mattr=+fullfp16,+dotprod,+i8mm"]
    done = subprocess.run(command, input=assembly, capture_output=True, text=True, check=False)
    found = _CYCLES.search(done.stdout)
    return int(found[1]) / ROUNDS if found and not done.returncode else None


def throughput(loop: Loop, core: str) -> Throughput | None:
    """Cycles and multiply-adds of a loop on a core."""
    found = cycles(loop.assembly, core)
    return None if found is None else Throughput(core, found, loop.products)
