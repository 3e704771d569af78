"""A compile from end to end: load, import, lower, verify, pack."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.backends.interface import Backend
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.buckets import Built, join
from edgec.compiler.c_library.straight import check_straight
from edgec.compiler.errors import ToolMissing
from edgec.compiler.frontends.source import ImportedModel, SourceModel
from edgec.compiler.lowered import Lowered
from edgec.compiler.options import CompileOptions
from edgec.compiler.processing import build_processing
from edgec.compiler.progress import Progress, Silent
from edgec.compiler.quantise.dataset import NEEDED
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.report.certificate import Certificate, certify, require_faster
from edgec.compiler.report.evidence import bucket_evidence, make_evidence
from edgec.compiler.report.html import render
from edgec.compiler.shared import Shared
from edgec.compiler.this_machine import estimated, known_rates
from edgec.compiler.verify.inputs import make_inputs, read_inputs
from edgec.compiler.verify.process import Measure
from edgec.compiler.verify.run import verify, verify_on_generated
from edgec.compiler.verify.verification import Verification
from edgec.runtime import versions
from edgec.targets import Target, usable_cores
from edgec.targets.microarchitecture import this_processor

PINNED = {"apache-tvm": versions.TVM, "apache-tvm-ffi": versions.TVM_FFI}
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
    if options.calibration is not None and options.precision not in ("int8", "auto"):
        raise CalibrationError(
            f"--calibrate is for --precision int8 or auto; {options.precision} needs no calibration"
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
        backend.runner()  # fails now if verification would be impossible later
    if card is not None and card.states is not msgspec.UNSET and options.states is None:
        options = replace(options, states=card.states)
    if card is not None and card.constants is not msgspec.UNSET:
        options = replace(options, constants={**card.constants, **options.constants})
    clock = _Clock()
    built, precisions = list[Built](), list[dict[str, Any]]()
    task = _Task(path, target, options, card, inputs, progress, clock, shared)
    for number, alone in enumerate(options.by_bucket()):
        if options.precision in ("fp32", "fp16"):
            built.append(_build(path, target, alone, progress, clock, shared))
            continue
        one, told = task.by_measurement(alone, inputs if number == 0 else None)
        built.append(one)
        precisions.append(told)
    if options.straight:
        check_straight(built[0].lowered, target)
    imported, lowered = built[0].imported, built[0].lowered
    further, source = join(built), imported.source
    for note in source.notes:
        progress.note(note)
    name = name or (card.name if card else None) or pack.artifact_name(path)
    version = version or (card.version if card else None) or "1"
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
    output = Path(output) if output else Path(f"{name}-{target.name}.edge")
    proofs: list[Verification] = []
    verified_with = f"the inputs of {inputs.name}" if inputs else ""
    if options.verify:
        progress.stage("verify")
        with clock("verify"):
            proofs, generated = _verified(config, built, further, target, inputs, options, shared)
            verified_with = verified_with or generated
    verified: list[Verification | None] = [*proofs] or [None]
    certificates = [_certificate(proof, backend, progress) for proof in verified]
    if options.require_faster:
        for certificate in certificates:
            require_faster(certificate)
    progress.stage("pack")
    processing = build_processing(card, config.inputs, config.outputs, target)
    if processing is not None:
        config = msgspec.structs.replace(config, around=processing.functions)
    evidence = make_evidence(
        proofs[0] if proofs else None,
        lowered=lowered,
        segments=imported.segments,
        sizes=pack.sizes(source, lowered, further),
        stages_s=clock.seconds,
        inputs=verified_with,
        target=target.name,
        certificate=certificates[0],
    )
    if precisions:
        evidence["precision"] = precisions[0]
    if further.buckets:
        evidence["buckets"] = bucket_evidence(config, proofs)
    report = render(f"{config.name} {config.version}", target.name, evidence)
    digest = pack.write(
        output,
        config,
        lowered,
        evidence=evidence,
        report=report,
        segments=imported.segments,
        labels=None if card else source.labels,
        bundled=backend.runtime_libraries() if options.bundle_runtime else None,
        processing=processing,
        further=further,
        initial=pack.initial_values(source),
    )
    initial = pack.initial_values(source)
    return CompileResult(output, digest, config, evidence, dict(clock.seconds), lowered, initial)


def _build(
    path: Path,
    target: Target,
    options: CompileOptions,
    progress: Progress,
    clock: _Clock,
    shared: Shared,
) -> Built:
    """Compile the model for one set of input shapes as the options say."""
    from edgec.compiler.build import build

    _load(path, options, progress, clock, shared)
    progress.stage("import")
    with clock("import"):
        shared.imported(path, options)

    def import_with(on_host: Collection[int]) -> ImportedModel:
        return shared.imported(path, options, on_host)

    with clock("lower"):
        return build(import_with, target, options, progress)


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

    def by_measurement(self, options: CompileOptions, inputs: Path | None) -> tuple[Built, dict[str, Any]]:
        """Compile one set of input shapes in the precisions that may be worth it, and take the best.

        Returns:
            what was compiled, and what was measured on the way, for the evidence.
        """
        from edgec.compiler.precisions.choice import choose
        from edgec.compiler.precisions.evidence import to_json
        from edgec.compiler.precisions.variants import Variants

        source = _load(self.path, options, self.progress, self.clock, self.shared)
        arrays = dict(read_inputs(inputs, source) if inputs else make_inputs(source))
        with self.clock("lower"), tempfile.TemporaryDirectory(prefix="edgec-variants-") as folder:
            backend = backend_of(self.target)
            variants = Variants(self.target, options, Path(folder), threads_here(options), self.progress)
            chosen = choose(source, backend, options, self.card, arrays, variants, self.progress)
        return chosen.variant.built, to_json(chosen, options.precision)


def _verified(
    config: rt.ArtifactConfig,
    built: Sequence[Built],
    further: pack.Further,
    target: Target,
    inputs: Path | None,
    options: CompileOptions,
    shared: Shared,
) -> tuple[list[Verification], str]:
    """The proofs of all sets of input shapes, each run by the one artifact; `inputs` are for the first.

    Returns:
        the proofs, and which inputs were generated for the first.
    """
    first, proofs, described = built[0], list[Verification](), list[str]()
    how: dict[str, Any] = {
        "threads": threads_here(options),
        "budget": options.error_budget,
        "measure": STRICT if options.require_faster else MEASURE,
        "reference": shared.expected,
        "half": options.precision == "fp16",
    }
    with tempfile.TemporaryDirectory(prefix="edgec-compile-") as folder:
        unproven = Path(folder) / "unproven.edge"

        def write() -> None:
            source = first.imported.source
            pack.write(
                unproven,
                config,
                first.lowered,
                segments=first.imported.segments,
                further=further,
                initial=pack.initial_values(source),
            )

        for number, one in enumerate(built):
            source = one.imported.source
            how["write"] = write if number == 0 else None
            if number == 0 and inputs is not None:
                proof, told = verify(unproven, source, target, read_inputs(inputs, source), **how), ""
            else:
                proof, told = verify_on_generated(unproven, source, target, **how)
            proof.require()
            proofs.append(proof)
            described.append(told)
            for other in source.samples()[1:]:
                quick = how | {"write": None, "measure": None}
                verify_on_generated(unproven, other, target, **quick)[0].require()
    return proofs, described[0]


def _certificate(proof: Verification | None, backend: Backend, progress: Progress) -> Certificate:
    """How fast the result is beside ONNX Runtime and beside what this machine can do."""
    if proof is None:
        return certify(None, "", None, "without verification nothing runs")
    if not backend.runner().is_hardware:
        return certify(None, "", None, f"{backend.target.name} does not run on this machine ({proof.where})")
    return certify(proof, this_processor()[0], known_rates(backend, progress))


def threads_here(options: CompileOptions) -> int:
    """Threads to run with on this machine: the requested number, else all its cores."""
    return options.threads or usable_cores()


__all__ = ["CompileResult", "check_versions", "compile_model", "threads_here"]
