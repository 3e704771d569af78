"""Put the parts of a compile into an artifact."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

import edgec.runtime as rt
from edgec.compiler.c_library.table import table_bytes, varying_bytes
from edgec.compiler.frontends.source import FallbackSegment, Port, SourceModel, SourceNode, State
from edgec.compiler.lowered import Lowered, Plan
from edgec.compiler.options import Bounds, CompileOptions, Shape
from edgec.compiler.processing import ProcessingLibrary
from edgec.runtime.artifact.reader import program_title
from edgec.targets import Target


def artifact_name(path: Path) -> str:
    """A name for a model's artifact, from its file name: letters, digits, `.`, `_`, `-`. A file that is just called
    `model` is named after its folder."""
    name = _plain(path.stem) or "model"
    return (_plain(path.absolute().parent.name) or name) if path.stem.lower() == "model" else name


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")


@dataclass(frozen=True)
class Further:
    """The parts of an artifact for all sets of input shapes but the first.

    Attributes:
        buckets: their descriptions, for the config.
        weights: by name, those that the first set's code does not read.
        libraries: code by the title of its layer.
        graphs: ONNX graphs for ONNX Runtime by the title of their layer.
        plans: the plan of memory and calls of each set.
    """

    buckets: tuple[rt.Bucket, ...] = ()
    weights: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    libraries: Mapping[str, bytes] = field(default_factory=dict)
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    plans: tuple[Plan | None, ...] = ()


NOTHING_FURTHER = Further()


def make_config(
    source: SourceModel,
    lowered: Lowered,
    target: Target,
    options: CompileOptions,
    *,
    name: str,
    version: str,
    card: rt.ModelCard | None,
    segments: Sequence[FallbackSegment] = (),
    buckets: tuple[rt.Bucket, ...] = (),
) -> rt.ArtifactConfig:
    """The artifact's config blob: without times or machines, so that equal compiles are equal bytes."""
    return rt.ArtifactConfig(
        name=name,
        version=version,
        target=target.name,
        arch=target.arch,
        device_kind=target.device_kind,
        required_features=tuple(sorted(target.features)),
        min_glibc=target.min_glibc,
        tvm_version=metadata.version("apache-tvm"),
        edgec_version=metadata.version("edgec"),
        inputs=specs(source.inputs, source.bounds),
        outputs=specs(known_outputs(source.outputs, lowered)),
        states=states_of(source),
        entry=lowered.entry,
        weights=tuple(lowered.weights),
        plan=plan_of(lowered),
        varies=lowered.varies,
        calls=lowered.calls,
        threads=options.threads,
        # without what is compiled in, so that an edgec that does not know these keys reads the card, too
        pipeline=card and msgspec.structs.replace(card, states=UNSET, constants=UNSET),
        precision=options.precision,
        kernels=kernels(lowered, source.nodes, segments),
        segments=segments_of(segments),
        buckets=buckets,
        provenance=_provenance(source, options),
    )


def specs(ports: Sequence[Port], bounds: Mapping[str, Bounds] | None = None) -> tuple[rt.TensorSpec, ...]:
    """Inputs or outputs in the config's form."""
    return tuple(
        rt.TensorSpec(
            name=port.name,
            safe_name=port.safe_name,
            shape=port.shape,
            dtype=port.dtype,
            symbols=port.symbols,
            bounds=_bounds(port, bounds or {}),
        )
        for port in ports
    )


def known_outputs(ports: Sequence[Port], lowered: Lowered) -> list[Port]:
    """The model's outputs, with the sizes that the compiler found where the file has none."""
    if len(ports) != len(lowered.results):
        return list(ports)
    return [
        port
        if found is None or (len(found) == len(port.shape) and -1 not in port.shape)
        else replace(port, shape=found)
        for port, found in zip(ports, lowered.results, strict=True)
    ]


def states_of(source: SourceModel, bucket: int = 0) -> tuple[rt.StateSpec, ...]:
    """The model's states in the config's form."""
    ports = {port.name: port for port in source.inputs}
    return tuple(
        rt.StateSpec(
            input=state.input,
            output=state.output,
            shape=ports[state.input].shape,
            dtype=ports[state.input].dtype,
            initial=None if is_zero(state) else initial_name(state, bucket),
            origin=state.origin,
        )
        for state in source.states
    )


def initial_values(source: SourceModel, bucket: int = 0) -> dict[str, npt.NDArray[np.generic]]:
    """What the states begin with where that is not zero, by the names that the config gives them."""
    return {
        initial_name(state, bucket): np.array(state.initial, order="C")
        for state in source.states
        if state.initial is not None and not is_zero(state)
    }


def initial_name(state: State, bucket: int = 0) -> str:
    """The name under which the artifact stores what a state begins with."""
    return f"initial:{state.input}" + (f".{bucket}" if bucket else "")


def is_zero(state: State) -> bool:
    """Whether a state begins with zeros."""
    return state.initial is None or not state.initial.any()


def _bounds(port: Port, bounds: Mapping[str, Bounds]) -> tuple[tuple[int, int], ...]:
    return tuple(
        (bounds[symbol].low, bounds[symbol].high) if symbol else (length, length)
        for symbol, length in zip(port.symbols, port.shape, strict=False)
    )


def segments_of(segments: Sequence[FallbackSegment], bucket: int = 0) -> tuple[rt.Segment, ...]:
    """The segments that ONNX Runtime runs, in the config's form."""
    return tuple(
        rt.Segment(
            kind="onnxruntime",
            function=segment.function,
            inputs=segment.inputs,
            outputs=segment.outputs,
            layer=layer_name(number, bucket),
            nodes=segment.nodes,
        )
        for number, segment in enumerate(segments)
    )


def graphs(segments: Sequence[FallbackSegment], bucket: int = 0) -> dict[str, bytes]:
    """The graphs that ONNX Runtime runs by the titles of their layers."""
    return {layer_name(number, bucket): segment.model for number, segment in enumerate(segments)}


def plan_of(lowered: Lowered) -> rt.MemoryPlan | None:
    """The static memory plan in the config's form."""
    if lowered.plan is None:
        return None
    tensors = (rt.PlannedTensor(offset=t.offset, shape=t.shape, dtype=t.dtype) for t in lowered.plan.tensors)
    return rt.MemoryPlan(entry=lowered.plan.entry, bytes=lowered.plan.bytes, tensors=tuple(tensors))


def kernels(
    lowered: Lowered, nodes: tuple[SourceNode, ...], segments: Sequence[FallbackSegment]
) -> dict[str, rt.KernelInfo]:
    """The source nodes of each kernel, in the config's form; a segment counts as one."""
    own = {
        symbol: rt.KernelInfo(
            calls=tuple(tuple(nodes[i].label for i in call if i < len(nodes)) for call in kernel.calls),
            op=kernel.kind,
            flops=kernel.flops,
            bytes=kernel.bytes,
            schedule=kernel.schedule,
        )
        for symbol, kernel in sorted(lowered.kernels.items())
    }
    return own | {s.function: rt.KernelInfo(op="onnxruntime", calls=(s.nodes,)) for s in segments}


def layer_name(number: int, bucket: int = 0) -> str:
    """The title of the layer with the graph of a segment."""
    return f"fallback-{bucket}-{number}.onnx" if bucket else f"fallback-{number}.onnx"


def _provenance(source: SourceModel, options: CompileOptions) -> rt.Provenance:
    model = source.reference
    return rt.Provenance(
        source=source.path.name.encode(errors="replace").decode(),  # a file name may be any bytes
        source_sha256=source.digest.removeprefix("sha256:"),
        source_bytes=source.path.stat().st_size,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opset={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        options=described(options),
    )


def described(options: CompileOptions) -> dict[str, Any]:
    """The options that shape an artifact's content, as JSON-serialisable values."""
    return {
        "threads": options.threads,
        "tune": options.tune,
        "precision": options.precision,
        "input_shapes": _listed(options.input_shapes),
        **({"buckets": [_listed(shapes) for shapes in options.buckets]} if options.buckets else {}),
        **({"states": [[p.input, p.output] for p in options.states]} if options.states is not None else {}),
        **({"constants": dict(options.constants)} if options.constants else {}),
        "fallback": options.fallback,
        "verify": options.verify,
    }


def _listed(shapes: Mapping[str, Shape]) -> dict[str, list[int | str]]:
    texts = {
        name: [one if isinstance(one, int) else str(one) for one in shape] for name, shape in shapes.items()
    }
    return dict(sorted(texts.items()))


def sizes(source: SourceModel, lowered: Lowered, further: Further = NOTHING_FURTHER) -> dict[str, int]:
    """Bytes of the source model, the code, the weights and the planned activations (of the first shapes)."""
    codes = [lowered.code, *further.libraries.values()]
    arrays = [*lowered.weights.values(), *further.weights.values()]
    return {
        "source_bytes": source.path.stat().st_size,
        "code_bytes": sum(map(len, codes)),
        "weights_bytes": sum(int(array.nbytes) for array in arrays),
        "activation_bytes": lowered.activation_bytes,
    }


def write(
    path: Path,
    config: rt.ArtifactConfig,
    lowered: Lowered,
    *,
    evidence: Mapping[str, Any] | None = None,
    report: str | None = None,
    segments: Sequence[FallbackSegment] = (),
    labels: Sequence[str] | None = None,
    bundled: Mapping[str, bytes] | None = None,
    processing: ProcessingLibrary | None = None,
    further: Further = NOTHING_FURTHER,
    initial: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> str:
    """Write the artifact (whole or not at all) and return its manifest's digest."""
    return rt.write_artifact(
        path,
        config=config,
        code=lowered.code,
        weights={**lowered.weights, **further.weights, **(initial or {})},
        evidence=evidence,
        report_html=report,
        labels=labels or None,
        fallback={**graphs(segments), **further.graphs},
        buckets=further.libraries,
        bundled={**lowered.libraries, **(bundled or {})},
        around=processing.code if processing else None,
        programs=_programs(config, lowered, further.plans),
    )


def _programs(
    config: rt.ArtifactConfig, lowered: Lowered, further: Sequence[Plan | None]
) -> dict[str, bytes]:
    """The tables of all sets of input shapes by the titles of their layers."""
    first, *others = config.variants()
    tables = [varying_bytes(lowered, first) if lowered.varies else table_bytes(lowered.plan, first)]
    tables += [table_bytes(plan, alone) for plan, alone in zip(further, others, strict=True)]
    return {program_title(number): table for number, table in enumerate(tables) if table is not None}
