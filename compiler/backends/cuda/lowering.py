"""From scheduled kernels to the device's source text and the launches that the host has to make.

TVM's own pipeline ends in host code that checks arguments and calls the driver. Here the host part is read instead:
it consists of launches with constant extents, so an artifact needs no host code at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.ir import Call, StringImm
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.copies import check_copies_pass
from edgec.compiler.backends.cuda.infinities import start_from_infinity_pass
from edgec.compiler.backends.cuda.prologue import with_own_prologue
from edgec.compiler.backends.cuda.wide_fragments import WIDE, hide_wide_fragments_pass, with_wide_fragments
from edgec.compiler.backends.special_values import exact_special_values_pass
from edgec.compiler.errors import InternalError, KernelUnsupported

_AXES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")
# Elements that do not lie side by side as one vector of eight: TVM writes its eight places as what CUDA lacks.
_EIGHT_PLACES = re.compile(r"make_longlong4\((?:[^,;]*,){7}")
# A number whose bits are those of another, as TVM writes it: the address of a literal, which no compiler takes.
_BITS = re.compile(r"\(\*\((\w+) \*\)\(&\((-?\d+)\)\)\)")
DYNAMIC_SHARED = "tirx.use_dyn_shared_memory"


@dataclass(frozen=True)
class KernelLaunch:
    """One launch.

    Attributes:
        name: the function in the source text.
        grid: blocks in x, y and z.
        block: threads in x, y and z.
        shared_bytes: dynamic shared memory of a block.
        arguments: positions of the kernel's parameters; numbers from their count on are scratch.
    """

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class DeviceKernel:
    """A kernel for the device.

    Attributes:
        symbol: its name in the module.
        source: the text of all its functions, for the device's compiler.
        launches: in order.
        scratch: bytes of each buffer that its launches share.
    """

    symbol: str
    source: str
    launches: tuple[KernelLaunch, ...]
    scratch: tuple[int, ...]


def _passes() -> tvm.transform.Pass:
    """The steps of TVM's pipeline for scheduled kernels, up to the split of host and device."""
    steps = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerCrossThreadReduction(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LiftThreadBinding(),
        s_tir.transform.ManifestSharedMemoryLocalStage(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerAutoCopy(),
        s_tir.transform.UnifyThreadBinding(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.InjectPermutedLayout(),
        s_tir.transform.AnnotateIrregularLoop(),
        s_tir.transform.InjectSoftwarePipeline(),
        s_tir.transform.TransformMmaBufferLayout(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        tirx.transform.VectorizeLoop(True),
        s_tir.transform.InjectVirtualThread(),
        s_tir.transform.InjectDoubleBuffer(),
        tirx.transform.StorageRewrite(),
        s_tir.transform.HoistIfThenElse(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.FP8ComputeLegalize(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        s_tir.transform.ThreadSync("shared"),
        s_tir.transform.ThreadSync("shared.dyn"),
        s_tir.transform.ThreadSync("warp"),
        s_tir.transform.InferFragment(),
        s_tir.transform.LowerThreadAllreduce(),
        start_from_infinity_pass(),
        exact_special_values_pass(chosen=True),
        s_tir.transform.MergeSharedMemoryAllocations(),
        check_copies_pass(),
        s_tir.transform.InjectPTXAsyncCopy(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.SplitHostDevice(),
    ]
    return tvm.transform.Sequential(steps)


def _finish() -> tvm.transform.Pass:
    return tvm.transform.Sequential(
        [
            tirx.transform.FP8StorageLegalize(),
            tirx.transform.BF16StorageLegalize(),
            tirx.transform.LowerWarpMemory(),
            tirx.transform.StmtSimplify(),
            tirx.transform.LowerIntrin(),
            hide_wide_fragments_pass(),
        ]
    )


def lower_kernel(symbol: str, func: PrimFunc, target: tvm.target.Target) -> DeviceKernel:
    """The source text and the launches of one scheduled kernel.

    Args:
        symbol: its name; names of functions in the source begin with it.
        func: every loop that runs in parallel is bound to threads.
        target: of the kind `cuda` or `opencl`, with a host.

    Raises:
        KernelUnsupported: a part of it runs on the host, extents are not constant, or the text would not be CUDA.
    """
    mod = tvm.IRModule({symbol: func.with_attr("global_symbol", symbol)})
    mod = tirx.transform.BindTarget(target)(mod)
    with target:
        mod = _passes()(mod)
    parts = {gv: part for gv, part in mod.functions.items() if str(gv.name_hint) != symbol}
    if not parts:
        raise KernelUnsupported(f"{symbol} has no part that runs on the GPU")
    launches, scratch = _launches(symbol, mod[symbol])
    device_target = next(iter(parts.values())).attrs["target"]
    with target:
        finished = _finish()(tvm.IRModule(parts))
        source = source_of(finished, device_target)
    if _EIGHT_PLACES.search(source):
        raise KernelUnsupported(
            f"{symbol} gathers elements that do not lie side by side as a vector of eight"
        )
    if any(WIDE in part.attrs for part in finished.functions.values()):
        source = with_wide_fragments(source)
    return DeviceKernel(symbol, source, launches, scratch)


def _launches(symbol: str, host: PrimFunc) -> tuple[tuple[KernelLaunch, ...], tuple[int, ...]]:
    """Read the host's part: declarations of buffers, allocations, and launches."""
    places = {param: number for number, param in enumerate(host.params)}
    scratch: list[int] = []
    launches: list[KernelLaunch] = []
    statements = list(host.body.seq) if isinstance(host.body, tirx.SeqStmt) else [host.body]
    while statements:
        statement = statements.pop(0)
        if isinstance(statement, tirx.SeqStmt):
            statements[:0] = list(statement.seq)
        elif isinstance(statement, tirx.AttrStmt):
            statements.insert(0, statement.body)
        elif isinstance(statement, tirx.DeclBuffer):
            places[statement.buffer] = places[_buffer_of(statement.data)]
        elif isinstance(statement, tirx.AllocBuffer):
            places[statement.buffer] = len(host.params) + len(scratch)
            scratch.append(_bytes_of(symbol, statement.buffer))
        elif isinstance(statement, tirx.Evaluate) and isinstance(statement.value, Call):
            launches.append(_launch(symbol, statement.value, places))
        elif not isinstance(statement, tirx.Evaluate):
            raise KernelUnsupported(f"a part of {symbol} runs on the host ({type(statement).__name__})")
    return tuple(launches), tuple(scratch)


def _buffer_of(data: tvm.ir.Expr) -> tvm.ir.Expr:
    """The buffer of an expression such as `x.data`."""
    if not isinstance(data, Call) or len(data.args) != 1:
        raise InternalError(f"an argument of a kernel is no buffer: {data}")
    return data.args[0]


def _bytes_of(symbol: str, buffer: tvm.ir.Expr) -> int:
    size = int(tvm.DataType(str(buffer.ty.dtype.dtype)).bits + 7) // 8
    for extent in buffer.ty.shape:
        size *= _constant(symbol, extent)
    return size


def _constant(symbol: str, expr: tvm.ir.Expr) -> int:
    if not isinstance(expr, tirx.IntImm):
        raise KernelUnsupported(f"{symbol} has an extent that is known only when it runs ({expr})")
    return int(expr.value)


def _launch(symbol: str, call: Call, places: dict[tvm.ir.Expr, int]) -> KernelLaunch:
    name = call.args[0]
    if not isinstance(name, StringImm):
        raise KernelUnsupported(f"a part of {symbol} runs on the host ({call.op})")
    wanted = [str(param) for param in call.attrs.launch_params]
    count = len(wanted)
    operands = call.args[1 : len(call.args) - count]
    values = [_constant(symbol, value) for value in call.args[len(call.args) - count :]]
    extents = dict(zip(wanted, values, strict=True))
    shared = extents.pop(DYNAMIC_SHARED, 0)
    if unknown := set(extents) - set(_AXES):
        raise KernelUnsupported(f"{symbol} is launched along {', '.join(sorted(unknown))}")
    x, y, z, tx, ty, tz = (extents.get(axis, 1) for axis in _AXES)
    arguments = tuple(places[_buffer_of(operand)] for operand in operands)
    return KernelLaunch(str(name.value), (x, y, z), (tx, ty, tz), shared, arguments)


def source_of(device: tvm.IRModule, target: tvm.target.Target) -> str:
    """The text for the device's compiler (CUDA C++ or OpenCL C); it never goes into an artifact."""
    build = tvm.get_global_func(f"target.build.{target.kind.name}")
    text = str(build(device, target).inspect_source())
    if target.kind.name != "cuda":
        return _BITS.sub(r"as_\1(\2)", text)
    return with_own_prologue(_BITS.sub(r"__builtin_bit_cast(\1, \2)", text))
