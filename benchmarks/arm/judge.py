"""The inner loops of compiled artifacts: instructions and loads per multiply-add, and llvm-mca's throughput.

python -m edgec.benchmarks.arm.judge ARTIFACT… [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgec.benchmarks.arm.loops import Loop, best_loads_per_product, code_of, main_loops
from edgec.benchmarks.arm.throughput import CORES, throughput


@dataclass(frozen=True)
class Judged:
    """A loop in figures.

    Attributes:
        function: the kernel.
        products: multiply-adds of a round.
        instructions_per_product: instructions for each instruction that multiplies; 1 is the limit of the unit.
        loads_per_product: loads for each instruction that multiplies.
        least: instructions for each that multiplies, of the best tile.
        spills: accesses to vector registers on the stack in a round.
        per_cycle: multiply-adds a cycle, by core.
    """

    function: str
    products: int
    instructions_per_product: float
    loads_per_product: float
    least: float
    spills: int
    per_cycle: dict[str, float]


def judge(loop: Loop, cores: Sequence[str]) -> Judged:
    """The figures of a loop."""
    found = {core: throughput(loop, core) for core in cores}
    return Judged(
        loop.function.removeprefix("__tvm_ffi_"),
        loop.products,
        len(loop.instructions) / loop.multiplying,
        loop.loads / loop.multiplying,
        1 + best_loads_per_product(),
        loop.spills,
        {core: one.products_per_cycle for core, one in found.items() if one is not None},
    )


def main() -> None:
    """Print a table for each artifact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    told = {}
    for artifact in arguments.artifacts:
        loops = sorted(main_loops(code_of(artifact)), key=lambda loop: loop.function)
        judged = [judge(loop, CORES) for loop in loops]
        told[artifact.name] = [asdict(one) for one in judged]
        if arguments.json:
            continue
        sys.stdout.write(
            f"{artifact.name}: for each multiplying instruction (best tile: {1 + best_loads_per_product():.2f})\n"
        )
        head = f"{'kernel':<36} {'round':>6} {'instr.':>6} {'loads':>6} {'spills':>6}"
        sys.stdout.write(
            head
            + "".join(f" {core.removeprefix('cortex-').removeprefix('neoverse-'):>6}" for core in CORES)
            + "\n"
        )
        for one in judged:
            rates = "".join(f" {one.per_cycle.get(core, float('nan')):6.2f}" for core in CORES)
            shares = f"{one.instructions_per_product:6.2f} {one.loads_per_product:6.2f}"
            sys.stdout.write(f"{one.function[:36]:<36} {one.products:>6} {shares} {one.spills:>6}{rates}\n")
    if arguments.json:
        json.dump(told, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
