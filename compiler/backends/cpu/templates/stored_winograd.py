"""Convolution by Winograd's algorithm with weights that the compiler transformed: no direct schedule competes."""

from __future__ import annotations

from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.specs import WinogradSpec
from edgec.compiler.backends.cpu.templates import integer_winograd, winograd, winograd_candidates
from edgec.compiler.backends.cpu.templates.template import Choice, Request, Template
from edgec.compiler.backends.cpu.templates.winograd_tiles import Schedule
from edgec.compiler.operands.operands import in_pairs

_OF_INTEGERS = 100 * winograd.VERSION + integer_winograd.VERSION


def _choose(spec: WinogradSpec, request: Request) -> Choice | None:
    epilogue, target, threads = request.fused, request.target, request.threads
    integers = in_pairs(spec.operands) is not None

    def emit(schedule: Schedule) -> PrimFunc:
        if integers:
            return integer_winograd.emit(spec, epilogue, schedule, threads)
        return winograd.emit(spec.conv, epilogue, schedule, threads, transformed=True)

    found = [schedule for _, schedule in winograd_candidates.stored_candidates(spec, target, threads)]
    return Choice(_OF_INTEGERS if integers else winograd.VERSION, found, emit) if found else None


TEMPLATE = Template(
    "winograd", (winograd.VERSION, _OF_INTEGERS), lambda spec: isinstance(spec, WinogradSpec), _choose
)
