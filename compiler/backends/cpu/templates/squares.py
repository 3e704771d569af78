"""Products of squares: instructions that multiply two rows of two steps by two columns (`smmla`), for the templates.

A vector holds two steps of two rows (pixels, or rows of a matrix), the weights' vectors those of two lanes. So of a
pair of rows and a block of four lanes, one register of sums belongs to the first two lanes of both rows, the other to
the last two, until `settle` gives each row its own. A row without a partner is multiplied by a dot instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx import Buffer, Stmt

from edgec.compiler.backends.cpu.dot_instructions import INSTRUCTIONS
from edgec.compiler.backends.cpu.templates import dot
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    Index,
    broadcast,
    index,
    seq,
    shuffled,
)
from edgec.compiler.operands.operands import INT8, INT8_SQUARES

LANES, STEP, DEPTH = 4, INT8_SQUARES.step, INT8_SQUARES.depth
_VECTOR = f"{dot.WORD}x{LANES}"

Places = Sequence[tuple[Index, Index]]  # registers of sums of two rows, of each block
Halves = Callable[[int], tuple[Expr, Expr]]  # the weights of a block: of its first two lanes, of its last two


def words(buffer: Buffer, place: Sequence[Index], count: int) -> Expr:
    """`count` words of 8-bit integers from `place` on."""
    vector = buffer.vload([index(i) for i in place], f"int8x{STEP * count}")
    return tirx.reinterpret(f"{dot.WORD}x{count}", vector)


def halves(weight: Buffer, place: Sequence[Index]) -> tuple[Expr, Expr]:
    """Two steps of the weights: of the first two lanes, and of the last two; `place` is that of the first lane."""
    *outer, lane, element = place
    first, second = ([*outer, index(lane) + index(at), element] for at in (0, 2))
    return words(weight, first, LANES), words(weight, second, LANES)


def multiply_pair(acc: Accumulators, places: Places, rows: Expr, weights: Halves) -> Stmt:
    """Add the products of two rows, for each block."""
    pair = tirx.Var("pair", _VECTOR)
    steps = [tirx.Bind(pair, rows)]
    for block, registers in enumerate(places):
        for register, half in zip(registers, weights(block), strict=True):
            made = _called(INT8_SQUARES.instruction, acc.get(register), pair, half)
            steps.append(acc.set(register, made))
    return seq(steps)


def multiply_single(
    acc: Accumulators, registers: Sequence[Index], row: Sequence[Expr], weights: Halves
) -> Stmt:
    """Add the products of a row without a partner, its two words given, for each block."""
    steps = []
    for block, register in enumerate(registers):
        for number, word in enumerate(row):
            lanes = shuffled(weights(block), range(number, 2 * LANES, 2))
            made = _called(INT8.instruction, acc.get(register), broadcast(word, LANES), lanes)
            steps.append(acc.set(register, made))
    return seq(steps)


def settle(acc: Accumulators, places: Places) -> list[Stmt]:
    """Give each row of a pair its own registers of sums."""
    steps = []
    for first, second in places:
        low, high = tirx.Var("low", _VECTOR), tirx.Var("high", _VECTOR)
        steps += [tirx.Bind(low, acc.get(first)), tirx.Bind(high, acc.get(second))]
        steps.append(acc.set(first, shuffled([low, high], [0, 1, 4, 5])))
        steps.append(acc.set(second, shuffled([low, high], [2, 3, 6, 7])))
    return steps


def _called(instruction: str | None, sums: Expr, left: Expr, right: Expr) -> Expr:
    return tirx.call_pure_extern(_VECTOR, INSTRUCTIONS[instruction or ""].function, sums, left, right)
