"""Find where a compiled model diverges from the reference: compare every intermediate value, in the graph's order."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from edgec.compiler import pack
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.frontends.onnx.prepare import ports_of
from edgec.compiler.frontends.relax.fallback import is_tensor
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress, Silent
from edgec.compiler.verify.compare import OutputError, compare
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.process import Measure, run_child
from edgec.compiler.verify.reference import Reference, session_of
from edgec.targets import Target

ELEMENTS = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(int8)": TensorProto.INT8,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64,
    "tensor(bool)": TensorProto.BOOL,
}


@dataclass(frozen=True)
class LayerError:
    """The error of one value, and the source node that makes it."""

    node: str
    op_type: str
    error: OutputError


def compare_layers(
    path: Path,
    target: Target,
    options: CompileOptions,
    inputs: Arrays,
    progress: Progress | None = None,
) -> list[LayerError]:
    """Compile a model with every value as an output, run it, and compare all of them with ONNX Runtime's.

    Kernels that are fused in the artifact are separate here, so this finds the operator at fault, not its fusion.

    Args:
        inputs: by name, as the model takes them.

    Returns:
        errors in the order of the graph; the first that is not `ok` is where the models part.

    Raises:
        ModelError, UnsupportedModel, ToolMissing: as a compile.
    """
    from edgec.compiler.lower import lower

    source = load_source(path, options)
    opened = open_up(source)
    imported = to_relax(opened, fallback_allowed=options.fallback)
    lowered = lower(imported.mod, target, options, progress or Silent(), parts=imported.parts)
    target = target.without(lowered.unused)
    config = pack.make_config(
        opened, lowered, target, options, name="layers", version="1", card=None, segments=imported.segments
    )
    expected = Reference(opened).run(inputs)
    with tempfile.TemporaryDirectory(prefix="edgec-layers-") as folder:
        artifact = Path(folder) / "layers.edge"
        pack.write(artifact, config, lowered, segments=imported.segments)
        runner = backend_of(target).runner()
        got, _ = run_child(artifact, opened, inputs, options.threads or 1, Measure(), runner)
    makers = {name: node.op_type for node in opened.model.graph.node for name in node.output}
    return [
        LayerError(
            node=_label(opened, port.name),
            op_type=makers.get(port.name, ""),
            error=compare(port.name, expected[port.name], got[port.name], options.error_budget),
        )
        for port in opened.outputs
    ]


def open_up(source: SourceModel) -> SourceModel:
    """The model with every tensor that a node makes as an output, in the order of the graph."""
    model = ModelProto()
    model.CopyFrom(source.model)
    typed = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    made = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    del model.graph.output[:]
    # ONNX Runtime knows types of operators that the standard's inference does not
    model.graph.output.extend(typed.get(name, ValueInfoProto(name=name)) for name in made)
    for value, told in zip(
        model.graph.output, session_of(model.SerializeToString()).get_outputs(), strict=True
    ):
        if not is_tensor(value) and told.type in ELEMENTS:
            # an empty shape may be a scalar's, or that of a value of unknown rank
            shape = told.shape if told.shape and all(isinstance(n, int) for n in told.shape) else None
            value.CopyFrom(helper.make_tensor_value_info(value.name, ELEMENTS[told.type], shape))
    # of a type that numpy lacks, the cast beside it is compared
    kept = [value for value in model.graph.output if is_tensor(value) and _has_numpy(value)]
    copies = [ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del model.graph.output[:]
    model.graph.output.extend(copies)
    return replace(
        source, model=model, reference=model, outputs=ports_of(model.graph.output), original=None, states=()
    )


def _has_numpy(value: ValueInfoProto) -> bool:
    return bool(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).isbuiltin == 1)


def _label(source: SourceModel, value: str) -> str:
    index = source.origins.get(value)
    return source.nodes[index].label if index is not None and index < len(source.nodes) else value
