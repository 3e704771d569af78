"""Products of 8-bit integers on processors without a dot instruction, as LLVM IR: exact in every bit.

`pmaddubsw`, which other runtimes use on AVX2, adds two products of uint8 and int8 in 16 bits and saturates. It serves
where the weights show that no sum of two products can leave 16 bits. Elsewhere both operands are widened to 16 bits
first, even and odd elements apart, and `pmaddwd` adds their products in 32 bits.
NEON multiplies int16 by one element of another vector into int32: the weights of a step lie row by row for it.
"""

from __future__ import annotations


def pmaddwd(function: str, lanes: int) -> str:
    """Sums plus the products of words of four uint8 and words of four int8, lane by lane."""
    words, halves = f"<{lanes} x i32>", f"<{2 * lanes} x i16>"
    eight, low = (f"splat (i16 {value})" for value in (8, 255))
    return f"""
define {words} @{function}({words} %s, {words} %a, {words} %b) alwaysinline nounwind readnone {{
  %x = bitcast {words} %a to {halves}
  %y = bitcast {words} %b to {halves}
  %xe = and {halves} %x, {low}
  %xo = lshr {halves} %x, {eight}
  %yl = shl {halves} %y, {eight}
  %ye = ashr {halves} %yl, {eight}
  %yo = ashr {halves} %y, {eight}
{_added("%even", "%s", "%xe", "%ye", lanes)}
{_added("%odd", "%even", "%xo", "%yo", lanes)}
  ret {words} %odd
}}
"""


def pmaddubsw(function: str, lanes: int) -> str:
    """Sums plus the products of words of four uint8 and words of four int8, two of which add up in 16 bits.

    One piece of assembly, for the reason that `_added` gives.
    """
    words, halves = f"<{lanes} x i32>", f"<{2 * lanes} x i16>"
    code = "vpmaddubsw $3, $2, $1\\0Avpmaddwd $4, $1, $1\\0Avpaddd $1, $5, $0"
    if lanes == 4:
        code = "movdqa $2, $1\\0Apmaddubsw $3, $1\\0Apmaddwd $4, $1\\0Apaddd $1, $0"
    both, register = f"{{{words}, {words}}}", "v" if lanes == 16 else "x"
    places = f"={register},=&{register},{register},{register},{register},0"
    operands = f"{words} %a, {words} %b, {halves} splat (i16 1), {words} %s"
    return f"""
define {words} @{function}({words} %s, {words} %a, {words} %b) alwaysinline nounwind readnone {{
  %both = call {both} asm sideeffect "{code}", "{places}"({operands}) nounwind memory(none)
  %r = extractvalue {both} %both, 0
  ret {words} %r
}}
"""


def pmaddwd_pairs(function: str, lanes: int) -> str:
    """Sums plus the products of pairs of int16, lane by lane."""
    words, halves = f"<{lanes} x i32>", f"<{2 * lanes} x i16>"
    return f"""
define {words} @{function}({words} %s, {words} %a, {words} %b) alwaysinline nounwind readnone {{
  %x = bitcast {words} %a to {halves}
  %y = bitcast {words} %b to {halves}
{_added("%r", "%s", "%x", "%y", lanes)}
  ret {words} %r
}}
"""


def _added(name: str, sums: str, left: str, right: str, lanes: int) -> str:
    """Lines that define `name`: `sums` plus the products of pairs of int16.

    The two instructions are one piece of assembly. LLVM would add the products of several steps first, since sums of
    integers may be taken in any order, and moves accumulators to memory to make room for those.
    """
    words, halves = f"<{lanes} x i32>", f"<{2 * lanes} x i16>"
    code = "vpmaddwd $3, $2, $1\\0Avpaddd $1, $4, $0"
    if lanes == 4:
        code = "movdqa $2, $1\\0Apmaddwd $3, $1\\0Apaddd $1, $0"
    both, register = f"{{{words}, {words}}}", "v" if lanes == 16 else "x"
    places = f"={register},=&{register},{register},{register},0"
    operands = f"{halves} {left}, {halves} {right}, {words} {sums}"
    return f"""  {name}.both = call {both} asm sideeffect "{code}", "{places}"({operands}) nounwind memory(none)
  {name} = extractvalue {both} {name}.both, 0"""


def smlal(function: str) -> str:
    """Sums plus the products of a word of four int8, in all lanes, and four rows of four int8."""
    steps = []
    for k in range(4):
        half = "%y" if k < 2 else "%z"
        row = ", ".join(f"i32 {4 * (k % 2) + lane}" for lane in range(4))
        single = ", ".join([f"i32 {k}"] * 4)
        steps.append(f"""
  %w{k} = shufflevector <8 x i16> {half}, <8 x i16> poison, <4 x i32> <{row}>
  %a{k} = shufflevector <4 x i16> %x, <4 x i16> poison, <4 x i32> <{single}>
  %p{k} = call <4 x i32> @llvm.aarch64.neon.smull.v4i32(<4 x i16> %w{k}, <4 x i16> %a{k})
  %s{k + 1} = add <4 x i32> %s{k}, %p{k}""")
    return f"""
declare <4 x i32> @llvm.aarch64.neon.smull.v4i32(<4 x i16>, <4 x i16>)
define <4 x i32> @{function}(<4 x i32> %s0, <4 x i32> %a, <4 x i32> %b) alwaysinline nounwind readnone {{
  %bytes = bitcast <4 x i32> %a to <16 x i8>
  %first = shufflevector <16 x i8> %bytes, <16 x i8> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %x = sext <4 x i8> %first to <4 x i16>
  %rows = bitcast <4 x i32> %b to <16 x i8>
  %low = shufflevector <16 x i8> %rows, <16 x i8> poison, <8 x i32> <{_indices(0)}>
  %high = shufflevector <16 x i8> %rows, <16 x i8> poison, <8 x i32> <{_indices(8)}>
  %y = sext <8 x i8> %low to <8 x i16>
  %z = sext <8 x i8> %high to <8 x i16>{"".join(steps)}
  ret <4 x i32> %s4
}}
"""


def smlal_pairs(function: str) -> str:
    """Sums plus the products of a pair of int16, in all lanes, and two rows of four int16."""
    steps = []
    for k in range(2):
        row = ", ".join(f"i32 {4 * k + lane}" for lane in range(4))
        single = ", ".join([f"i32 {k}"] * 4)
        steps.append(f"""
  %w{k} = shufflevector <8 x i16> %y, <8 x i16> poison, <4 x i32> <{row}>
  %a{k} = shufflevector <8 x i16> %x, <8 x i16> poison, <4 x i32> <{single}>
  %p{k} = call <4 x i32> @llvm.aarch64.neon.smull.v4i32(<4 x i16> %w{k}, <4 x i16> %a{k})
  %s{k + 1} = add <4 x i32> %s{k}, %p{k}""")
    return f"""
declare <4 x i32> @llvm.aarch64.neon.smull.v4i32(<4 x i16>, <4 x i16>)
define <4 x i32> @{function}(<4 x i32> %s0, <4 x i32> %a, <4 x i32> %b) alwaysinline nounwind readnone {{
  %x = bitcast <4 x i32> %a to <8 x i16>
  %y = bitcast <4 x i32> %b to <8 x i16>{"".join(steps)}
  ret <4 x i32> %s2
}}
"""


def _indices(first: int) -> str:
    return ", ".join(f"i32 {i}" for i in range(first, first + 8))
