"""Products of bfloat16 pairs with float32 sums, as the templates write them.

A pair is two neighbours along the reduced axis, seen as one int32: activations hold neighbouring channels side by side,
weights are packed ``[…, lanes, 2]``. `NATIVE` becomes ``vdpbf16ps``; `EMULATED` computes the same products with float32
arithmetic on any machine (the order in which a pair's two products are added may differ, and numbers below 2**-126 are
kept where the instruction takes them for zero).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx import Buffer

from edgec.compiler.backends.cpu.codegen import BF16_DOT
from edgec.compiler.backends.cpu.templates.emit import Expr, Index, index
from edgec.targets.features import AVX512_BF16

PLAIN, NATIVE, EMULATED = "float32", "bfloat16", "bfloat16-emulated"
NATIVE_LANES = 16
FEATURE = AVX512_BF16


def pair(buffer: Buffer, indices: Sequence[Index]) -> Expr:
    """The two elements of `buffer` from `indices` on, as an int32."""
    return tirx.reinterpret("int32", buffer.vload([index(i) for i in indices], "bfloat16x2"))


def pairs(buffer: Buffer, indices: Sequence[Index], lanes: int) -> Expr:
    """`lanes` pairs of `buffer` from `indices` on, as int32."""
    vector = buffer.vload([index(i) for i in indices], f"bfloat16x{2 * lanes}")
    return tirx.reinterpret(f"int32x{lanes}", vector)


def dot(operands: str, sums: Expr, left: Expr, right: Expr, lanes: int) -> Expr:
    """`sums` plus the products of the pairs in `left` with those in `right`, lane by lane."""
    if operands == NATIVE:
        return tirx.call_pure_extern(f"float32x{lanes}", BF16_DOT, sums, left, right)
    shift = tirx.Broadcast(tirx.IntImm("int32", 16), lanes)
    mask = tirx.Broadcast(tirx.IntImm("int32", -65536), lanes)

    def low(vector: Expr) -> Expr:
        return tirx.reinterpret(f"float32x{lanes}", vector << shift)

    def high(vector: Expr) -> Expr:
        return tirx.reinterpret(f"float32x{lanes}", vector & mask)

    return sums + low(left) * low(right) + high(left) * high(right)
