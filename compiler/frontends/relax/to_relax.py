"""From a cleaned ONNX model to a Relax module; nodes that cannot be compiled become segments for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from edgec.compiler.errors import Unsupported, UnsupportedModel
from edgec.compiler.frontends.onnx.ort_session import runs_in_onnxruntime
from edgec.compiler.frontends.relax import converters, fallback
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
)
from edgec.compiler.frontends.relax.importer import LOST, Importer
from edgec.compiler.frontends.source import ImportedModel, SourceModel

# Operators that do little but move data: not worth leaving ONNX Runtime for and entering it again.
MOVERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze"}
    | {"Split", "Transpose", "Unsqueeze", "Shape", "Not", "Equal", "Where", "Add", "Sub", "Mul"}
)
NO_KERNEL = "the target has no kernel for it"
NO_WAY = "ONNX Runtime cannot run them either: export the model with standard operators."


def to_relax(
    source: SourceModel, *, fallback_allowed: bool = False, on_host: Collection[int] = ()
) -> ImportedModel:
    """Import a cleaned model.

    Args:
        source: from `load_source`.
        fallback_allowed: run what cannot be compiled in ONNX Runtime, which the compiled code calls.
        on_host: source nodes that the target has no kernels for: they are run there, too.

    Returns:
        a module whose function `main` takes the model's inputs in order under their safe names, with the
        constants embedded; bindings are named after the source's nodes.

    Raises:
        UnsupportedModel: some nodes cannot be compiled (nor, with fallback, run in ONNX Runtime).
        InternalError: a converter fails with anything but `CannotConvert`.
    """
    converters.load_all()
    attempt = Importer(source)
    refused = attempt.try_out()
    known = {position for position, _ in refused}
    for position, node in enumerate(source.model.graph.node):
        index = attempt.origin(node)
        if index in on_host and position not in known:
            refused.append((position, attempt.unsupported(index, node, NO_KERNEL)))
    if not refused:
        return Importer(source).run()
    if not fallback_allowed:
        raise UnsupportedModel(causes(refused))
    graph = source.model.graph
    positions = fallback.with_makers(graph, [position for position, _ in refused], attempt.lists)
    uncompiled = fallback.widen(graph, positions, MOVERS)
    try:
        imported = _import_without(source, uncompiled, spread=bool(on_host))
    except (CannotConvert, fallback.UntypedValue) as refusal:
        nodes = [replace(node, reason=str(refusal)) for node in causes(refused)]
        raise UnsupportedModel(nodes) from refusal
    for segment in imported.segments:
        if not runs_in_onnxruntime(segment.model):
            raise UnsupportedModel([replace(node, remedy=NO_WAY) for node in causes(refused)])
    return imported


def _import_without(source: SourceModel, uncompiled: set[int], *, spread: bool) -> ImportedModel:
    """Import without some nodes; `spread`: and without those that cannot be compiled because of them.

    What ONNX Runtime returns may have sizes, and even a rank, that only it knows.
    """
    while True:
        try:
            return Importer(source).run(uncompiled)
        except UnsupportedModel as refusal:
            own = {node.index for node in refusal.nodes if node.reason != LOST}
            lost = own or {node.index for node in refusal.nodes}
            origin = Importer(source).origin
            nodes = enumerate(source.model.graph.node)
            more = {position for position, node in nodes if origin(node) in lost} - uncompiled
            if not spread or not more:
                raise
            uncompiled = uncompiled | more


def causes(refused: list[tuple[int, Unsupported]]) -> list[Unsupported]:
    """The nodes whose own conversion fails, without those that only depend on one; all, if there are none."""
    own = [node for _, node in refused if node.reason != LOST]
    return own or [node for _, node in refused]
