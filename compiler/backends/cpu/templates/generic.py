"""A sound schedule for any kernel that no template claims: inline, spread over cores, vectorise."""

from __future__ import annotations

import math
from itertools import pairwise

import tvm
import tvm_ffi
from tvm import relax, s_tir
from tvm.ir import TensorLoad
from tvm.s_tir import SBlock
from tvm.s_tir.schedule import LoopRV, SBlockRV, Schedule
from tvm.tirx import BufferStore, PrimFunc, Stmt

from edgec.compiler.backends.cpu.single_operations import promised
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Expr,
    buffer_dtype,
    const,
    loop,
    parallel,
    seq,
    vector_load,
)
from edgec.compiler.backends.cpu.templates.segments import cuts
from edgec.compiler.backends.cpu.templates.vector_math import with_vector_math
from edgec.compiler.graph.anchors import ANCHOR
from edgec.targets.target import Target

# Waking the thread pool costs some microseconds: not worth it for fewer inner iterations than this.
PARALLEL_FROM = 16384
MOST_UNROLLED = 8  # steps of an innermost loop that is straight-line code in the loop around it
MOST_UNEVEN = 4  # pieces a thread from which they are as good as even
COPIED = 4096  # elements of a task of a copy


def schedule_generic(func: PrimFunc, target: Target, threads: int) -> PrimFunc:
    """Schedule `func` for `target`: element-wise producers inlined, outer loops parallel, inner ones vector code.

    Requires: `func` is in the form that `te.create_prim_func` or FuseTIR makes (sblocks, no schedule yet).
    Ensures: the same results, up to the order of floating point reductions. A kernel that its front end wrote
    in its final form (`tirx.is_scheduled`) keeps its loops.
    """
    return promised(_scheduled(func, target, threads))


def _scheduled(func: PrimFunc, target: Target, threads: int) -> PrimFunc:
    if func.attrs is not None and "tirx.is_scheduled" in func.attrs:
        return with_vector_math(func)
    copied = _copy(func, target.fp32_lanes, threads)
    if copied is not None:
        return copied
    sch = Schedule(tvm.IRModule({"main": func}), debug_mask="none", error_render_level="none")
    try:
        leaf_blocks(sch)
    except s_tir.schedule.ScheduleError:
        return with_vector_math(func)  # written as loops without blocks (a sort, a scatter): unchanged
    inline_elementwise(sch)
    threads = 1 if any(_keeps_pairs_of_free_size(sch, block) for block in leaf_blocks(sch)) else threads
    for block in leaf_blocks(sch):
        _schedule_block(sch, block, target.fp32_lanes, threads)
    return with_vector_math(sch.mod["main"])


def _copy(func: PrimFunc, lanes: int, threads: int) -> PrimFunc | None:
    """A change of shape alone, which only a result of the model needs as a kernel: a copy of memory in order."""
    if len(func.params) != 2 or not relax.analysis.has_reshape_pattern(func):
        return None
    source, result = func.params
    if buffer_dtype(source) != buffer_dtype(result) or buffer_dtype(result) == "bool":
        return None
    shapes = [list(buffer.ty.shape) for buffer in (source, result)]
    if not all(isinstance(dim, tvm.tirx.IntImm) for shape in shapes for dim in shape) or not all(shapes):
        return None
    count = math.prod(int(dim) for dim in shapes[1])
    if count != math.prod(int(dim) for dim in shapes[0]):
        return None
    leading = [[const(0)] * (len(shape) - 1) for shape in shapes]

    def move(at: Expr, width: int) -> Stmt:
        if width == 1:
            return BufferStore(result, source[*leading[0], at], [*leading[1], at])
        return result.vstore([*leading[1], at], vector_load(source, [*leading[0], at], width))

    def task(first: Expr, size: int) -> Stmt:
        whole, rest = divmod(size, lanes)
        vectors = [loop(whole, lambda i: move(first + i * const(lanes), lanes), "vector")] if whole else []
        tail = [loop(rest, lambda i: move(first + const(whole * lanes) + i, 1), "tail")] if rest else []
        return seq([*vectors, *tail])

    whole, rest = divmod(count, COPIED)
    shared = threads if count >= PARALLEL_FROM else 1
    body = [parallel([whole], lambda t: task(t * const(COPIED), COPIED), shared)] if whole else []
    body += [task(const(whole * COPIED), rest)] if rest else []
    made = PrimFunc(list(func.params), seq(body))
    return made.with_attrs({"tirx.noalias": True, "s_tir": True})


def leaf_blocks(sch: Schedule) -> list[SBlockRV]:
    """The blocks of the function, outermost level, in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def inline_elementwise(sch: Schedule, *, anchors: bool = True) -> None:
    """Inline every block that only maps elements and is not an output.

    Without `anchors`, not those of templates, and none into these.
    """
    for block in leaf_blocks(sch)[:-1]:
        info = sch.get(block)
        if not _is_map(info) or (not anchors and ANCHOR in dict(info.annotations)):
            continue
        if not anchors and _feeds_anchor(sch, info):
            continue
        try:
            sch.compute_inline(block)
        except s_tir.schedule.ScheduleError:
            # An output, or read by a block into which it cannot be inlined (an opaque access): left as a block.
            continue


def _feeds_anchor(sch: Schedule, block: SBlock) -> bool:
    """Whether a block of a template reads what `block` writes."""
    others = [sch.get(one) for one in leaf_blocks(sch)]
    reads = [read.source for one in others if ANCHOR in dict(one.annotations) for read in one.reads]
    return any(write.source.same_as(read) for write in block.writes for read in reads)


def _is_map(block: SBlock) -> bool:
    return all(var.iter_type == 0 for var in block.iter_vars)


def _keeps_pairs_of_free_size(sch: Schedule, block: SBlockRV) -> bool:
    """Whether a block makes several values at once (ArgMax) along two axes or more of sizes known only at run time.

    TVM loses the memory of such values where these axes are one parallel loop.
    """
    writes = sch.get(block).writes
    dims = writes[0].source.ty.shape if len(writes) > 1 else ()
    return sum(not isinstance(dim, tvm.tirx.IntImm) for dim in dims) > 1


def _extent(sch: Schedule, loop: s_tir.schedule.LoopRV) -> int:
    """The iterations of a loop; 0 where they are known only at run time."""
    extent = sch.get(loop).extent
    return int(extent) if isinstance(extent, tvm.tirx.IntImm) else 0


def _work(sch: Schedule, loops: list[LoopRV]) -> int:
    """The iterations of all loops together; many where they are known only at run time."""
    extents = [_extent(sch, loop) for loop in loops]
    return PARALLEL_FROM if 0 in extents else math.prod(extents)


def _schedule_block(sch: Schedule, block: SBlockRV, lanes: int, threads: int) -> None:
    info = sch.get(block)
    loops = sch.get_loops(block)
    if not loops or len(loops) != len(info.iter_vars):
        return
    kinds = [int(var.iter_type) for var in info.iter_vars]
    if any(kind not in (0, 2) for kind in kinds):
        return  # scans and opaque blocks keep their order
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
    reduce = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 2]
    work = _work(sch, loops)
    width = _width_along(sch, info, reduce, lanes) if reduce else 0
    if width:
        _reduce_along(sch, block, (spatial, reduce), width, threads if work >= PARALLEL_FROM else 1)
    elif reduce:
        _schedule_reduction(sch, block, spatial, reduce, lanes, threads if work >= PARALLEL_FROM else 1)
    elif not _cut(sch, info, spatial, lanes, threads if work >= PARALLEL_FROM else 1):
        _schedule_map(sch, spatial, lanes, threads if work >= PARALLEL_FROM else 1)


def _cut(sch: Schedule, info: SBlock, loops: list[LoopRV], lanes: int, threads: int) -> bool:
    """Cut the innermost loop where what it reads changes; LLVM makes vectors of the parts. Whether that was done."""
    extent = _extent(sch, loops[-1])
    if extent < 2 * lanes or len(loops) < 2:
        return False
    places = cuts(info.body, info.iter_vars[-1].var, extent)
    if not places:
        return False
    sizes = [end - start for start, end in pairwise([0, *places])]
    sch.loop_partition(loops[-1], [*sizes, None])
    _parallel(sch, loops[:-1], threads)
    return True


def _schedule_map(sch: Schedule, loops: list[LoopRV], lanes: int, threads: int) -> None:
    last = _extent(sch, loops[-1])
    if len(loops) == 5 and 2 * last == lanes:
        lanes = last  # blocks of half a register
    if threads > 1 and len(loops) == 5 and last == lanes and _extent(sch, loops[2]) >= threads:
        # Blocks of channels: threads divide the rows, as they do in the kernels before and after.
        batch, block, row, column, lane = loops
        sch.reorder(batch, row, block, column, lane)
        loops = [batch, row, block, column, lane]
    if last % lanes == 0 and last > lanes:
        outer, inner = sch.split(loops[-1], [None, lanes])
        sch.vectorize(inner)
        loops = [*loops[:-1], outer]
    elif last == lanes:
        sch.vectorize(loops[-1])
        loops = loops[:-1]
        if math.prod(_extent(sch, loop) for loop in loops[:-1]) >= MOST_UNEVEN * threads:
            loops = loops[:-1]  # a row in order needs no division for each vector
    elif last <= MOST_UNROLLED and len(loops) > 2 and _interleaves(sch, loops, threads):
        # LLVM makes vectors of the loop around it: those of neighbours are interleaved in registers.
        sch.unroll(loops[-1])
        loops = loops[:-2]
    elif len(loops) > 1:
        loops = loops[:-1]  # left to LLVM's own vectoriser
    _parallel(sch, loops, threads)


def _interleaves(sch: Schedule, loops: list[LoopRV], threads: int) -> bool:
    """Whether the loop around the innermost one is long enough for vectors, and those around it for the threads."""
    outer = [_extent(sch, loop) for loop in loops[:-2]]
    return _extent(sch, loops[-1]) > 1 and _extent(sch, loops[-2]) >= 8 and math.prod(outer) >= 4 * threads


def _schedule_reduction(
    sch: Schedule, block: SBlockRV, spatial: list[LoopRV], reduce: list[LoopRV], lanes: int, threads: int
) -> None:
    """Spatial loops outside; the innermost spatial loop becomes vectors when it fills them."""
    # Loop kinds first: once the initialisation is split off, the update no longer counts as a reduction.
    vectors = bool(spatial) and _extent(sch, spatial[-1]) > 0 and _extent(sch, spatial[-1]) % lanes == 0
    if len(sch.get(block).writes) > 1:
        vectors = False  # TVM computes what a pair's parts share (ArgMax) for the first lane alone
    head = list(spatial)
    if vectors:
        outer, inner = sch.split(spatial[-1], [None, lanes])
        head = [*spatial[:-1], outer]
        sch.reorder(*head, *reduce, inner)
        sch.vectorize(inner)
    elif spatial:
        sch.reorder(*spatial, *reduce)
    if head:
        _parallel(sch, head, threads)
    init = sch.decompose_reduction(block, reduce[0])
    if vectors:
        sch.vectorize(sch.get_loops(init)[-1])


def _width_along(sch: Schedule, info: SBlock, reduce: list[LoopRV], lanes: int) -> int:
    """Elements of a vector along the reduced axes; 0 where memory does not run along the last one, or they are few."""
    total = math.prod(_extent(sch, loop) for loop in reduce)
    last = [var.var for var in info.iter_vars if var.iter_type == 2][-1]
    runs = False

    def look(load: TensorLoad) -> TensorLoad:
        nonlocal runs
        runs = runs or (len(load.indices) > 0 and load.indices[-1].same_as(last))
        return load

    tvm_ffi.structural_map(info.body, (TensorLoad, look))
    if info.init is not None and "inf" in str(info.init):
        return 0  # an extreme that starts from infinity is no reduction that TVM knows to split into partial results
    single = len(info.writes) == 1 and str(info.writes[0].source.ty.dtype.dtype) == "float32"
    # TVM splits no reduction that starts from an infinity, as extremes that keep infinities do.
    start = getattr(getattr(info.init, "value", None), "value", math.inf)
    if not (single and runs and math.isfinite(start)):
        return 0
    return next((w for w in (lanes, lanes // 2, 4) if w >= 4 and total % w == 0 and total >= 2 * w), 0)


def _reduce_along(
    sch: Schedule, block: SBlockRV, loops: tuple[list[LoopRV], list[LoopRV]], width: int, threads: int
) -> None:
    """Partial results in the lanes of a vector, which are combined at the end of each row."""
    spatial, reduce = loops
    for other in leaf_blocks(sch):
        if not sch.get_loops(other):  # TVM's rfactor fails beside a block that no loop contains
            sch.add_unit_loop(other)
    sch.reorder(*spatial, *reduce)
    whole = sch.fuse(*reduce) if len(reduce) > 1 else reduce[0]
    _, lane = sch.split(whole, [None, width])
    partial = sch.rfactor(lane, factor_axis=len(spatial))
    rows = sch.get_loops(partial)
    head, (step, lane) = rows[: len(spatial)], rows[len(spatial) :]
    if head:
        sch.reverse_compute_at(block, head[-1])
        sch.set_scope(partial, 0, "local")
        _parallel(sch, head, threads)
    sch.vectorize(lane)
    init = sch.decompose_reduction(partial, step)
    sch.vectorize(sch.get_loops(init)[-1])
    sch.decompose_reduction(block, sch.get_loops(block)[-1])


def _parallel(sch: Schedule, loops: list[LoopRV], threads: int) -> None:
    if threads > 1:
        sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])
