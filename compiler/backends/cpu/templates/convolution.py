"""Convolution: direct and Winograd schedules compete."""

from __future__ import annotations

from typing import Any

from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates import (
    conv2d,
    conv2d_candidates,
    winograd,
    winograd_candidates,
    winograd_tiles,
)
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.estimates import in_vectors
from edgec.compiler.backends.cpu.templates.template import Choice, Request, Template

WITH_WINOGRAD = 100 * winograd.VERSION + conv2d.VERSION  # the version of a choice between both kinds
FAR_APART = 1.6  # a kind of schedule whose best is estimated to be slower by more is timed once only


def choose(spec: ConvSpec, request: Request) -> Choice:
    """Direct and Winograd schedules, interleaved, so that few trials meet both; the kind that should win first."""
    target, threads, epilogue = in_vectors(request.target, spec.lanes), request.threads, request.fused
    direct = conv2d_candidates.candidates(spec, target, threads, flattens=flattens(epilogue))
    ranked = winograd_candidates.candidates(spec, target, threads, request.error_budget)
    fast = [s for _, s in ranked]

    def emit(schedule: Any) -> PrimFunc:  # noqa: ANN401
        if isinstance(schedule, winograd_tiles.Schedule):
            return winograd.emit(spec, epilogue, schedule, threads)
        return conv2d.emit(spec, epilogue, schedule, threads)

    found = direct
    if ranked:
        best_direct = conv2d_candidates.cost(spec, direct[0], target, threads)
        found = _in_turn((ranked[0][0], fast), (best_direct, direct))
    return Choice(WITH_WINOGRAD if fast else conv2d.VERSION, found, emit)


def _in_turn(first: tuple[float, list[Any]], second: tuple[float, list[Any]]) -> list[Any]:
    """Interleave two kinds of schedules, given with the estimate of their best; of a kind that is far behind only one
    comes early.
    """
    (low, faster), (high, slower) = sorted((first, second), key=lambda pair: pair[0])
    if high > FAR_APART * low:
        return [*faster[:2], *slower[:1], *faster[2:], *slower[1:]]
    longer = max(len(faster), len(slower))
    return [schedule for k in range(longer) for kind in (faster, slower) for schedule in kind[k : k + 1]]


def flattens(epilogue: Epilogue) -> bool:
    """Whether the epilogue reads its other operands either at every pixel or at none.

    Then a pixel's number can replace its column: the address is the same. In an image of one column it cannot: what
    the epilogue reads there has no column.
    """
    out = [int(d) for d in epilogue.output.ty.shape]
    if len(out) == 5 and out[3] == 1:
        return False
    for param in epilogue.params:
        if any(param.same_as(operand) for operand in epilogue.inputs):
            continue
        shape = [int(d) for d in param.ty.shape]
        if len(shape) == 5 and shape[2:4] != out[2:4] and shape[2:4] != [1, 1]:
            return False
    return len(out) == 5


TEMPLATE = Template(
    "conv2d",
    (conv2d.VERSION, WITH_WINOGRAD),
    lambda spec: isinstance(spec, ConvSpec) and not spec.depthwise,
    choose,
)
