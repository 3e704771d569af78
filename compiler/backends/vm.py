"""Finish a module for TVM's virtual machine; shared by the back ends that use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tvm
from tvm import relax

from edgec.compiler.graph.control import Control
from edgec.compiler.graph.memory import plan_memory
from edgec.compiler.graph.program import program_of
from edgec.compiler.graph.weave import Piece, Woven, weave
from edgec.compiler.lowered import Plan


def finalise(mod: tvm.IRModule) -> tuple[tvm.IRModule, Plan]:
    """Plan memory and lower to what the virtual machine runs."""
    mod, plan = plan_memory(_allocated(mod))
    program = program_of(mod[plan.entry], plan.tensors)
    return _for_vm(mod), replace(plan, program=program)


def finalise_program(
    pieces: Sequence[Piece], control: Sequence[Control], main: str
) -> tuple[tvm.IRModule, Plan | None, Woven]:
    """Plan the memory of islands, join all pieces, and lower the result to what the virtual machine runs."""
    planned, size = [], 0
    for piece in pieces:
        mod = _allocated(piece.mod)
        if piece.static:
            mod, plan = plan_memory(mod)
            size = max(size, plan.bytes)
            planned.append(replace(piece, mod=mod, entry=plan.entry, places=plan.tensors))
        else:
            planned.append(replace(piece, mod=mod))
    woven = weave(planned, control, main)
    mod = _for_vm(relax.transform.CallTIRRewrite()(relax.transform.Normalize()(woven.mod)))
    return mod, Plan("main", size, woven.places) if woven.places else None, woven


def _allocated(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with its results allocated explicitly."""
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ]
    return tvm.transform.Sequential(passes)(mod)


def _for_vm(mod: tvm.IRModule) -> tvm.IRModule:
    passes = [
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
    return tvm.transform.Sequential(passes)(mod)
