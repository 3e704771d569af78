"""A compile from end to end: load, import, lower, verify, pack."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.buckets import Built, join
from edgec.compiler.c_library.limits import check_c_library
from edgec.compiler.errors import ToolMissing, VerificationFailed
from edgec.compiler.frontends.source import ImportedModel, SourceModel
from edgec.compiler.lowered import Lowered
from edgec.compiler.options import WEIGHT_BITS, CompileOptions, Precision
from edgec.compiler.processing import build_processing
from edgec.compiler.progress import Progress, Silent
from edgec.compiler.proving import prove, threads_here
from edgec.compiler.quantise.contents import NEEDED
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.report.evidence import bucket_evidence, make_evidence
from edgec.compiler.report.html import render
from edgec.compiler.shared import Shared
from edgec.compiler.this_machine import estimated
from edgec.compiler.verify.ahead import Ahead
from edgec.compiler.verify.inputs import generated, make_inputs, read_inputs
from edgec.compiler.verify.process import Measure
from edgec.compiler.verify.questions import Questions
from edgec.compiler.verify.runnable import verifiable
from edgec.compiler.verify.verification import UNWRITTEN
from edgec.runtime import versions
from edgec.runtime.artifact.writer import check_replaceable
from edgec.targets import Target
from edgec.targets.errors import EdgecError

if TYPE_CHECKING:  # imported where a precision is chosen
    from edgec.compiler.precisions.narrow import Limit

PINNED = {"apache-tvm": versions.TVM, "apache-tvm-ffi": versions.TVM_FFI}
PLAIN: Precision = "fp32"
MEASURE = Measure(runs=60, limit_s=1.0, rounds=2, profile=5)
STRICT = Measure(
    runs=60, limit_s=6.0, rounds=5, profile=5
)  # where the result decides whether there is an artifact


@dataclass(frozen=True)
class CompileResult:
    """A finished compile.

    Attributes:
        artifact: the file that was written.
        digest: `sha256:…` of its manifest.
        config: its config blob.
        evidence: what was measured (see `edgec.compiler.report.evidence`).
        stages_s: seconds by stage.
        lowered: code, weights and kernels.
        initial: what states begin with, by the names that the config gives them.
    """

    artifact: Path
    digest: str
    config: rt.ArtifactConfig
    evidence: dict[str, Any]
    stages_s: dict[str, float]
    lowered: Lowered = field(repr=False)
    initial: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict, repr=False)


class _Clock:
    """Seconds by stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def check_versions() -> None:
    """Check that TVM and tvm-ffi are the supported pair.

    Raises:
        ToolMissing: another version, or not installed.
    """
    for package, wanted in PINNED.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError as error:
            raise ToolMissing(f"{package} is not installed: pip install 'edgec[compiler]'") from error
        if found != wanted:
            raise ToolMissing(
                f"{package} {found} is installed, but only {wanted} works: pip install '{package}=={wanted}'"
            )


def check_calibration(options: CompileOptions) -> None:
    """Check that calibration data and precision fit together.

    Raises:
        CalibrationError: data are missing, or nothing would use them.
    """
    if options.precision == "int8" and options.calibration is None:
        raise CalibrationError(
            f"--precision int8 needs data to find ranges with: --calibrate FOLDER (or FILE.npz), with {NEEDED}"
        )
    if options.calibration is not None and options.precision not in ("int8", "auto", *WEIGHT_BITS):
        raise CalibrationError(
            f"--calibrate is for --precision int8, w8, w4 or auto; {options.precision} needs no data"
        )
    if options.calibration is not None and options.buckets:
        raise CalibrationError("int8 takes one set of input shapes: give --input once for each input")


def compile_model(
    path: Path | str,
    target: Target,
    options: CompileOptions | None = None,
    *,
    card: rt.ModelCard | None = None,
    output: Path | str | None = None,
    name: str | None = None,
    version: str | None = None,
    inputs: Path | None = None,
    progress: Progress | None = None,
    shared: Shared | None = None,
) -> CompileResult:
    """Compile a model for a target and write a verified artifact.

    Args:
        path: an ONNX file.
        target: the hardware.
        options: see `CompileOptions`.
        card: the model card, for typed results.
        output: the artifact's file; None writes `<name>-<target>.edge` into the current folder.
        name: the artifact's name; None takes the card's or the file's.
        version: the artifact's version; None takes the card's, or 1.
        inputs: `.npz` file of inputs to verify with; None generates them.
        progress: receives the stages.
        shared: what earlier compiles of the model left, for one of several targets.

    Raises:
        ModelError, InputShapeError, UnsupportedModel: the model cannot be compiled.
        CalibrationError, BoundNotMet: it cannot be quantised with these data, or not within the bound.
        VerificationFailed, ToolMissing: it cannot be proven right.
        NotFaster: it is slower than ONNX Runtime, and the options forbid that.
        UsageError: the artifact would take the place of something that is no file.
        Nothing is written in any of these cases.
    """
    path, options, progress = Path(path), options or CompileOptions(), progress or Silent()
    shared = shared or Shared()
    check_versions()
    check_calibration(options)
    target = estimated(target, progress)
    backend = backend_of(target)
    backend.check_precision(options.precision)
    if options.verify:
        target = verifiable(target, options.precision, progress)
    if card is not None and card.states is not msgspec.UNSET and options.states is None:
        options = replace(options, states=card.states)
    if card is not None and card.constants is not msgspec.UNSET:
        options = replace(options, constants={**card.constants, **options.constants})
    name = name or (card.name if card else None) or pack.artifact_name(path)
    version = version or (card.version if card else None) or "1"
    output = Path(output) if output else Path(f"{name}-{target.name}.edge")
    check_replaceable(output)
    with Ahead() as ahead:
        task = _Task(path, target, options, card, inputs, progress, _Clock(), shared, ahead)
        built, precision = task.built()
        if options.c_library:
            check_c_library(built[0].lowered, target, built[0].imported.source.nodes)
        for note in built[0].imported.source.notes:
            progress.note(note)
        try:
            return task.written(output, name, version, built, precision)
        except VerificationFailed as failed:
            if options.precision != "auto" or precision is None or precision["chosen"] == PLAIN:
                raise
            return task.written_with_fewer(output, name, version, precision, failed)


def _load(
    path: Path, options: CompileOptions, progress: Progress, clock: _Clock, shared: Shared
) -> SourceModel:
    progress.stage("load")
    with clock("load"):
        source = shared.source(path, options)
    for sentence in source.chosen:
        progress.note(sentence)
    return source


@dataclass(frozen=True)
class _Task:
    """What every part of a compile needs to know."""

    path: Path
    target: Target
    options: CompileOptions
    card: rt.ModelCard | None
    inputs: Path | None
    progress: Progress
    clock: _Clock
    shared: Shared
    ahead: Ahead

    def built(self, limit: Limit | None = None) -> tuple[list[Built], dict[str, Any] | None]:
        """Compile the model for every set of input shapes.

        Args:
            limit: of layers in bf16 or fp16, where the precision is chosen anew.

        Returns:
            what was compiled, and what was measured to choose the precision of the first set, for the evidence.
        """
        built, told = list[Built](), list[dict[str, Any]]()
        for number, alone in enumerate(self.options.by_bucket()):
            if alone.precision in ("fp32", "tf32", "fp16"):
                built.append(self._built_in(alone, self.inputs if number == 0 else None, first=number == 0))
                continue
            one, measured = self._by_measurement(alone, self.inputs if number == 0 else None, limit)
            built.append(one)
            told.append(measured)
        return built, told[0] if told else None

    def _built_in(self, options: CompileOptions, inputs: Path | None, *, first: bool) -> Built:
        """Compile the model for one set of input shapes as the options say."""
        from edgec.compiler.build import build

        path, shared = self.path, self.shared
        source = _load(path, options, self.progress, self.clock, shared)
        if first and options.verify and options.tune == "none":
            self._begin_to_verify(source, inputs)
        self.progress.stage("import")
        with self.clock("import"):
            shared.imported(path, options)

        def import_with(on_host: Collection[int]) -> ImportedModel:
            return shared.imported(path, options, on_host)

        with self.clock("lower"):
            return build(import_with, self.target, options, self.progress)

    def _begin_to_verify(self, source: SourceModel, inputs: Path | None) -> None:
        """Begin what needs no compiled model: the other cores are idle in part while it is made."""
        options, threads = self.options, threads_here(self.options)

        def expect(asked: Questions) -> None:
            with suppress(EdgecError):  # verification itself asks again, and reports it
                self.shared.expected(source, asked.probes, threads, options.error_budget, asked.steps)

        self.ahead.begin(
            source,
            self.target,
            lambda: read_inputs(inputs, source) if inputs else next(generated(source))[1],
            threads=threads,
            measure=STRICT if options.require_faster else MEASURE,
            half=options.precision == "fp16",
            expect=expect,
        )

    def written(
        self,
        output: Path,
        name: str,
        version: str,
        built: Sequence[Built],
        precision: dict[str, Any] | None,
    ) -> CompileResult:
        """Prove what was compiled, and write the artifact."""
        options, progress, card = self.options, self.progress, self.card
        target = self.target.without(frozenset.intersection(*(one.lowered.unused for one in built)))
        imported, lowered = built[0].imported, built[0].lowered
        further, source = join(built), imported.source
        config = pack.make_config(
            source,
            lowered,
            target,
            options,
            name=name,
            version=version,
            card=card,
            segments=imported.segments,
            buckets=further.buckets,
        )
        if options.verify:
            progress.stage("verify")
        with self.clock("verify") if options.verify else nullcontext():
            measure = STRICT if options.require_faster else MEASURE
            proven = prove(
                config, built, further, target, self.inputs, options, self.shared, progress, measure,
                self.ahead.begun,
            )  # fmt: skip
        progress.stage("pack")
        processing = build_processing(card, config.inputs, config.outputs, target)
        if processing is not None:
            config = msgspec.structs.replace(config, around=processing.functions)
        evidence = make_evidence(
            proven.first,
            lowered=lowered,
            segments=imported.segments,
            sizes=pack.sizes(source, lowered, further),
            stages_s=self.clock.seconds,
            inputs=proven.verified_with,
            target=target.name,
            certificate=proven.certificate,
        )
        if precision is not None:
            evidence["precision"] = precision
        if further.buckets:
            evidence["buckets"] = bucket_evidence(config, proven.proofs)
        initial = pack.initial_values(source)
        digest = pack.write(
            output,
            config,
            lowered,
            evidence=evidence,
            report=render(f"{config.name} {config.version}", target.name, evidence),
            segments=imported.segments,
            labels=None if card else source.labels,
            bundled=backend_of(target).runtime_libraries() if options.bundle_runtime else None,
            processing=processing,
            further=further,
            initial=initial,
        )
        return CompileResult(output, digest, config, evidence, dict(self.clock.seconds), lowered, initial)

    def written_with_fewer(
        self, output: Path, name: str, version: str, precision: dict[str, Any], failed: VerificationFailed
    ) -> CompileResult:
        """`written` after verification refused what was chosen: with fewer narrow layers, and in the end with none."""
        from edgec.compiler.precisions.choice import ATTEMPTS, fewer_than
        from edgec.compiler.precisions.evidence import in_fp32_after_all, with_fewer_layers

        for attempt in range(ATTEMPTS + 1):
            why = str(failed).splitlines()[0].removesuffix(UNWRITTEN)
            if attempt == ATTEMPTS or not precision["narrow_error"]:  # 8-bit layers are compared otherwise
                break
            self.progress.note(f"{why}: tried again with fewer layers in {precision['chosen']}")
            built, found = self.built(fewer_than(precision["narrow_error"], precision["narrow_nodes"]))
            if found is None or not 0 < len(found["narrow_nodes"]) < len(precision["narrow_nodes"]):
                break
            precision = with_fewer_layers(found, precision, why)
            try:
                return self.written(output, name, version, built, precision)
            except VerificationFailed as again:
                failed = again
        self.progress.note(f"{why}: computed in fp32 instead of {precision['chosen']}")
        plain = replace(self, options=replace(self.options, precision=PLAIN, calibration=None))
        return plain.written(output, name, version, plain.built()[0], in_fp32_after_all(precision, why))

    def _by_measurement(
        self, options: CompileOptions, inputs: Path | None, limit: Limit | None
    ) -> tuple[Built, dict[str, Any]]:
        """Compile one set of input shapes in the precisions that may be worth it, and take the best.

        Returns:
            what was compiled, and what was measured on the way, for the evidence.
        """
        from edgec.compiler.precisions.choice import choose
        from edgec.compiler.precisions.evidence import to_json
        from edgec.compiler.precisions.narrow import ANY
        from edgec.compiler.precisions.variants import Variants

        source = _load(self.path, options, self.progress, self.clock, self.shared)
        arrays = dict(read_inputs(inputs, source) if inputs else make_inputs(source))
        with self.clock("lower"), tempfile.TemporaryDirectory(prefix="edgec-variants-") as folder:
            backend = backend_of(self.target)
            variants = Variants(self.target, options, Path(folder), threads_here(options), self.progress)
            chosen = choose(
                source, backend, options, self.card, arrays, variants, self.progress, limit or ANY
            )
        return chosen.variant.built, to_json(chosen, options.precision)


__all__ = ["CompileResult", "check_versions", "compile_model"]
