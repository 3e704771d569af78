"""One set of input shapes compiled; what the target has no kernels for goes to ONNX Runtime on the host."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from edgec.compiler.backends.registry import backend_of
from edgec.compiler.buckets import Built
from edgec.compiler.errors import KernelUnsupported
from edgec.compiler.frontends import ImportedModel
from edgec.compiler.graph.islands import varying_nodes
from edgec.compiler.lower import lower
from edgec.compiler.operands.operands import Operands
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress
from edgec.targets import Target


def build(
    import_with: Callable[[Collection[int]], ImportedModel],
    target: Target,
    options: CompileOptions,
    progress: Progress,
    narrow: Mapping[int, Operands] | None = None,
) -> Built:
    """Lower a model, and import it again without the nodes that turn out to have no kernel.

    Args:
        import_with: imports the model, with the given source nodes left to ONNX Runtime.
        target: the hardware.
        options: see `CompileOptions`.
        progress: told which nodes run on the host, and why.
        narrow: see `lower`.

    Raises:
        KernelUnsupported: fallback is off, or the nodes are not known.
        UnsupportedModel: ONNX Runtime cannot run them either.
    """
    on_host = set[int]()
    runs_control = backend_of(target).runs_control
    while True:
        imported = import_with(on_host)
        varying = set() if runs_control or not options.fallback else varying_nodes(imported.mod) - on_host
        if varying:
            on_host |= varying
            progress.note(
                f"{len(varying)} nodes run in ONNX Runtime on the host: {target.name} runs no branches and loops, "
                "and no sizes known only at run time"
            )
            continue
        try:
            lowered = lower(imported.mod, target, options, progress, narrow, imported.parts)
            return Built(imported, lowered)
        except KernelUnsupported as error:
            fresh = set(error.nodes) - on_host
            if not options.fallback or not fresh:
                raise
            on_host |= fresh
            progress.note(f"{len(fresh)} nodes run in ONNX Runtime on the host: {error}")
