"""The same model compiled in several precisions, side by side on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.buckets import Built
from edgec.compiler.build import build
from edgec.compiler.frontends import ImportedModel, to_relax
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.lowered import Lowered
from edgec.compiler.operands.operands import BFLOAT16, FLOAT16
from edgec.compiler.options import ERROR_BUDGET, CompileOptions, Precision
from edgec.compiler.precisions.samples import worst_error
from edgec.compiler.progress import Progress
from edgec.compiler.quantise.evaluate import Evaluator, Quality
from edgec.compiler.quantise.structure import LAYERS
from edgec.compiler.verify.extremes import Probe
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.race import Measured, measure
from edgec.runtime.errors import EdgecError
from edgec.targets import Target

FP32, FP16, BF16, INT8, MIXED = "fp32", "fp16", "bf16", "int8", "mixed"
NARROW = {BF16: BFLOAT16, FP16: FLOAT16}


@dataclass(frozen=True)
class Variant:
    """The model in one precision.

    Attributes:
        name: `fp32`, `fp16`, `bf16`, `int8`, `w8`, `w4` or `mixed`.
        built: its code.
        artifact: a file that can be run.
        bf16: the source nodes that multiply in bfloat16: of those that may, the ones that have such a kernel.
        int8: the positions of the layers in 8 bits.
        fp16: as `bf16`, for half precision.
        weights: the source nodes whose weights have few bits.
    """

    name: str
    built: Built = field(repr=False)
    artifact: Path
    bf16: frozenset[int] = frozenset()
    int8: frozenset[int] = frozenset()
    fp16: frozenset[int] = frozenset()
    weights: frozenset[int] = frozenset()

    @property
    def narrow(self) -> frozenset[int]:
        """The source nodes that multiply in bfloat16 or half precision."""
        return self.bf16 | self.fp16

    @property
    def code_bytes(self) -> int:
        """The size of its code."""
        return len(self.built.lowered.code)

    @property
    def weights_bytes(self) -> int:
        """The size of its weights."""
        return sum(int(array.nbytes) for array in self.built.lowered.weights.values())


class Variants:
    """Compiles variants into `folder`, and measures them."""

    def __init__(
        self, target: Target, options: CompileOptions, folder: Path, threads: int, progress: Progress
    ) -> None:
        self.target, self.options, self.folder = target, options, folder
        self.threads, self.progress = threads, progress
        self.made: dict[str, Variant] = {}
        self.measured: dict[str, Measured] = {}

    def add(
        self,
        name: str,
        source: SourceModel,
        precision: Precision,
        bf16: Collection[int] = (),
        int8: Collection[int] = (),
        fp16: Collection[int] = (),
        weights: Collection[int] = (),
    ) -> Variant:
        """Compile the model.

        Args:
            bf16, fp16: with the precision `auto`, nodes that multiply in bfloat16, and in half precision.
            int8: layers that `source` quantises.
            weights: nodes whose weights have few bits in `source`.
        """

        def import_with(on_host: Collection[int]) -> ImportedModel:
            return to_relax(source, fallback_allowed=self.options.fallback, on_host=on_host)

        self.progress.stage("import")
        budget = min(self.options.error_budget, ERROR_BUDGET["auto"])
        options = replace(self.options, precision=precision, error_budget=budget)
        narrow = {**dict.fromkeys(bf16, BFLOAT16), **dict.fromkeys(fp16, FLOAT16)}
        built = build(import_with, self.target, options, self.progress, narrow)
        imported, lowered = built.imported, built.lowered
        config = pack.make_config(
            source,
            lowered,
            self.target.without(lowered.unused),
            options,
            name=name,
            version="1",
            card=None,
            segments=imported.segments,
        )
        artifact = self.folder / f"{name}-{len(self.made)}.edge"
        pack.write(artifact, config, lowered, segments=imported.segments, initial=pack.initial_values(source))
        made = _narrow(source, lowered, BF16)
        used = made if precision == BF16 else made & frozenset(bf16)
        halves = _narrow(source, lowered, FP16) & frozenset(fp16)
        kinds = (used, frozenset(int8), halves, frozenset(weights))
        self.made[name] = Variant(name, built, artifact, *kinds)
        return self.made[name]

    def race(self, inputs: Arrays) -> Mapping[str, Measured]:
        """Measure all variants together, so that load affects all alike."""
        self.progress.stage("race")
        artifacts = {name: variant.artifact for name, variant in self.made.items()}
        self.measured = measure(artifacts, inputs, self.threads)
        return self.measured

    def layer_ms(self, name: str, labels: Collection[str]) -> dict[str, float]:
        """The time of the kernels of some source nodes, by their labels; those that share a kernel have equal parts."""
        found: dict[str, float] = {}
        for layer in self.measured[name].layers:
            together = [label for label in dict.fromkeys(layer["nodes"]) if label in labels]
            for label in together:
                found[label] = found.get(label, 0.0) + float(layer["ms"]) / len(together)
        return found

    def error(self, name: str, samples: Sequence[Probe]) -> float:
        """The largest error of the compiled variant's outputs, relative to the largest value that fp32 computes."""
        return worst_error(samples, self._outputs(FP32, samples), self._outputs(name, samples))

    def _outputs(self, name: str, samples: Sequence[Probe]) -> dict[int, Arrays]:
        """The outputs by the number of the sample; it may refuse those that are not the first."""
        found: dict[int, Arrays] = {}
        with rt.load(self.made[name].artifact, threads=self.threads) as model:
            for number, sample in enumerate(samples):
                try:
                    outputs = model.run(dict(sample.inputs))
                except (EdgecError, RuntimeError, ValueError):  # indices are checked, for example
                    if not number:
                        raise
                    continue
                found[number] = {key: np.array(array) for key, array in outputs.items()}
        return found

    def quality(self, name: str, evaluator: Evaluator) -> Quality:
        """The quality of what the compiled variant computes."""
        with rt.load(self.made[name].artifact, threads=self.threads) as model:
            return evaluator.quality(lambda inputs: model.run(inputs))


def _narrow(source: SourceModel, lowered: Lowered, label: str) -> frozenset[int]:
    """The products whose kernels multiply in a precision: bfloat16 has none for depthwise convolutions, for example."""
    nodes = {
        node
        for kernel in lowered.kernels.values()
        if kernel.schedule.endswith(label)
        for node in kernel.nodes
    }
    layers = {
        source.origins[name]
        for one in source.model.graph.node
        if one.op_type in LAYERS
        for name in one.output
        if name in source.origins
    }
    return frozenset(nodes & layers)
