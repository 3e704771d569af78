"""What stands between a compiled model and its artifact: it is run, compared and timed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.backends.interface import Backend
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.buckets import Built
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress
from edgec.compiler.report.certificate import Certificate, certify, require_faster
from edgec.compiler.shared import Shared
from edgec.compiler.this_machine import known_rates
from edgec.compiler.verify.ahead import Begun
from edgec.compiler.verify.inputs import read_inputs
from edgec.compiler.verify.process import Measure
from edgec.compiler.verify.run import verify, verify_on_generated
from edgec.compiler.verify.verification import Verification
from edgec.targets import Target, usable_cores
from edgec.targets.microarchitecture import this_processor


@dataclass(frozen=True)
class Proven:
    """What is known about a compiled model.

    Attributes:
        proofs: one for each set of input shapes; empty without verification.
        certificate: how fast it is for the first set.
        verified_with: which inputs were compared, in words.
    """

    proofs: tuple[Verification, ...]
    certificate: Certificate
    verified_with: str

    @property
    def first(self) -> Verification | None:
        """The proof for the first set of input shapes."""
        return self.proofs[0] if self.proofs else None


def prove(
    config: rt.ArtifactConfig,
    built: Sequence[Built],
    further: pack.Further,
    target: Target,
    inputs: Path | None,
    options: CompileOptions,
    shared: Shared,
    progress: Progress,
    measure: Measure,
    begun: Begun | None = None,
) -> Proven:
    """Compare the model with its reference for every set of input shapes, and time it beside ONNX Runtime.

    Args:
        inputs: `.npz` file of inputs for the first set; None generates them.
        measure: how long to time.
        begun: the verification for the first set, if it began while the model was lowered.

    Raises:
        VerificationFailed: an output is wrong.
        NotFaster: it is slower than ONNX Runtime, and the options forbid that.
    """
    proofs, generated = (
        _compared(config, built, further, target, inputs, options, shared, measure, begun)
        if options.verify
        else ([], "")
    )
    backend = backend_of(target)
    verified: list[Verification | None] = [*proofs] or [None]
    certificates = [_certificate(proof, backend, progress) for proof in verified]
    if options.require_faster:
        for certificate in certificates:
            require_faster(certificate)
    told = f"the inputs of {inputs.name}" if inputs else generated
    return Proven(tuple(proofs), certificates[0], told)


def _compared(
    config: rt.ArtifactConfig,
    built: Sequence[Built],
    further: pack.Further,
    target: Target,
    inputs: Path | None,
    options: CompileOptions,
    shared: Shared,
    measure: Measure,
    begun: Begun | None,
) -> tuple[list[Verification], str]:
    """The proofs of all sets of input shapes, each run by the one artifact.

    Returns:
        the proofs, and which inputs were generated for the first.
    """
    first, proofs, described = built[0], list[Verification](), list[str]()
    how: dict[str, Any] = {
        "threads": threads_here(options),
        "budget": options.error_budget,
        "measure": measure,
        "reference": shared.expected,
        "half": config.in_half_precision,
    }
    with tempfile.TemporaryDirectory(prefix="edgec-compile-") as folder:
        unproven = begun.artifact if begun is not None else Path(folder) / "unproven.edge"

        def write() -> None:
            pack.write(
                unproven,
                config,
                first.lowered,
                segments=first.imported.segments,
                further=further,
                initial=pack.initial_values(first.imported.source),
            )

        for number, one in enumerate(built):
            source = one.imported.source
            how |= {"write": write, "begun": begun} if number == 0 else {"write": None, "begun": None}
            if number == 0 and inputs is not None:
                proof, told = verify(unproven, source, target, read_inputs(inputs, source), **how), ""
            else:
                proof, told = verify_on_generated(unproven, source, target, **how)
            proof.require(options.precision)
            proofs.append(proof)
            described.append(told)
            for other in source.samples()[1:]:
                quick = how | {"write": None, "measure": None, "begun": None}
                verify_on_generated(unproven, other, target, **quick)[0].require(options.precision)
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
