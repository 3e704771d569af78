"""Sums over small windows: depthwise and grouped convolutions, pools. A thread computes an element in registers.

Neighbouring threads compute neighbouring elements of the innermost axis, so that they read and write memory side by
side; what the windows share comes from the caches.
"""

from __future__ import annotations

import tvm
from tvm import s_tir
from tvm.s_tir import Schedule
from tvm.s_tir.dlight.analysis import get_root_block
from tvm.s_tir.dlight.gpu.matmul import (
    auto_inline_consumer_chain,
    auto_inline_producers,
    get_reduction_blocks,
)
from tvm.tirx import PrimFunc

_THREADS = 128


def schedule_window(func: PrimFunc) -> PrimFunc | None:
    """A kernel of one reduction with what follows it; None where it has none, or several."""
    sch = Schedule(func)
    blocks = get_reduction_blocks(sch, sch.get_child_blocks(get_root_block(sch)))
    if not blocks or len(blocks) != 1:
        return None
    try:
        auto_inline_producers(sch, blocks[0])
        written = sch.cache_write(blocks[0], 0, "local")
        auto_inline_consumer_chain(sch, written)
        fused = sch.fuse(*sch.get_loops(written))
        groups, lanes = sch.split(fused, factors=[None, _THREADS])
        sch.bind(groups, "blockIdx.x")
        sch.bind(lanes, "threadIdx.x")
        sch.compute_at(blocks[0], lanes)
    except (s_tir.schedule.ScheduleError, tvm.error.InternalError, AssertionError):
        return None  # what follows reads it in another order: another rule takes it
    return sch.mod["main"].with_attr("tirx.is_scheduled", True)
