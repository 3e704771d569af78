"""Finish a module for TVM's virtual machine; shared by the back ends that use it."""

from __future__ import annotations

import tvm
from tvm import relax

from edgec.compiler.graph.memory import plan_memory
from edgec.compiler.lowered import Plan


def finalise(mod: tvm.IRModule) -> tuple[tvm.IRModule, Plan]:
    """Plan memory and lower to what the virtual machine runs."""
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ]
    mod, plan = plan_memory(tvm.transform.Sequential(passes)(mod))
    passes = [
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
    return tvm.transform.Sequential(passes)(mod), plan
