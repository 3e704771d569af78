"""The artifact's config blob: all that a loader, a fleet and a report need to know before any code is loaded.

It is the OCI config of the artifact's manifest: JSON with a schema and a format version. A reader ignores unknown
fields; a change that an old reader would misread requires a new `FORMAT_VERSION`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgec.runtime.card import ModelCard
from edgec.runtime.card.values import Name, Version
from edgec.runtime.schema import Part, prepare
from edgec.runtime.versions import RUNTIME_ABI

FORMAT_VERSION = 1


class TensorSpec(Part, kw_only=True):
    """One input or output.

    Attributes:
        name: its name in the source model.
        safe_name: its name in the compiled function.
        shape: its shape; of an input, the smallest one; -1 for a size of an output that differs from run to run.
        dtype: numpy's name of its element type.
        symbols: a name for each size that is chosen anew for each run, empty for the others; nothing if all are fixed.
            Equal names are equal sizes.
        bounds: the smallest and the largest value of each size; nothing if all are fixed.
    """

    name: str
    safe_name: str
    shape: tuple[int, ...]
    dtype: str
    symbols: tuple[str, ...] = ()
    bounds: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype}[{', '.join(self.sizes())}]"

    def sizes(self) -> list[str]:
        """The sizes in words: `3`, or `1..8`."""
        if not self.bounds:
            return [str(size) for size in self.shape]
        return [str(low) if low == high else f"{low}..{high}" for low, high in self.bounds]

    def takes(self, shape: tuple[int, ...], known: dict[str, int]) -> bool:
        """Whether a shape is within the bounds, and agrees with the sizes of other inputs in `known`."""
        if not self.bounds:
            return shape == self.shape
        if len(shape) != len(self.bounds):
            return False
        return all(
            low <= size <= high and (not symbol or known.setdefault(symbol, size) == size)
            for size, symbol, (low, high) in zip(shape, self.symbols, self.bounds, strict=True)
        )


class StateSpec(Part, kw_only=True):
    """A value that a session carries from one run to the next.

    The compiled function takes it as the input `input` and returns its next value as the output `output`. Both are
    among the config's inputs and outputs, so that a reader that does not know states passes them in and out itself.

    Attributes:
        input, output: names in the source model.
        shape: that of both.
        dtype: numpy's name of their element type.
        initial: the name of the stored array that it begins with; None for zeros.
        origin: a `variable` of the model, a pair found by its `names`, or one that was `declared`.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    dtype: str
    initial: str | None = None
    origin: Literal["variable", "names", "declared"] = "declared"

    def __str__(self) -> str:
        return f"{self.input!r} → {self.output!r} {self.dtype}[{', '.join(map(str, self.shape))}]"


class KernelInfo(Part, kw_only=True):
    """What one compiled kernel computes.

    Attributes:
        op: kind of operator.
        calls: names of the source nodes that each of its calls computes, in the order of one run: a kernel may be
            called from several places.
        flops: operations of one call.
        bytes: bytes that one call reads and writes at least.
        schedule: the schedule it was built with.
    """

    op: str = ""
    calls: tuple[tuple[str, ...], ...] = ()
    flops: int = 0
    bytes: int = 0
    schedule: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """All source nodes that this kernel computes, without duplicates."""
        return tuple(dict.fromkeys(node for call in self.calls for node in call))


class Segment(Part, kw_only=True):
    """A sub-graph that was not compiled and runs on ONNX Runtime.

    Attributes:
        kind: the runtime that runs it.
        inputs: names of the sub-graph's inputs.
        outputs: names of the sub-graph's outputs.
        function: the name by which compiled code calls it.
        layer: title of the layer that holds the sub-graph.
        nodes: the source model's nodes in it.
    """

    kind: Literal["onnxruntime"] = "onnxruntime"
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    function: str
    layer: str
    nodes: tuple[str, ...] = ()


class PlannedTensor(Part, kw_only=True):
    """An activation's place in the arena: `offset` in bytes from its start, a multiple of 64."""

    offset: Annotated[int, Meta(ge=0, multiple_of=64)]
    shape: tuple[int, ...]
    dtype: str


class MemoryPlan(Part, kw_only=True):
    """The static memory plan: `entry` takes inputs, weights, then `tensors`, which are parts of an arena of `bytes`.

    Tensors may share bytes; a run overwrites them all. A reader that ignores the plan calls the config's own `entry`,
    which computes the same and allocates as it goes.
    """

    entry: str
    bytes: Annotated[int, Meta(ge=0)]
    tensors: tuple[PlannedTensor, ...] = ()


class Bucket(Part, kw_only=True):
    """A further set of input shapes of the same model, with its own library and weights shared by name.

    `layer` is the title of the code layer with its library; the other fields are those of `ArtifactConfig`, which
    itself describes the first set.
    """

    layer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    entry: str = "main"
    weights: tuple[str, ...] = ()
    plan: MemoryPlan | None = None
    varies: bool = False
    calls: tuple[str, ...] = ()
    kernels: dict[str, KernelInfo] = msgspec.field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    states: tuple[StateSpec, ...] = ()


class Provenance(Part, kw_only=True):
    """Where the artifact came from; without times or machines, so that equal compiles give equal bytes."""

    source: str = ""
    source_sha256: str = ""
    source_bytes: int = 0
    producer: str = ""
    opset: dict[str, int] = msgspec.field(default_factory=dict)
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class ArtifactConfig(Part, kw_only=True):
    """The config blob. `weights` are tensor names in the order in which a call passes them, after the inputs.

    `pipeline` is the model card without its labels, which are a layer of their own. `segments` are the parts that need
    `onnxruntime` on the device. `states` are inputs that a session feeds with outputs of the run before; what they
    begin with is stored beside the weights. `around` names the functions of the library of pre- and postprocessing (see
    `edgec.runtime.processing.compiled`). `buckets` are further input shapes of the model; a reader that does not know
    them runs the first. `varies` says that the shapes of results, or the memory that they share with inputs, may differ
    from call to call: there are branches, loops, or sizes known only at run time. `calls` names the functions of the
    runtime that compiled code calls by name.
    """

    format_version: int = FORMAT_VERSION
    runtime_abi: str = RUNTIME_ABI
    name: Name
    version: Version = "1"
    target: str
    arch: str
    device_kind: str = "cpu"
    required_features: tuple[str, ...] = ()
    min_glibc: str | None = None
    tvm_version: str = ""
    edgec_version: str = ""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    entry: str = "main"
    weights: tuple[str, ...] = ()
    plan: MemoryPlan | None = None
    varies: bool = False
    calls: tuple[str, ...] = ()
    threads: int | None = None
    pipeline: ModelCard | None = None
    quantisation: dict[str, Any] | None = None
    precision: str = "fp32"
    kernels: dict[str, KernelInfo] = msgspec.field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    states: tuple[StateSpec, ...] = ()
    around: tuple[str, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    provenance: Provenance = Provenance()

    def variants(self) -> tuple[ArtifactConfig, ...]:
        """One config without buckets for each set of input shapes, the first set first."""
        alone = msgspec.structs.replace(self, buckets=())
        fields = (
            "inputs",
            "outputs",
            "entry",
            "weights",
            "plan",
            "varies",
            "calls",
            "kernels",
            "segments",
            "states",
        )
        further = [msgspec.structs.replace(alone, **{f: getattr(b, f) for f in fields}) for b in self.buckets]
        return alone, *further

    @property
    def in_half_precision(self) -> bool:
        """Whether it computes in half precision, all of it or some layers."""
        kernels = [kernel for one in self.variants() for kernel in one.kernels.values()]
        return self.precision == "fp16" or any(kernel.schedule.endswith(" fp16") for kernel in kernels)

    def visible(self) -> ArtifactConfig:
        """The config as a session shows it: inputs and outputs without states."""
        taken = {state.input for state in self.states}
        made = {state.output for state in self.states}
        return msgspec.structs.replace(
            self,
            inputs=tuple(spec for spec in self.inputs if spec.name not in taken),
            outputs=tuple(spec for spec in self.outputs if spec.name not in made),
        )


prepare(ArtifactConfig)
