"""Run one kernel on this machine."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.backends.cpu.timing import build
from edgec.targets import Target, load_target

# Instruction sets that kernels are tested for: those of this machine.
RUNNABLE = [
    name for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64") if runs_here(load_target(name))
]


def run(func: PrimFunc, target: Target, *arrays: np.ndarray) -> np.ndarray:
    """What a kernel computes of `arrays`; an element that it does not write is NaN, or -1 (255 of uint8)."""
    module = build(func, tvm.target.Target(dict(target.tvm)))
    out = func.params[-1].ty
    dtype = str(out.dtype.dtype)
    unwritten = np.full([int(d) for d in out.shape], np.nan if "float" in dtype else -1).astype(dtype)
    output = tvm.runtime.tensor(unwritten)
    module["kernel"](*[tvm.runtime.tensor(a) for a in arrays], output)
    return output.numpy()
