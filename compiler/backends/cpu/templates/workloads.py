"""The template of each kernel: from a fused function to a workload with its candidates."""

from __future__ import annotations

from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.single_operations import promised
from edgec.compiler.backends.cpu.specs import decode
from edgec.compiler.backends.cpu.templates import (
    attention,
    channels,
    convolution,
    dense,
    matmul,
    narrow,
    planar,
    relayouts,
    resize,
    rounded,
    separable,
    sliding,
    stored_winograd,
)
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.backends.cpu.templates.template import (
    PARALLEL_BYTES,
    PARALLEL_FLOPS,
    PARALLEL_INTEGER_OPERATIONS,
    Request,
    Template,
)
from edgec.compiler.backends.interface import FAMILY, Workload
from edgec.compiler.graph.buffers import buffer_bytes
from edgec.compiler.operands.operands import FLOAT32
from edgec.targets.target import Target

# The first that claims a specification makes its kernels.
TEMPLATES: list[Template] = [
    convolution.TEMPLATE, separable.TEMPLATE, sliding.DEPTHWISE, sliding.POOL, dense.TEMPLATE, matmul.TEMPLATE,
    attention.TEMPLATE,
    narrow.TEMPLATE, rounded.TEMPLATE, channels.TEMPLATE, planar.TEMPLATE, relayouts.TEMPLATE, resize.TEMPLATE,
    stored_winograd.TEMPLATE,
]  # fmt: skip


def workload_of(
    func: PrimFunc,
    anchor: str,
    ops: tuple[str, ...],
    target: Target,
    threads: int,
    error_budget: float = 1e-3,
) -> Workload | None:
    """The workload of a fused function; None when no template can make it.

    `error_budget` is the largest error that the model's outputs may have, relative to their largest value:
    schedules that trade accuracy for speed have to stay far below it.
    """
    spec = decode(anchor)
    template = next((one for one in TEMPLATES if one.claims(spec)), None)
    if template is None:
        return None
    size = buffer_bytes(func)
    operands = getattr(spec, "operands", FLOAT32)
    fewest = PARALLEL_INTEGER_OPERATIONS if operands.accumulator == "int32" else PARALLEL_FLOPS
    if spec.flops < fewest and size < PARALLEL_BYTES:
        threads = 1
    epilogue, extra = None, ""
    if template.takes_epilogue:
        epilogue = split_epilogue(func)
        if epilogue is None or not epilogue.output.same_as(epilogue.params[-1]):
            return None
        others = epilogue.params[len(epilogue.inputs) :]
        extra = ",".join(str(tuple(int(d) for d in param.ty.shape)) for param in others)
    choice = template.choose(spec, Request(func, target, threads, error_budget, epilogue))
    if choice is None:
        return None
    name = f"{template.kind}.v{choice.version}|{anchor}"
    return Workload(
        key=f"{name}|{'+'.join(ops)}|{extra}|threads{threads}",
        family=f"{name}|{FAMILY}|threads{threads}",
        kind=template.kind,
        flops=spec.flops,
        bytes=size,
        threads=threads,
        candidates=tuple(choice.candidates),
        emit=lambda schedule: promised(choice.emit(schedule), func),
        operands=operands,
    )
