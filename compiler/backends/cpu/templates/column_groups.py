"""The columns of a product whose weights lie in blocks of columns, divided among threads."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx import Stmt

from edgec.compiler.backends.cpu.templates.loop_nests import Expr, const, parallel, seq
from edgec.compiler.graph.narrow_products import LANES

Columns = Callable[[Expr, int, int], Stmt]
"""Code for a group of column blocks: the first of them, their number, and how many columns the last one has."""


def column_groups(cols: int, blocks: int, threads: int, columns: Columns) -> Stmt:
    """Whole groups of `blocks` column blocks, then what is left."""
    whole, rest = divmod(cols // LANES, blocks)
    parts: list[Stmt] = []
    if whole:
        parts.append(parallel([whole], lambda g: columns(g * const(blocks), blocks, LANES), threads))
    done = whole * blocks
    if rest:
        parts.append(columns(const(done), rest, LANES))
    if lanes := cols % LANES:
        parts.append(columns(const(done + rest), 1, lanes))
    return seq(parts)
