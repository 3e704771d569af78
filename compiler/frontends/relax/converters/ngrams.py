"""TfIdfVectorizer of numbers: how often each n-gram of a pool occurs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts,
    reshaped,
    shape_of,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced


@converts("TfIdfVectorizer")
def _tf_idf(node: Node) -> Expr:
    """Counts of n-grams, each looked for with every distance between its items, times their weights."""
    if not node.attrs.get("pool_int64s"):
        raise CannotConvert("its n-grams are texts, and compiled models compute on numbers")
    x, shape, columns = node.input(0), node.shape(0), [int(i) for i in node.attrs["ngram_indexes"]]
    rows = node.emit(reshaped(relax.op.astype(x, "int64"), [1, *shape] if len(shape) == 1 else shape))
    width = max(columns) + 1
    total: Expr = constant(np.zeros((1, width), "float32"))
    for first, grams in _pool(node):
        counts = _counts(node, rows, grams)
        if counts is None:
            continue
        places = np.zeros((len(grams), width), "float32")
        places[np.arange(len(grams)), columns[first : first + len(grams)]] = 1
        total = node.emit(relax.op.add(total, relax.op.matmul(counts, constant(places))))
    total = node.emit(relax.op.broadcast_to(total, (shape_of(rows)[0], width)))
    return reshaped(_weighted(node, total), [*shape[:-1], width])


def _pool(node: Node) -> Iterator[tuple[int, Array]]:
    """The n-grams of each length that counts, `[grams, length]`, and the number of the first."""
    pool, begins = list(node.attrs["pool_int64s"]), [int(n) for n in node.attrs["ngram_counts"]]
    least, most = int(node.attrs["min_gram_length"]), int(node.attrs["max_gram_length"])
    first = 0
    for length, (begin, end) in enumerate(zip(begins, [*begins[1:], len(pool)], strict=True), start=1):
        count = (end - begin) // length
        if count and least <= length <= most:
            yield first, np.asarray(pool[begin:end], "int64").reshape(count, length)
        first += count


def _counts(node: Node, rows: Expr, grams: Array) -> Expr | None:
    """How often each n-gram occurs in each row, `[rows, grams]` in float32; None where rows are too short."""
    batch, size = shape_of(rows)
    count, length = grams.shape
    found: Expr | None = None
    skips = int(node.attrs["max_skip_count"]) if length > 1 else 0
    for distance in range(1, skips + 2):
        starts = size - distance * (length - 1)
        if starts < 1:
            break
        same: Expr | None = None
        for k in range(length):
            items = node.emit(sliced(node, rows, {1: slice(k * distance, k * distance + starts)}))
            one = relax.op.equal(
                reshaped(items, [batch, starts, 1]), constant(grams[:, k].reshape(1, 1, count))
            )
            same = node.emit(one if same is None else relax.op.logical_and(same, one))
        matches = node.emit(relax.op.sum(relax.op.astype(same, "float32"), axis=1))
        found = matches if found is None else node.emit(relax.op.add(found, matches))
    return found


def _weighted(node: Node, counts: Expr) -> Expr:
    mode, weights = str(node.attrs["mode"]), node.attrs.get("weights")
    if mode == "IDF":
        counts = node.emit(relax.op.minimum(counts, constant(1.0, "float32")))
    elif mode not in ("TF", "TFIDF"):
        raise CannotConvert(f"its mode {mode!r} is unknown")
    if mode == "TF" or not weights:
        return counts
    return node.emit(relax.op.multiply(counts, constant(np.asarray(weights, "float32"))))
