"""The dot instructions of CPUs, as functions that kernels call.

Each takes the sums and the words of both operands (see `edgec.compiler.operands`), a vector register of each. TVM's
bfloat16 type does not reach LLVM (its passes turn it into integers), and its int8 intrinsics pass vectors of another
type than LLVM 22 expects, so the functions are written in LLVM IR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edgec.compiler.backends.cpu import narrow_stores
from edgec.compiler.backends.cpu.dot_sequences import pmaddubsw, pmaddwd, pmaddwd_pairs, smlal, smlal_pairs
from edgec.compiler.operands.operands import ALTERNATIVES, Operands
from edgec.targets.features import (
    ASIMD,
    ASIMDHP,
    AVX2,
    AVX512_BF16,
    AVX512_FP16,
    AVX512_VNNI,
    AVX512BW,
    AVX_VNNI,
    DOTPROD,
    I8MM,
    SSE41,
)
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
        rate: what the `[core.dots]` table of a target calls it, if not by its name.
        share: of a sequence of instructions that computes the same: how many it takes the time of, as a share of
            multiply-adds of floats; 0 of one instruction.
        widens: instructions that widen the activations, and the weights, of a step before they are multiplied.
        temporaries: registers that it needs besides its operands'.
        data_last: whether the instruction takes the word that all lanes share as its last operand.
        body: the function of a sequence, given its name; None of one instruction.
    """

    name: str
    feature: str
    lanes: int
    intrinsic: str
    sums: str
    elements: str
    rate: str = ""
    share: float = 0.0
    widens: tuple[int, int] = (0, 0)
    temporaries: int = 0
    data_last: bool = False
    body: Callable[[str], str] | None = None

    @property
    def function(self) -> str:
        """The function that kernels call."""
        return f"edgec_{self.name}"

    @property
    def code(self) -> str:
        """The function's definition."""
        if self.body is not None:
            return self.body(self.function)
        factors = ("%y", "%x") if self.data_last else ("%x", "%y")
        sums, words, elements = self.sums, f"<{self.lanes} x i32>", self.elements
        return f"""
declare {sums} @{self.intrinsic}({sums}, {elements}, {elements})
define {sums} @{self.function}({sums} %s, {words} %a, {words} %b) alwaysinline nounwind readnone {{
  %x = bitcast {words} %a to {elements}
  %y = bitcast {words} %b to {elements}
  %r = call {sums} @{self.intrinsic}({sums} %s, {elements} {factors[0]}, {elements} {factors[1]})
  ret {sums} %r
}}
"""


def _sequence(name: str, feature: str, lanes: int, body: Callable[[str], str]) -> DotInstruction:
    """A sequence of some four instructions for four products a lane, or half as many for two."""
    if "pairs" in name or "wide" in name:
        widens = (0, 1) if "wide" in name else (0, 0)
        share = 1.0 if "madd" in name else 0.5
        spare = 1 if "madd" in name else 0
        return DotInstruction(
            name, feature, lanes, "", "", "", share=share, widens=widens, temporaries=spare, body=body
        )
    if "maddubsw" in name:  # the sums of pairs, and the ones that add up two of them
        return DotInstruction(name, feature, lanes, "", "", "", share=0.5, temporaries=2, body=body)
    if "madd" in name:
        return DotInstruction(name, feature, lanes, "", "", "", share=0.5, widens=(2, 3), body=body)
    return DotInstruction(name, feature, lanes, "", "", "", share=0.25, body=body)


INSTRUCTIONS = {
    instruction.name: instruction
    for instruction in (
        DotInstruction(
            "vdpbf16ps", AVX512_BF16, 16, "llvm.x86.avx512bf16.dpbf16ps.512", "<16 x float>", "<32 x bfloat>"
        ),
        DotInstruction(
            "vpdpbusd", AVX512_VNNI, 16, "llvm.x86.avx512.vpdpbusd.512", "<16 x i32>", "<64 x i8>"
        ),
        DotInstruction(
            "vpdpbusd_256",
            AVX_VNNI,
            8,
            "llvm.x86.avx512.vpdpbusd.256",
            "<8 x i32>",
            "<32 x i8>",
            rate="vpdpbusd",
        ),
        _sequence("pmaddwd_512", AVX512BW, 16, partial(pmaddwd, lanes=16)),
        _sequence("pmaddwd_256", AVX2, 8, partial(pmaddwd, lanes=8)),
        _sequence("pmaddwd_128", SSE41, 4, partial(pmaddwd, lanes=4)),
        _sequence("pmaddubsw_512", AVX512BW, 16, partial(pmaddubsw, lanes=16)),
        _sequence("pmaddubsw_256", AVX2, 8, partial(pmaddubsw, lanes=8)),
        _sequence("pmaddubsw_128", SSE41, 4, partial(pmaddubsw, lanes=4)),
        _sequence("smlal", ASIMD, 4, smlal),
        _sequence("pmaddwd_pairs_512", AVX512BW, 16, partial(pmaddwd_pairs, lanes=16)),
        _sequence("pmaddwd_pairs_256", AVX2, 8, partial(pmaddwd_pairs, lanes=8)),
        _sequence("pmaddwd_pairs_128", SSE41, 4, partial(pmaddwd_pairs, lanes=4)),
        _sequence("pmaddwd_wide_512", AVX512BW, 16, partial(pmaddwd_pairs, lanes=16)),
        _sequence("pmaddwd_wide_256", AVX2, 8, partial(pmaddwd_pairs, lanes=8)),
        _sequence("pmaddwd_wide_128", SSE41, 4, partial(pmaddwd_pairs, lanes=4)),
        _sequence("smlal_pairs", ASIMD, 4, smlal_pairs),
        DotInstruction(
            "sdot",
            DOTPROD,
            4,
            "llvm.aarch64.neon.sdot.v4i32.v16i8",
            "<4 x i32>",
            "<16 x i8>",
            data_last=True,
        ),
        DotInstruction(
            "smmla",
            I8MM,
            4,
            "llvm.aarch64.neon.smmla.v4i32.v16i8",
            "<4 x i32>",
            "<16 x i8>",
            temporaries=3,
        ),
    )
}


BARRIER = "edgec_apart"
_BARRIER_CODE = f"""
define i32 @{BARRIER}() alwaysinline nounwind {{
  call void asm sideeffect "", "~{{memory}}"()
  ret i32 0
}}
"""
# An index and a vector of sums: the index comes back when the sums are there.
_SUMS = {f"float32x{n}": (f"<{n} x float>", n) for n in (4, 8, 16)} | {
    f"float16x{n}": (f"<{n} x half>", n // 2) for n in (8, 16, 32)
}
AFTER = {dtype: f"edgec_after_{dtype}" for dtype in _SUMS}
# As vectors of float32, because x86-64 without AVX512-FP16 has no registers for halves.
_AFTER_CODE = {
    AFTER[dtype]: f"""
define i64 @{AFTER[dtype]}(i64 %0, {vector} %1) alwaysinline nounwind readnone {{
  %3 = bitcast {vector} %1 to <{floats} x float>
  %4 = call i64 asm "", "=r,0,X"(i64 %0, <{floats} x float> %3)
  ret i64 %4
}}
"""
    for dtype, (vector, floats) in _SUMS.items()
}
ANEW = "edgec_anew"
_ANEW_CODE = f"""
define i64 @{ANEW}(i64 %0) alwaysinline nounwind readnone {{
  %2 = call i64 asm "", "=r,0"(i64 %0)
  ret i64 %2
}}
"""
# The code of each function that kernels call.
FUNCTIONS = {
    BARRIER: _BARRIER_CODE,
    ANEW: _ANEW_CODE,
    **_AFTER_CODE,
    **{i.function: i.code for i in INSTRUCTIONS.values()},
    **narrow_stores.FUNCTIONS,
}


def feature_of(operands: Operands) -> str | None:
    """The extension that a target needs to multiply `operands`; None for ordinary arithmetic."""
    return None if operands.instruction is None else INSTRUCTIONS[operands.instruction].feature


def operands_for(operands: Operands, target: Target) -> Operands:
    """`operands`, or others of the same types, whose instruction `target` has, else their emulated form."""
    if operands.instruction is None:
        return operands
    for one in (operands, *ALTERNATIVES.get(operands, ())):
        instruction = INSTRUCTIONS[one.instruction or ""]
        if instruction.feature in target.features and instruction.lanes == target.fp32_lanes:
            return one
    return operands.emulated


def half_lanes(target: Target) -> int:
    """Elements of a vector of float16 that the target adds and multiplies; 0 where it only converts them."""
    return 2 * target.fp32_lanes if {ASIMDHP, AVX512_FP16} & set(target.features) else 0


def activations_of(target: Target) -> str:
    """The type of 8-bit activations that products with int8 weights take: `uint8` on x86, `int8` on ARM."""
    return "uint8" if target.arch == "x86_64" else "int8"
