"""The inner loops of compiled code for 64-bit ARM: what they execute, beside the least that the arithmetic needs.

A loop is a backward branch and what lies between it and its target, without another one inside. Of a function, the loop
with the most multiply-adds counts: it does the work, the others its edges.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgec.targets.errors import EdgecError

NEWEST, OLDEST = 40, 14  # versions of LLVM to look for
_FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*(?://.*)?$")
_TARGET = re.compile(r"0x([0-9a-f]+)\s+<")
# Multiply-adds of an instruction by its name and the arrangement of its first operand.
_PRODUCTS = {
    ("fmla", "4s"): 4, ("fmla", "2s"): 2, ("fmla", "8h"): 8, ("fmla", "4h"): 4, ("fmla", "2d"): 2,
    ("sdot", "4s"): 16, ("udot", "4s"): 16, ("usdot", "4s"): 16, ("sdot", "2s"): 8,
    ("smmla", "4s"): 32, ("ummla", "4s"): 32, ("usmmla", "4s"): 32,
    ("smlal", "4s"): 4, ("smlal2", "4s"): 4, ("smlal", "8h"): 8, ("smlal2", "8h"): 8, ("mla", "8h"): 8,
    ("mla", "4s"): 4,
}  # fmt: skip
_SCALAR = {"fmadd": 1, "fmsub": 1, "fnmadd": 1, "fnmsub": 1}


class NoTool(EdgecError):
    """A program of LLVM's that this needs is not installed."""


def tool(name: str) -> str:
    """The newest version of one of LLVM's programs.

    Raises:
        NoTool: there is none.
    """
    for version in range(NEWEST, OLDEST - 1, -1):
        if found := shutil.which(f"{name}-{version}"):
            return found
    if found := shutil.which(name):
        return found
    raise NoTool(
        f"{name} is not installed: apt-get install llvm (the newest that `apt-cache search '^llvm-[0-9]+$'` lists)"
    )


@dataclass(frozen=True)
class Instruction:
    """An instruction: address, name and operands as LLVM writes them."""

    address: int
    name: str
    operands: str

    @property
    def products(self) -> int:
        """Multiply-adds that it does."""
        arrangement = re.match(r"v\d+\.(\d+[bhsd])", self.operands)
        if arrangement is None:
            return _SCALAR.get(self.name, 0)
        return _PRODUCTS.get((self.name, arrangement[1]), 0)

    @property
    def loads(self) -> bool:
        """Whether it reads memory."""
        return self.name.startswith(("ld", "ldr", "ldp", "ldur"))

    @property
    def spills(self) -> bool:
        """Whether it reads or writes a vector register on the stack."""
        return bool(re.match(r"(ldr|str|ldp|stp|ldur|stur)$", self.name)) and bool(
            re.search(r"^[qd]\d+.*\[sp", self.operands)
        )

    @property
    def jumps_to(self) -> int | None:
        """The address of a branch's target; None for another instruction."""
        if not (self.name.startswith(("b.", "cbz", "cbnz", "tbz", "tbnz")) or self.name == "b"):
            return None
        found = _TARGET.search(self.operands)
        return int(found[1], 16) if found else None


@dataclass(frozen=True)
class Loop:
    """An inner loop of a function."""

    function: str
    instructions: tuple[Instruction, ...]

    @property
    def products(self) -> int:
        """Multiply-adds of a round."""
        return sum(one.products for one in self.instructions)

    @property
    def loads(self) -> int:
        """Loads of a round."""
        return sum(one.loads for one in self.instructions)

    @property
    def spills(self) -> int:
        """Vector registers read from or written to the stack in a round."""
        return sum(one.spills for one in self.instructions)

    @property
    def multiplying(self) -> int:
        """Instructions of a round that multiply."""
        return sum(one.products > 0 for one in self.instructions)

    @property
    def least(self) -> float:
        """The fewest instructions for its multiply-adds: the multiplying ones, and the loads of the best tile."""
        return self.multiplying * (1 + best_loads_per_product())

    @property
    def assembly(self) -> str:
        """The round without its branch, for llvm-mca."""
        return "\n".join(f"{one.name} {one.operands}" for one in self.instructions if one.jumps_to is None)


def best_loads_per_product(registers: int = 32, lanes: int = 4) -> float:
    """Loads for each multiplying instruction of the best register tile.

    A tile of `rows` × `columns` accumulators takes, for each element of the reduced axis, a vector of weights for each
    of its columns and an element for each of its rows; of those a vector holds `lanes`.
    """
    best = 1.0
    for rows in range(1, registers):
        for columns in range(1, registers):
            if rows * columns + columns + -(-rows // lanes) <= registers:
                best = min(best, (columns + rows / lanes) / (rows * columns))
    return best


def disassemble(code: bytes) -> Iterator[tuple[str, list[Instruction]]]:
    """The functions of a shared library with their instructions.

    Raises:
        NoTool: llvm-objdump is not installed.
    """
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(code)
        file.flush()
        command = [tool("llvm-objdump"), "-d", "--no-show-raw-insn", "--mattr=+all", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name, found = "", list[Instruction]()
    for line in text.splitlines():
        if begin := _FUNCTION.match(line):
            if found:
                yield name, found
            name, found = begin[1], []
        elif match := _INSTRUCTION.match(line):
            found.append(Instruction(int(match[1], 16), match[2], match[3].replace("\t", " ")))
    if found:
        yield name, found


def inner_loops(function: str, instructions: list[Instruction]) -> list[Loop]:
    """The innermost loops of a function."""
    index = {one.address: number for number, one in enumerate(instructions)}
    spans = [
        (index[target], number)
        for number, one in enumerate(instructions)
        if (target := one.jumps_to) is not None and target in index and index[target] <= number
    ]
    inner = [
        (first, last)
        for first, last in spans
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans)
    ]
    return [Loop(function, tuple(instructions[first : last + 1])) for first, last in inner]


def main_loops(code: bytes) -> list[Loop]:
    """Of each function that multiplies in a loop, the loop with the most multiply-adds."""
    found = []
    for function, instructions in disassemble(code):
        loops = [loop for loop in inner_loops(function, instructions) if loop.products >= 4]
        if loops:
            found.append(max(loops, key=lambda loop: loop.products))
    return found


def code_of(artifact: Path) -> bytes:
    """The machine code in an artifact."""
    import edgec.runtime as rt
    from edgec.runtime.artifact import oci

    opened = rt.Artifact.open(artifact)
    layer = opened.layer(oci.CODE_TYPE)
    if layer is None:
        raise EdgecError(f"{artifact}: holds no code for a processor")
    return opened.read(layer)
