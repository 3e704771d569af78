"""Convolution by Winograd's algorithm with weights that the compiler transformed: no direct schedule competes."""

from __future__ import annotations

from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.specs import WinogradSpec
from edgec.compiler.backends.cpu.templates import winograd, winograd_candidates
from edgec.compiler.backends.cpu.templates.template import Choice, Request, Template
from edgec.compiler.backends.cpu.templates.winograd_tiles import Schedule


def _choose(spec: WinogradSpec, request: Request) -> Choice | None:
    epilogue, target, threads = request.fused, request.target, request.threads

    def emit(schedule: Schedule) -> PrimFunc:
        return winograd.emit(spec.conv, epilogue, schedule, threads, transformed=True)

    found = [schedule for _, schedule in winograd_candidates.stored_candidates(spec, target, threads)]
    return Choice(winograd.VERSION, found, emit) if found else None


TEMPLATE = Template("winograd", (winograd.VERSION,), lambda spec: isinstance(spec, WinogradSpec), _choose)
