"""The dot instructions of CPUs, as functions that kernels call.

Each takes the sums and the words of both operands (see `edgec.compiler.operands`), a vector register of each. TVM's
bfloat16 type does not reach LLVM (its passes turn it into integers), and its int8 intrinsics pass vectors of another
type than LLVM 22 expects, so the functions are written in LLVM IR.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.compiler.operands.operands import Operands
from edgec.targets.features import AVX512_BF16, AVX512_VNNI, DOTPROD
from edgec.targets.target import Target


@dataclass(frozen=True)
class DotInstruction:
    """A dot instruction.

    Attributes:
        name: as `Operands.instruction` and the `[core.dots]` table of a target name it.
        feature: the extension that a target needs for it.
        lanes: sums of a vector register.
        intrinsic: LLVM's name.
        sums: LLVM's type of a vector of sums.
        elements: LLVM's type of a vector of elements.
    """

    name: str
    feature: str
    lanes: int
    intrinsic: str
    sums: str
    elements: str

    @property
    def function(self) -> str:
        """The function that kernels call."""
        return f"edgec_{self.name}"

    @property
    def code(self) -> str:
        """The function's definition."""
        sums, words, elements = self.sums, f"<{self.lanes} x i32>", self.elements
        return f"""
declare {sums} @{self.intrinsic}({sums}, {elements}, {elements})
define {sums} @{self.function}({sums} %s, {words} %a, {words} %b) alwaysinline nounwind readnone {{
  %x = bitcast {words} %a to {elements}
  %y = bitcast {words} %b to {elements}
  %r = call {sums} @{self.intrinsic}({sums} %s, {elements} %x, {elements} %y)
  ret {sums} %r
}}
"""


INSTRUCTIONS = {
    instruction.name: instruction
    for instruction in (
        DotInstruction(
            "vdpbf16ps", AVX512_BF16, 16, "llvm.x86.avx512bf16.dpbf16ps.512", "<16 x float>", "<32 x bfloat>"
        ),
        DotInstruction(
            "vpdpbusd", AVX512_VNNI, 16, "llvm.x86.avx512.vpdpbusd.512", "<16 x i32>", "<64 x i8>"
        ),
        DotInstruction("sdot", DOTPROD, 4, "llvm.aarch64.neon.sdot.v4i32.v16i8", "<4 x i32>", "<16 x i8>"),
    )
}


BARRIER = "edgec_apart"
_BARRIER_CODE = f"""
define i32 @{BARRIER}() alwaysinline nounwind {{
  call void asm sideeffect "", "~{{memory}}"()
  ret i32 0
}}
"""
# The code of each function that kernels call.
FUNCTIONS = {BARRIER: _BARRIER_CODE, **{i.function: i.code for i in INSTRUCTIONS.values()}}


def feature_of(operands: Operands) -> str | None:
    """The extension that a target needs to multiply `operands`; None for ordinary arithmetic."""
    return None if operands.instruction is None else INSTRUCTIONS[operands.instruction].feature


def operands_for(operands: Operands, target: Target) -> Operands:
    """`operands` where `target` has their instruction, else their emulated form."""
    if operands.instruction is None:
        return operands
    instruction = INSTRUCTIONS[operands.instruction]
    native = instruction.feature in target.features and instruction.lanes == target.fp32_lanes
    return operands if native else operands.emulated


def activations_of(target: Target) -> str:
    """The type of 8-bit activations that products with int8 weights take: `uint8` on x86, `int8` on ARM."""
    return "uint8" if target.arch == "x86_64" else "int8"
