"""Constants in the order in which kernels read them."""

from __future__ import annotations

import numpy as np

from edgec.compiler.graph.rewrite import Array


def pack_conv(weight: Array, lanes: int, chunk: int) -> Array:
    """OIHW to `[out_blocks, in_chunks, kernel_height, kernel_width, chunk, lanes]`."""
    oc, ic, kh, kw = weight.shape
    blocks = -(-oc // lanes)
    padded = np.zeros((blocks * lanes, ic, kh, kw), weight.dtype)
    padded[:oc] = weight
    split = padded.reshape(blocks, lanes, ic // chunk, chunk, kh, kw)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def pack_depthwise(weight: Array, lanes: int) -> Array:
    """`[channels, 1, kh, kw]` to `[blocks, kh, kw, lanes]`."""
    channels, _, kh, kw = weight.shape
    blocks = -(-channels // lanes)
    padded = np.zeros((blocks * lanes, kh, kw), weight.dtype)
    padded[:channels] = weight[:, 0]
    return np.ascontiguousarray(padded.reshape(blocks, lanes, kh, kw).transpose(0, 2, 3, 1))


def merge_groups(weight: Array, groups: int, channels: int, lanes: int) -> tuple[Array, int]:
    """Groups that do not fill whole blocks are joined, with zeros between them, until they do."""
    oc, icg, kh, kw = weight.shape
    ocg = oc // groups
    joined = 1
    while joined < groups and ((ocg * joined) % lanes or (icg * joined) % lanes or groups % joined):
        joined += 1
    count = groups // joined
    merged = np.zeros((oc, icg * joined, kh, kw), weight.dtype)
    for g in range(groups):
        at = (g % joined) * icg
        merged[g * ocg : (g + 1) * ocg, at : at + icg] = weight[g * ocg : (g + 1) * ocg]
    return merged, count


def block_channels(array: Array, lanes: int) -> Array:
    """NCHW to `[N, blocks, H, W, lanes]`, missing channels as zero."""
    n, c, h, w = array.shape
    blocks = -(-c // lanes)
    padded = np.zeros((n, blocks * lanes, h, w), array.dtype)
    padded[:, :c] = array
    return np.ascontiguousarray(padded.reshape(n, blocks, lanes, h, w).transpose(0, 1, 3, 4, 2))


def pack_dense(weight: Array, lanes: int) -> Array:
    """`[inner, columns]` to `[column_blocks, inner, lanes]`, missing columns as zero."""
    inner, cols = weight.shape
    blocks = -(-cols // lanes)
    padded = np.zeros((inner, blocks * lanes), weight.dtype)
    padded[:, :cols] = weight
    return np.ascontiguousarray(padded.reshape(inner, blocks, lanes).transpose(1, 0, 2))
