"""Products by `pmaddubsw`, on x86-64 without a dot instruction: where it is exact, and how inputs have to be paired.

`pmaddubsw` multiplies unsigned bytes by signed ones and adds neighbours in 16 bits, where they saturate. Bytes reach
255: two weights whose positive parts, and whose negative parts, add up to 128 at most never leave 16 bits, whatever the
input. Uniform weights break that in a quarter of all pairs, trained ones in few of a thousand.
"""

from __future__ import annotations

import numpy as np

from edgec.compiler.backends.cpu.dot_instructions import operands_for
from edgec.compiler.graph.rewrite import Array
from edgec.compiler.operands.operands import UINT8_INT8, UINT8_INT8_PAIRS, Operands, in_pairs
from edgec.targets.target import Target

MOST = 128  # what two weights of one sign may add up to: 255 * 128 is below 2**15, 255 * 129 is not
BLOCK, GROWTH = (
    8,
    1.125,
)  # channels of a block, and by how much their number may grow for those that stand twice
SPLITS = 1024  # how often channels are split at random, times their number: a few have few good splits


def byte_pairs(target: Target) -> Operands | None:
    """The operands of `pmaddubsw`; None on a target with a dot instruction, and on ARM."""
    if target.arch != "x86_64" or in_pairs(operands_for(UINT8_INT8, target)) is None:
        return None
    return operands_for(UINT8_INT8_PAIRS, target)


def stays_in_16_bits(weight: Array, axis: int) -> bool:
    """Whether no pair of neighbours along the reduced `axis` can leave 16 bits."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.int16)
    if len(rows) % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
    return all(
        int((part[::2] + part[1::2]).max(initial=0)) <= MOST
        for part in (np.maximum(rows, 0), np.maximum(-rows, 0))
    )


def order_for_pairs(weights: list[Array]) -> Array | None:
    """An order of input channels in which all pairs stay in 16 bits, large weights beside small ones.

    A channel that fits beside no other stands twice, beside itself, for half of its weights each: see `divided`.

    Args:
        weights: of the convolutions that read the channels, OIHW.

    Returns:
        For each place the channel that moves there; None if too many would stand twice.
    """
    channels = weights[0].shape[1]
    rows = np.concatenate([w.swapaxes(0, 1).reshape(channels, -1) for w in weights], axis=1).astype(np.int16)
    by_size = np.argsort(-np.abs(rows).max(axis=1), kind="stable")
    draw, best = np.random.default_rng(0), None
    for attempt in range(1 + SPLITS // channels):
        mixed = by_size if attempt == 0 else draw.permutation(channels)
        made = _paired(rows, mixed[: channels // 2], mixed[channels // 2 :])
        if best is None or len(made) < len(best):
            best = made
        if len(best) == channels:
            break
    assert best is not None
    blocks = -(-len(best) // BLOCK) * BLOCK
    return best if len(best) == channels or blocks <= GROWTH * channels else None


def divided(weight: Array, order: Array) -> Array:
    """OIHW weights of input channels in `order`: those that stand twice, side by side, have half of them each."""
    made = weight[:, order]
    twice = 2 * np.flatnonzero(order[: len(order) // 2 * 2 : 2] == order[1::2])
    half = made[:, twice] >> 1
    made[:, twice], made[:, twice + 1] = half, made[:, twice] - half
    return made


def _paired(rows: Array, large: Array, small: Array) -> Array:
    """An order of pairs of a large and a small channel, and of those without a partner, which stand twice."""
    partner = _matched(_fitting(rows[large], rows[small]))
    matched = partner >= 0
    alone = np.concatenate([large[~matched], np.delete(small, partner[matched])])
    pairs = np.stack([large[matched], small[partner[matched]]], axis=1)
    return np.concatenate([pairs, np.stack([alone, alone], axis=1)]).reshape(-1)


def _fitting(large: Array, small: Array) -> Array:
    """`[large, small]`: whether two channels may be neighbours for every output channel and tap."""
    made = np.ones((len(large), len(small)), bool)
    for sign in (1, -1):
        left, right = np.maximum(sign * large, 0), np.maximum(sign * small, 0)
        for number, row in enumerate(left):
            at = np.flatnonzero(row > MOST - int(right.max(initial=0)))  # others fit beside any
            if len(at):
                made[number] &= (right[:, at] <= MOST - row[at]).all(axis=1)
    return made


def _matched(fits: Array) -> Array:
    """For each row a column of its own in which `fits` is true, for as many as can be, by augmenting paths; else -1."""
    column_of, row_of = (np.full(size, -1) for size in fits.shape)
    for start in np.argsort(fits.sum(axis=1), kind="stable"):
        came_from = np.full(fits.shape[1], -1)  # the row from which a column was reached
        queue, end = [int(start)], -1
        while queue and end < 0:
            row = queue.pop(0)
            fresh = np.flatnonzero(fits[row] & (came_from < 0))
            came_from[fresh] = row
            free = fresh[row_of[fresh] < 0]
            if len(free):
                end = int(free[0])
            else:
                queue += [int(row_of[column]) for column in fresh]
        while end >= 0:
            row = int(came_from[end])
            row_of[end], column_of[row], end = row, end, int(column_of[row])
    return column_of
