"""Products of any operands, for the templates: what a step loads, and the sum of its products.

Operands with a dot instruction need one call per step; for others, the elements are extracted from the words, widened,
and multiplied one by one. The results are the same except for the order in which the products of a step are added, and
for numbers below 2**-126, which `vdpbf16ps` flushes to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx import Buffer, Stmt

from edgec.compiler.backends.cpu.dot_instructions import AFTER, ANEW, BARRIER, INSTRUCTIONS
from edgec.compiler.backends.cpu.templates.loop_nests import INDEX, Expr, Index, const, index, vector_load
from edgec.compiler.operands.operands import FLOAT16, Operands

WORD = "int32"


def data(operands: Operands, buffer: Buffer, outer: Sequence[Index], step: Index) -> Expr:
    """What step number `step` of the last axis reads of the activations: an element, or a word of several."""
    if operands.step == 1:
        return buffer[*outer, step]
    first = index(step) * const(operands.step)
    place = [*(index(i) for i in outer), first]
    return tirx.reinterpret(WORD, buffer.vload(place, f"{operands.data}x{operands.step}"))


def weights(operands: Operands, buffer: Buffer, place: Sequence[Index], lanes: int) -> Expr:
    """A step of the weights for all lanes; `place` is that of the first lane."""
    if operands.step == 1:
        return vector_load(buffer, place, lanes)
    first = [*(index(i) for i in place), const(0)]
    vector = buffer.vload(first, f"{operands.weight}x{operands.step * lanes}")
    if operands.multiplied_weight is not None:
        vector = vector.astype(f"{operands.multiplied_weight}x{operands.step * lanes}")
    return tirx.reinterpret(f"{WORD}x{lanes}", vector)


def multiply_add(operands: Operands, sums: Expr, left: Expr, right: Expr, lanes: int) -> Expr:
    """`sums` plus the products of a step, lane by lane; `left` is of the activations, in every lane."""
    if operands == FLOAT16:  # of halves, in chunks: see `half_sums`
        return sums + left * right
    if operands.instruction is not None:
        function = INSTRUCTIONS[operands.instruction].function
        return tirx.call_pure_extern(f"{operands.accumulator}x{lanes}", function, sums, left, right)
    for number in range(operands.step):
        first = _element(operands, operands.data, left, number, lanes)
        sums = sums + first * _element(operands, operands.weight, right, number, lanes)
    return sums


def _element(operands: Operands, dtype: str, step: Expr, number: int, lanes: int) -> Expr:
    """Element `number` of the steps of a vector, in the type of the sums."""
    wide = f"{operands.accumulator}x{lanes}"
    if operands.step == 1:
        return step if dtype == operands.accumulator else step.astype(wide)

    def word(value: int) -> Expr:
        return tirx.Broadcast(tirx.IntImm(WORD, value), lanes)

    if dtype == "bfloat16":  # the upper half of a float32
        bits = step << word(16) if number == 0 else step & word(-65536)
        return tirx.reinterpret(wide, bits)
    bits = 32 // operands.step
    above = bits * (operands.step - 1 - number)  # bits of the word beyond the element
    if dtype == "uint8":
        return (step >> word(8 * number)) & word(255)
    return (step << word(above)) >> word(bits * (operands.step - 1))  # copies of the sign fill up


def apart() -> Stmt:
    """Between taps: nothing that was read before is kept for what follows.

    A tap of a block of channels is a few steps of 8-bit integers. LLVM unrolls them, and would keep the inputs that
    neighbouring taps share in registers, and spill the accumulators for them.
    """
    return tirx.Evaluate(tirx.call_extern(WORD, BARRIER))


def anew(value: Expr) -> Expr:
    """An index of which LLVM does not know how it was computed: what is read from there has an address of its own."""
    return tirx.call_pure_extern(INDEX, ANEW, value)


def after(sums: Expr, place: Expr) -> Expr:
    """An index of which LLVM does not know how it was computed, nor that it is needed before some sums are there.

    What is read around it lies at fixed distances; nothing of it is recognised as read before, nor read early.
    """
    return tirx.call_pure_extern(INDEX, AFTER[str(sums.ty.dtype)], place, sums)


__all__ = ["after", "anew", "apart", "data", "multiply_add", "weights"]
