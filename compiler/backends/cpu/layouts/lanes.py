"""Whether channels are blocked by whole registers or by half of them.

A processor that takes two instructions of half the width for one of the whole (Zen 4's AVX-512) loses nothing by the
narrower blocks, and computes no channels that are not there: 24 channels are three blocks of 8, but two of 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import tvm

from edgec.compiler.backends.cpu.specs import ConvSpec, decode
from edgec.compiler.backends.cpu.templates import conv2d_candidates, winograd_candidates
from edgec.compiler.backends.cpu.templates.estimates import in_vectors
from edgec.compiler.graph.anchors import ANCHOR
from edgec.compiler.graph.fusion import kernel_calls
from edgec.compiler.operands.operands import FLOAT32
from edgec.targets.target import Target

WORTHWHILE = 0.995  # of the cycles with whole registers
PASSES = 8  # over a result: it is written, mapped, read, added. With it estimates agree with nine networks on Zen 4


def half_blocks(mod: tvm.IRModule, target: Target, error_budget: float) -> int | None:
    """Channels of a block that are estimated to be faster than whole registers of them.

    Args:
        mod: `main` with blocks of whole registers.
        target: the hardware.
        error_budget: as for the layouts.

    Returns:
        None where whole registers are as fast, and where something else than fp32 is multiplied.
    """
    lanes = target.fp32_lanes
    specs = list(_convolutions(mod))
    if target.core.half_vectors == 1 or any(spec.operands != FLOAT32 for spec in specs):
        return None
    if any(spec.lanes != lanes for spec in specs) or not specs:
        return None
    known: dict[ConvSpec, float] = {}

    def cycles(spec: ConvSpec) -> float:
        if spec not in known:
            known[spec] = _cycles(spec, target, error_budget)
        return known[spec]

    whole = sum(cycles(spec) for spec in specs)
    halves = sum(cycles(_halved(spec)) for spec in specs)
    return lanes // 2 if halves < WORTHWHILE * whole else None


def _convolutions(mod: tvm.IRModule) -> Iterator[ConvSpec]:
    """The specification of each call of a convolution."""
    for gv in kernel_calls(mod):
        attrs = mod[gv].attrs
        spec = decode(str(attrs[ANCHOR])) if attrs is not None and ANCHOR in attrs else None
        if isinstance(spec, ConvSpec):
            yield spec


def _halved(spec: ConvSpec) -> ConvSpec:
    narrow = spec.lanes // 2
    block = spec.in_block
    if block == spec.lanes or (block == 0 and spec.in_channels >= narrow):
        block = narrow
    return replace(spec, lanes=narrow, in_block=block)


def _cycles(spec: ConvSpec, target: Target, error_budget: float) -> float:
    """Estimated cycles of a call on one thread."""
    target = in_vectors(target, spec.lanes)
    channels = -(-spec.out_channels // spec.lanes) * spec.lanes
    stored = 4.0 * spec.batch * spec.window.out[0] * spec.window.out[1] * channels
    return _computing(spec, target, error_budget) + stored * PASSES / target.core.l2_bytes_per_cycle


def _computing(spec: ConvSpec, target: Target, error_budget: float) -> float:
    if spec.depthwise:
        taps = spec.window.kernel[0] * spec.window.kernel[1] * spec.window.out[0] * spec.window.out[1]
        vectors = spec.batch * taps * -(-spec.in_channels // spec.lanes)
        return vectors / target.core.fma_per_cycle
    best = conv2d_candidates.least_cost(spec, target, 1, flattens=True)
    ranked = winograd_candidates.candidates(spec, target, 1, error_budget)
    return min(best, ranked[0][0]) if ranked else best
