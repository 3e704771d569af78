"""Loop nests as TIR statements: the building blocks that the templates share.

Templates write loops, not schedules: they decide every loop, tile and vector themselves, and accumulators are
`local` arrays at constant offsets, which LLVM keeps in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tvm
from tvm import tirx
from tvm.tirx import AllocBuffer, Buffer, For, ForKind, SeqStmt, Stmt, Var

Expr: TypeAlias = tvm.ir.Expr
Index: TypeAlias = Expr | int
INDEX = "int64"
SHARES = (
    4  # pieces a thread into which the launch function cuts a loop, as `pool_tasks` of the thread pool does
)
EVEN = 16  # steps of a piece from which pieces are as good as equal


def const(value: int) -> Expr:
    """An index constant."""
    return tirx.IntImm(INDEX, value)


def index(value: Index) -> Expr:
    """`value` as an index expression."""
    return const(value) if isinstance(value, int) else value


def seq(statements: Sequence[Stmt]) -> Stmt:
    """The statements in sequence."""
    flat = list(statements)
    return flat[0] if len(flat) == 1 else SeqStmt(flat)


def loop(
    extent: Index,
    body: Callable[[Expr], Stmt],
    name: str = "i",
    kind: ForKind = ForKind.SERIAL,
    start: Index = 0,
) -> Stmt:
    """`for name in [start, start + extent)`; a loop of one step is its body."""
    if isinstance(extent, int) and extent == 1 and isinstance(start, int):
        return body(const(start))
    var = Var(name, INDEX)
    return For(var, index(start), index(extent), kind, body(var))


def parallel(extents: Sequence[int], body: Callable[..., Stmt], threads: int) -> Stmt:
    """A loop over the product of `extents`, spread over the threads; `body` gets one index an extent.

    With one thread (a kernel that is too small to gain) the loop is serial. Without extents it is the body alone. Where
    few steps do not divide by the pieces into which a launch cuts a loop, they are divided here: each thread's share, a
    row of pieces, then has as many steps as the others' but for one, where the launch would leave the last with fewer.
    """
    if not extents:
        return body()
    total = 1
    for extent in extents:
        total *= extent

    def split(flat: Expr) -> Stmt:
        indices: list[Expr] = []
        rest = flat
        for extent in reversed(extents[1:]):
            indices.append(const(0) if extent == 1 else tirx.indexmod(rest, const(extent)))
            rest = rest if extent == 1 else tirx.indexdiv(rest, const(extent))
        indices.append(rest if extents[0] != 1 else const(0))
        return body(*reversed(indices))

    if threads == 1 or total == 1:
        return loop(total, split, "task")
    pieces = SHARES * threads
    if total % pieces == 0 or total > EVEN * pieces:
        return loop(total, split, "task", ForKind.PARALLEL)

    def begin(number: Expr) -> Expr:
        return tirx.indexdiv(number * const(total) + const(pieces - 1), const(pieces))

    def piece(number: Expr) -> Stmt:
        first, end = begin(number), begin(number + const(1))
        # From zero: TVM moves a loop's variable, but not where loops inside begin.
        return loop(end - first, lambda task: split(first + task), "task")

    return loop(pieces, piece, "piece", ForKind.PARALLEL)


def vector_load(buffer: Buffer, indices: Sequence[Index], lanes: int) -> Expr:
    """`lanes` consecutive elements of `buffer` from `indices` on."""
    return buffer.vload([index(i) for i in indices], f"{buffer_dtype(buffer)}x{lanes}")


def flat_place(load: Expr) -> Expr:
    """The place of an element in its buffer, seen as a row of elements."""
    place = const(0)
    for size, at in zip(load.source.ty.shape, load.indices, strict=True):
        place = place * const(int(size)) + at
    return place


def at_flat_place(buffer: Buffer, place: Expr) -> list[Expr]:
    """The indices of the element at a place in a buffer that is seen as a row of elements."""
    return [*[const(0)] * (len(buffer.ty.shape) - 1), place]


def shuffled(vectors: Sequence[Expr], places: Sequence[int]) -> Expr:
    """The elements at `places` of vectors in a row."""
    return tirx.Shuffle(list(vectors), [tirx.IntImm("int32", place) for place in places])


def prefetch(element: Expr) -> Stmt:
    """Prefetch the cache line of `element`, a load from a buffer; its address may be out of bounds: nothing is read."""
    read, keep, data = (tirx.IntImm("int32", value) for value in (0, 3, 1))
    address = tirx.address_of(element)
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, keep, data))


def buffer_dtype(buffer: Buffer) -> str:
    """The element type of `buffer`."""
    return str(buffer.ty.dtype.dtype)


def broadcast(value: Expr, lanes: int) -> Expr:
    """`value` in every lane of a vector."""
    return tirx.Broadcast(value, lanes)


def unrolled(extent: int, body: Callable[[Expr], Stmt], start: int = 0) -> Stmt:
    """Straight-line code for each index of a short loop."""
    if extent == 1:
        return body(const(start))
    return loop(extent, body, "u", ForKind.UNROLLED, start)


def stepped(extent: int, body: Callable[[Expr], Stmt], steps: int, name: str = "i") -> Stmt:
    """A loop unrolled by `steps` where they divide its extent, and not unrolled otherwise."""
    if extent % steps or extent == steps:
        return loop(extent, body, name)
    return loop(extent // steps, lambda at: unrolled(steps, lambda u: body(at * const(steps) + u)), name)


def tiles(total: int, width: int) -> list[tuple[int, int]]:
    """Cut `total` columns into the fewest pieces of at most `width`, as equal as can be: (start, width) each."""
    count = -(-total // width)
    small, larger = divmod(total, count)
    pieces, start = [], 0
    for i in range(count):
        size = small + (1 if i < larger else 0)
        pieces.append((start, size))
        start += size
    return pieces


def tile_sizes(total: int, width: int) -> list[tuple[int, int]]:
    """The sizes of the pieces of `tiles`, and how many there are of each: (size, count), larger ones first."""
    count = -(-total // width)
    small, larger = divmod(total, count)
    return [(small + 1, larger), (small, count - larger)] if larger else [(small, count)]


def runs(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Merge neighbouring pieces of equal size: (start of the first, size, count) each."""
    found: list[tuple[int, int, int]] = []
    for start, size in pieces:
        if found and found[-1][1] == size:
            found[-1] = (found[-1][0], size, found[-1][2] + 1)
        else:
            found.append((start, size, 1))
    return found


class Accumulators:
    """A tile of vector registers."""

    def __init__(self, count: int, lanes: int, dtype: str = "float32") -> None:
        self.count, self.lanes, self.dtype = count, lanes, dtype
        self.buffer = tirx.decl_buffer((count * lanes,), dtype, "acc", scope="local")

    def allocate(self, body: Sequence[Stmt]) -> Stmt:
        """`body` with the registers allocated."""
        return SeqStmt([AllocBuffer(self.buffer), *body])

    def get(self, k: Index) -> Expr:
        """The vector in register `k`."""
        return vector_load(self.buffer, [index(k) * const(self.lanes)], self.lanes)

    def set(self, k: Index, value: Expr) -> Stmt:
        """Write register `k`."""
        return self.buffer.vstore([index(k) * const(self.lanes)], value)

    def total(self, k: Index) -> Expr:
        """The final sum in register `k`."""
        return self.get(k)

    def merge(self, k: Index, other: Index) -> Stmt:
        """Add register `other` to register `k`."""
        return self.set(k, self.get(k) + self.get(other))

    def fill(self, value: float) -> list[Stmt]:
        """Set all registers to `value`."""
        vector = broadcast(tirx.const(value, self.dtype), self.lanes)
        return [unrolled(self.count, lambda k: self.set(k, vector))]

    def element(self, k: Index, lane: Expr) -> Expr:
        """One lane of register `k`, for use inside a vectorised loop."""
        return self.buffer[index(k) * const(self.lanes) + lane]


def transpose(tile: Accumulators, number: int) -> list[Stmt]:
    """Transpose a square tile of `number` vectors, which needs twice as many registers: the second half is scratch.

    Each pass interleaves vector `i` with vector `i + number / 2`: that rotates the bits of (row, column) by one place,
    so after as many passes as a row has bits they have changed places. The result is where `transposed` says.
    """
    half, steps, at = number // 2, list[Stmt](), 0
    for _ in range(number.bit_length() - 1):
        for i in range(half):
            pair = [tile.get(at + i), tile.get(at + half + i)]
            for high in (0, 1):
                places = [high * half + k // 2 + k % 2 * number for k in range(number)]
                steps.append(tile.set(number - at + 2 * i + high, shuffled(pair, places)))
        at = number - at
    return steps


def transposed(number: int) -> int:
    """The register of the first vector of the result of `transpose`."""
    return number if (number.bit_length() - 1) % 2 else 0


def vectorised(lanes: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """A loop over the lanes that becomes vector code."""
    return loop(lanes, body, "lane", ForKind.VECTORIZED) if lanes > 1 else body(const(0))
