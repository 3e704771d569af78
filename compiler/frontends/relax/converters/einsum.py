"""Einsum of two tensors as the matrix product that it is, so that it takes the kernels of products."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    LeaveToTvm,
    Node,
    converts,
    is_constant,
    reshaped,
    shape_of,
)

LETTERS = frozenset(string.ascii_letters)


@converts("Einsum")
def _einsum(node: Node) -> Expr:
    """Letters of both sides and the result are its batch, those of both sides only are summed over.

    Diagonals, ellipses, sums over one side and outer products are left to TVM's converter, as are more or fewer sides.
    """
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    sides, arrow, out = equation.partition("->")
    left, comma, right = sides.partition(",")
    if not (arrow and comma) or not all(set(text) <= LETTERS for text in (left, right, out)):
        raise LeaveToTvm
    if any(len(set(text)) < len(text) for text in (left, right, out)):
        raise LeaveToTvm
    batch = [letter for letter in out if letter in left and letter in right]
    inner = [letter for letter in left if letter in right and letter not in out]
    rows = [letter for letter in out if letter in left and letter not in right]
    columns = [letter for letter in out if letter in right and letter not in left]
    alone = set(left + right) - {*batch, *inner, *rows, *columns}
    x, y = node.input(0), node.input(1)
    sizes = dict(zip(left, shape_of(x), strict=True))
    other = dict(zip(right, shape_of(y), strict=True))
    shared = any(
        sizes[letter] != other[letter] for letter in (*batch, *inner)
    )  # a side of size 1 is repeated
    if not inner or alone or shared or 0 in (*sizes.values(), *other.values()):
        raise LeaveToTvm
    sizes |= other
    matrix = not batch and is_constant(y)
    a = _arranged(node, x, left, [batch, rows, inner], sizes, flat=matrix)
    b = _arranged(node, y, right, [batch, inner, columns], sizes, flat=matrix)
    made = node.emit(relax.op.matmul(a, b))
    letters = [*batch, *rows, *columns]
    made = node.emit(reshaped(made, [sizes[letter] for letter in letters]))
    order = [letters.index(letter) for letter in out]
    return made if order == sorted(order) else node.emit(relax.op.permute_dims(made, order))


def _arranged(
    node: Node, x: Expr, letters: str, groups: Sequence[Sequence[str]], sizes: dict[str, int], *, flat: bool
) -> Expr:
    """An operand as `[batch, rows, columns]` by groups of letters; without the first if it is `flat`."""
    order = [letters.index(letter) for group in groups for letter in group]
    if order != sorted(order):
        x = node.emit(relax.op.permute_dims(x, order))
    shape = [math.prod(sizes[letter] for letter in group) for group in groups]
    return node.emit(reshaped(x, shape[1:] if flat else shape))
