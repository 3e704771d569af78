"""GroupQueryAttention of com.microsoft, written out by operators of the standard."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import FunctionProto

from edgec.compiler.frontends.onnx.microsoft import Call, defines, rotated

Q, K, V, PAST_K, PAST_V, LAST, TOTAL, COS, SIN, PLACES, BIAS, SINK = range(12)
UNSEEN = -3.0e38  # score of a key that a query does not see


def load() -> None:
    """Register the definition, by the import of this module."""


@dataclass(frozen=True)
class _Sizes:
    """Sizes of the node.

    Attributes:
        batch: sequences.
        rows: new tokens of each.
        heads: of queries.
        groups: heads of keys and values.
        size: of a head.
        past: keys that the cache has room for.
        keys: keys that the new cache has room for.
    """

    batch: int
    rows: int
    heads: int
    groups: int
    size: int
    past: int
    keys: int


@defines("GroupQueryAttention")
def _group_query(call: Call) -> FunctionProto | None:
    """Attention of new tokens on a cache of keys and values, into which theirs are written first.

    Each sequence has its own number of tokens so far. What the new cache has behind the last one is zero.
    """
    sizes = _sizes(call)
    if (
        sizes is None
        or call.has(SINK)
        or call.attribute("smooth_softmax", 0)
        or call.attribute("qk_output", 0)
    ):
        return None
    q, k, v = _heads(call, sizes)
    # the place of the first new token: 0 for a first run, else behind those so far
    last = call.reshape(call.op("Cast", call.input(LAST), to=7), [sizes.batch, 1])
    begin = call.op("Sub", last, call.const(sizes.rows - 1, "int64"))
    total = call.reshape(call.op("Cast", call.input(TOTAL), to=7), [1, 1])
    first_run = call.op("Equal", total, call.const(sizes.rows, "int64"))
    begin = call.op("Where", first_run, call.const(0, "int64"), begin)
    places = call.op("Add", begin, call.const(np.arange(sizes.rows)[None], "int64"))  # [batch, rows]
    if call.attribute("do_rotary", 0):
        at, interleaved = call.input(PLACES) or places, bool(call.attribute("rotary_interleaved", 0))
        cache = call.shape(COS)
        if cache is None:
            return None
        q, k = (
            rotated(call, x, at, call.input(COS), call.input(SIN), 2 * cache[1], interleaved) for x in (q, k)
        )
    k, v = (_appended(call, sizes, call.input(past), new, begin) for past, new in ((PAST_K, k), (PAST_V, v)))
    y = _attended(call, sizes, q, k, v, places)
    return call.finished([y, k, v][: len(call.node.output)])


def _sizes(call: Call) -> _Sizes | None:
    shape, heads, groups = call.shape(Q), call.attribute("num_heads", 0), call.attribute("kv_num_heads", 0)
    past = call.shape(PAST_K)
    if (
        shape is None
        or not heads
        or not groups
        or len(shape) != 3
        or not call.has(LAST)
        or not call.has(TOTAL)
    ):
        return None
    if (call.has(PAST_K) and past is None) or (past is not None and len(past) != 4):
        return None
    batch, rows, width = shape
    size = width // (heads if call.has(K) else heads + 2 * groups)
    room = past[2] if past is not None else 0
    # the cache grows by the new tokens, as exported models have it: `total_sequence_length` is known at run time
    return _Sizes(batch, rows, heads, groups, size, room, room + rows)


def _heads(call: Call, sizes: _Sizes) -> tuple[str, str, str]:
    """Queries, keys and values `[batch, heads, rows, size]`, which may come in one tensor."""
    names = [call.input(i) for i in (Q, K, V)]
    if not call.has(K):
        parts = [n * sizes.size for n in (sizes.heads, sizes.groups, sizes.groups)]
        names = call.ops("Split", 3, "i0", call.const(parts, "int64"), axis=2)
    counts = (sizes.heads, sizes.groups, sizes.groups)
    q, k, v = (call.heads(name, sizes.batch, n) for name, n in zip(names, counts, strict=True))
    return q, k, v


def _appended(call: Call, sizes: _Sizes, past: str, new: str, begin: str) -> str:
    """The cache with the new rows from `begin` on."""
    column = call.const(np.arange(sizes.keys)[None], "int64")
    row = call.op("Sub", column, begin)  # [batch, keys]
    wide = [sizes.batch, sizes.groups, sizes.keys, sizes.size]
    none, count = call.const(0, "int64"), call.const(sizes.rows, "int64")
    near = call.op("Max", call.op("Min", row, call.const(sizes.rows - 1, "int64")), none)
    spread = call.op("Expand", call.reshape(near, [sizes.batch, 1, sizes.keys, 1]), call.const(wide, "int64"))
    fresh = call.op("GatherElements", new, spread, axis=2)
    is_new = call.op("And", call.op("Less", row, count), call.op("GreaterOrEqual", row, none))
    zeros = call.const(np.zeros((sizes.batch, sizes.groups, sizes.rows, sizes.size)))
    old = call.op("Concat", past, zeros, axis=2) if sizes.past else zeros
    along = [sizes.batch, 1, sizes.keys, 1]
    is_old = call.reshape(call.op("Less", column, begin), along)
    kept = call.op("Where", is_old, old, call.const(0.0))
    return call.op("Where", call.reshape(is_new, along), fresh, kept)


def _attended(call: Call, sizes: _Sizes, q: str, k: str, v: str, places: str) -> str:
    each = sizes.heads // sizes.groups
    if each > 1:  # several heads of queries share one of keys
        split = [sizes.batch, sizes.groups, 1, sizes.keys, sizes.size]
        spread = call.const([*split[:2], each, *split[3:]], "int64")
        whole = [sizes.batch, sizes.heads, sizes.keys, sizes.size]
        k, v = (call.reshape(call.op("Expand", call.reshape(x, split), spread), whole) for x in (k, v))
    scale = float(call.attribute("scale", 0.0)) or 1 / math.sqrt(sizes.size)
    scores = call.op("MatMul", q, call.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = call.op("Mul", scores, call.const(scale))
    limit = float(call.attribute("softcap", 0.0))
    if limit:
        scaled = call.op("Tanh", call.op("Div", scores, call.const(limit)))
        scores = call.op("Mul", scaled, call.const(limit))
    if call.has(BIAS):
        scores = call.op("Add", scores, call.input(BIAS))
    own = call.reshape(places, [sizes.batch, 1, sizes.rows, 1])
    column = call.const(np.arange(sizes.keys).reshape(1, 1, 1, -1), "int64")
    seen = call.op("LessOrEqual", column, own)
    window = int(call.attribute("local_window_size", -1))
    if window > 0:
        oldest = call.op("Sub", own, call.const(window, "int64"))
        seen = call.op("And", seen, call.op("Greater", column, oldest))
    scores = call.op("Where", seen, scores, call.const(UNSEEN))
    mixed = call.op("MatMul", call.op("Softmax", scores, axis=-1), v)
    return call.op("Reshape", call.op("Transpose", mixed, perm=[0, 2, 1, 3]), call.const([0, 0, -1], "int64"))
