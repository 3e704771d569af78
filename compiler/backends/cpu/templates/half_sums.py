"""Sums of products of halves: chunks are added up in half precision, and the chunks in float32.

A sum of `n` products in half precision is off by about `sqrt(n)` roundings of 2**-11. So no more than `CHUNK` products
(a row of taps of a block of channels, where that is more) are added before the sum is widened; the float32 sums are
read and written once a chunk, and LLVM keeps them in memory meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx import AllocBuffer, SeqStmt, Stmt

from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    Index,
    broadcast,
    const,
    index,
    loop,
    seq,
    unrolled,
    vector_load,
)
from edgec.compiler.operands.operands import FLOAT16, Operands

# Columns of a tile that multiplies by elements of vectors of halves: NEON takes those from the lower 16 registers only,
# where LLVM has to find room for them beside sums that it does not keep apart.
COLUMNS_BY_ELEMENT = 8
CHUNK = 64
UNCUT = 80  # products that are one chunk where it would be cut otherwise: 3×3 taps of 8 channels
HALF, WIDE = "float16", "float32"


def in_halves(operands: Operands) -> bool:
    """Whether products are added up in half precision."""
    return operands == FLOAT16


class HalfSums(Accumulators):
    """A tile of sums in half precision, which is added to a tile in float32 where there are several chunks."""

    def __init__(self, count: int, lanes: int, *, chunked: bool) -> None:
        super().__init__(count, lanes, HALF)
        self.wide = tirx.decl_buffer((count * lanes,), WIDE, "wide", scope="local") if chunked else None

    def allocate(self, body: Sequence[Stmt]) -> Stmt:
        """`body` with the registers allocated."""
        if self.wide is None:
            return super().allocate(body)
        return SeqStmt([AllocBuffer(self.wide), AllocBuffer(self.buffer), *body])

    def start(self) -> list[Stmt]:
        """Begin a sum of chunks, or the only chunk."""
        if self.wide is None:
            return self.fill(0.0)
        wide, zero = self.wide, broadcast(tirx.const(0, WIDE), self.lanes)
        return [unrolled(self.count, lambda k: wide.vstore([self._at(k)], zero))]

    def chunk(self, body: Stmt) -> Stmt:
        """A chunk, whose products `body` adds up."""
        if self.wide is None:
            return body
        wide = self.wide

        def add(k: Expr) -> Stmt:
            total = vector_load(wide, [self._at(k)], self.lanes)
            return wide.vstore([self._at(k)], total + self.get(k).astype(f"{WIDE}x{self.lanes}"))

        return seq([*self.fill(0.0), body, unrolled(self.count, add)])

    def chunks(self, steps: int, size: int, body: Callable[[Expr, int], Stmt], name: str) -> Stmt:
        """`steps` steps in chunks of `size`; `body` gets the first step of a chunk and how many there are."""
        whole, rest = divmod(steps, size)
        parts: list[Stmt] = []
        if whole:
            parts.append(loop(whole, lambda at: self.chunk(body(at * const(size), size)), name))
        if rest:
            parts.append(self.chunk(body(const(whole * size), rest)))
        return seq(parts)

    def total(self, k: Index) -> Expr:
        """A sum, rounded to half precision."""
        if self.wide is None:
            return self.get(k)
        return vector_load(self.wide, [self._at(k)], self.lanes).astype(f"{HALF}x{self.lanes}")

    def merge(self, k: Index, other: Index) -> Stmt:
        """Add sum `other` to sum `k`."""
        if self.wide is None:
            return super().merge(k, other)
        first, second = (vector_load(self.wide, [self._at(at)], self.lanes) for at in (k, other))
        return self.wide.vstore([self._at(k)], first + second)

    def element(self, k: Index, lane: Expr) -> Expr:
        """One lane of a sum, in float32, for use inside a vectorised loop."""
        if self.wide is None:
            return super().element(k, lane).astype(WIDE)
        return self.wide[self._at(k) + lane]

    def _at(self, k: Index) -> Expr:
        return index(k) * const(self.lanes)
