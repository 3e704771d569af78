"""Which convolutions have their weights transformed by the compiler, for Winograd's algorithm.

On x86-64 kernels transform them on every call, as fast, and the artifact keeps its size. On 64-bit ARM, with vectors of
four elements, transforming takes up to half of a kernel's instructions where the image is small.
"""

from __future__ import annotations

import math

import numpy as np

from edgec.compiler.backends.cpu.layouts.value import Plan
from edgec.compiler.backends.cpu.specs import ConvSpec, WinogradSpec
from edgec.compiler.backends.cpu.templates import conv2d_candidates, winograd, winograd_candidates
from edgec.compiler.backends.cpu.templates import integer_winograd as integer
from edgec.compiler.backends.cpu.templates.winograd_tiles import odd
from edgec.compiler.backends.cpu.templates.winograd_transforms import tile_size, weight_matrix
from edgec.compiler.graph.rewrite import Array
from edgec.compiler.operands.operands import FLOAT32, in_pairs

LEAST_CHANNELS = 8
WORTHWHILE = 1.03  # by how much a kernel has to be faster for its weights to be larger
MOST_ADDED_TO_INTEGERS = 2 << 20  # bytes by which those of an int8 layer may grow, to 3.6 times their size
# Bytes by which a layer's weights may grow (tiles of 4×4 make them four times as large), and what share of the board's
# memory that may be: 8 MiB of 1 GiB.
MOST_ADDED, SHARE_OF_MEMORY = 32 << 20, 128


def stored_winograd(plan: Plan, spec: ConvSpec) -> WinogradSpec | None:
    """The convolution with transformed weights; None where it is not estimated to be faster."""
    if plan.target.arch != "aarch64" or spec.operands is not FLOAT32 or not winograd.applies(spec):
        return None
    if min(spec.in_channels, spec.out_channels) < LEAST_CHANNELS:
        return None
    best: tuple[float, WinogradSpec] | None = None
    pairs = spec.in_channels * spec.out_channels
    most_added = min(MOST_ADDED, plan.target.memory_bytes // SHARE_OF_MEMORY)
    for m in winograd_candidates.within(plan.error_budget):
        if pairs * (tile_size(m) ** 2 - 9) * spec.operands.weight_bytes > most_added:
            continue
        made = WinogradSpec(
            spec.batch, spec.in_channels, spec.in_size, spec.out_channels, spec.window, spec.lanes, m
        )
        found = winograd_candidates.stored_candidates(made, plan.target, 1)
        if found and (best is None or found[0][0] < best[0]):
            best = (found[0][0], made)
    return best[1] if best is not None and WORTHWHILE * best[0] < _otherwise(plan, spec) else None


def integer_winograd(plan: Plan, spec: ConvSpec, weight: Array, data: str) -> WinogradSpec | None:
    """The convolution of 8-bit integers with transformed weights; None where it is not estimated to be faster.

    Args:
        plan: of the function.
        spec: the convolution.
        weight: OIHW.
        data: the type whose values the activations have, in whatever type they are stored.
    """
    if in_pairs(spec.operands) is None or not winograd.has_the_form(spec):
        return None
    if min(spec.in_channels, spec.out_channels) < LEAST_CHANNELS:
        return None
    pairs = integer.pairs_of(spec.operands)
    added = tile_size(integer.M) ** 2 * pairs.weight_bytes - 9 * spec.operands.weight_bytes
    if spec.in_channels * spec.out_channels * added > MOST_ADDED_TO_INTEGERS:
        return None
    if data == "int16" or not integer.fits(weight, data):
        return None
    made = WinogradSpec(
        spec.batch, spec.in_channels, spec.in_size, spec.out_channels, spec.window, spec.lanes, integer.M,
        spec.operands,
    )  # fmt: skip
    found = winograd_candidates.stored_candidates(made, plan.target, 1)
    return made if found and WORTHWHILE * found[0][0] < _otherwise(plan, spec) else None


def _otherwise(plan: Plan, spec: ConvSpec) -> float:
    """Estimated cycles with weights as they are."""
    target = plan.target
    direct = conv2d_candidates.candidates(spec, target, 1, flattens=True)
    costs = [conv2d_candidates.cost(spec, schedule, target, 1) for schedule in direct[:1]]
    costs += [cost for cost, _ in winograd_candidates.candidates(spec, target, 1, plan.error_budget)[:1]]
    weights = (
        spec.in_channels * spec.out_channels * math.prod(spec.window.kernel) * spec.operands.weight_bytes
    )
    return winograd_candidates.beside_memory(target, min(costs), weights)


def pack_winograd(weight: Array, m: int, lanes: int) -> Array:
    """OIHW to the row of transformed weights that `WinogradSpec` describes."""
    oc, ic, _, _ = weight.shape
    matrix, t = weight_matrix(m), tile_size(m)
    blocks = -(-oc // lanes)
    padded = np.zeros((blocks * lanes, odd(ic), t * t), weight.dtype)
    made = np.einsum("yi,ocij,xj->ocyx", matrix, weight.astype(np.float64), matrix, optimize=True)
    padded[:oc, :ic] = made.reshape(oc, ic, t * t).astype(weight.dtype)
    split = padded.reshape(blocks, lanes, odd(ic), t * t)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 1)).reshape(-1)
