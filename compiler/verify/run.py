"""Verify an artifact: run it in a clean process and compare every output with the reference's."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgec.compiler.backends.registry import backend_of
from edgec.compiler.errors import ModelError, VerificationFailed
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.ahead import Begun
from edgec.compiler.verify.assess import (
    Expected,
    InputsRefused,
    assess,
    assess_steps,
    expected_for,
    judge_others,
)
from edgec.compiler.verify.hollow import differs
from edgec.compiler.verify.inputs import Arrays, generated, simplest
from edgec.compiler.verify.judge import Judgement
from edgec.compiler.verify.process import ArtifactCrashed, Measure, started
from edgec.compiler.verify.questions import questions_for
from edgec.compiler.verify.reference import Reference
from edgec.compiler.verify.reference_layers import by_node
from edgec.compiler.verify.verification import Verification
from edgec.targets import Target

__all__ = ["Measure", "verify", "verify_on_generated"]


def verify(
    artifact: Path,
    source: SourceModel,
    target: Target,
    inputs: Arrays,
    *,
    threads: int,
    budget: float,
    measure: Measure | None = None,
    write: Callable[[], object] | None = None,
    emulate: bool = False,
    reference: Callable[..., Expected] = expected_for,
    half: bool = False,
    begun: Begun | None = None,
) -> Verification:
    """Run `artifact` on `inputs` in a clean process; compare it with its own framework or ONNX Runtime.

    It is also compared on extreme inputs made from `inputs`. A model with states is instead run several times in one
    session, from its initial state, and once for each condition that `inputs` could decide otherwise, from the state
    that `inputs` holds.

    Args:
        inputs: for a sequence of one's own, arrays may have a first axis more, of as many runs.
        write: writes the artifact, if it does not exist yet: the process starts meanwhile.
        emulate: run it in an emulator of its target even if this machine could run it.
        reference: computes what is expected, or remembers it; see `edgec.compiler.verify.assess.expected_for`.
        half: it computes in half precision.
        begun: a process that waits for it, if these are the inputs for which it was begun.

    Raises:
        ToolMissing: its target can run neither on this machine nor in an emulator here.
        VerificationFailed: the artifact's process crashed or refused.
        ModelError: there is no reference that runs the source model on these inputs.
    """
    backend = backend_of(target)
    runner = backend.emulator() if emulate else backend.runner()
    asked = questions_for(source, inputs, half=half)
    probes, steps = asked.probes, asked.steps
    with ExitStack() as stack:
        if begun is not None and not emulate and begun.fits(artifact, inputs, half=half):
            child = begun.child
        else:
            how = (threads, measure or Measure(), runner, steps)
            child = stack.enter_context(started(artifact, source, asked.values, *how))
        if write is not None:
            write()
        child.begin()
        expected = reference(source, probes, threads, budget, steps)
        try:
            got, result = child.finish()
        except ArtifactCrashed as error:
            which = f" on inputs with {probes[error.probe].name}" if error.probe else ""
            if error.how is signal.SIGILL and not runner.is_hardware:
                which += f": {runner.description} may lack an instruction that {target.name} has"
            raise VerificationFailed(f"{error}{which}") from error
    judged: tuple[Judgement, ...]
    if steps:
        errors = assess_steps(source, expected, child.by_step(got[0]))
        judged = judge_others(source, probes, expected, got, result["probes"])
    else:
        errors, judged = assess(source, probes, expected, got, result["probes"])
    return Verification(
        errors=errors,
        budget=expected.budget,
        where=runner.description,
        reference=expected.reference,
        threads=threads,
        latency=result.get("latency", {}),
        layers=tuple(result.get("layers", [])),
        reference_layers=_by_node(source, result.get("reference_layers", [])),
        golden=result.get("golden"),
        steps=len(steps),
        extremes=judged,
    )


def _by_node(source: SourceModel, events: list[dict[str, Any]]) -> dict[str, float]:
    """What ONNX Runtime takes for each node of the model that it ran."""
    graph = source.reference.graph
    producers = {output: node.name for node in graph.node for output in node.output if output}
    return by_node(events, producers, {node.name for node in graph.node if node.name})


def verify_on_generated(
    artifact: Path,
    source: SourceModel,
    target: Target,
    *,
    threads: int,
    budget: float,
    measure: Measure | None = None,
    write: Callable[[], object] | None = None,
    emulate: bool = False,
    reference: Callable[..., Expected] = expected_for,
    half: bool = False,
    begun: Begun | None = None,
) -> tuple[Verification, str]:
    """Verify as `verify` on generated inputs: on those of another range if the first show nothing of an output.

    Returns:
        the result, and which inputs it is of.

    Raises:
        ModelError: the reference fails on every set of generated inputs.
    """
    how: dict[str, Any] = {
        "threads": threads,
        "budget": budget,
        "measure": measure,
        "emulate": emulate,
        "reference": reference,
        "half": half,
    }
    tries = itertools.chain(generated(source), simplest(source))
    described, inputs = next(tries)
    try:
        proof = verify(artifact, source, target, inputs, **how, write=write, begun=begun)
    except InputsRefused as refusal:
        following = _next_run(source, tries, threads, lambda run: True)
        if following is None:
            raise InputsRefused(
                f"{source.path}: {str(refusal).rstrip('.')}.\nThese inputs were made up. If the model needs others, "
                "give them with --verify-with FILE.npz, an array for each input by its name; else mend what is named"
            ) from refusal
        described, inputs = following
        proof = verify(artifact, source, target, inputs, **how)
    if proof.undefined or proof.hollow:
        following = _next_run(source, tries, threads, _says_more_than(proof, source, inputs, threads))
        if following is not None:
            described, inputs = following
            proof = verify(artifact, source, target, inputs, **how)
    return proof, described


def _next_run(
    source: SourceModel, tries: Iterable[tuple[str, Arrays]], threads: int, wanted: Callable[[Arrays], bool]
) -> tuple[str, Arrays] | None:
    """The first of some inputs that the reference runs on, with outputs as `wanted`."""
    reference = source.original or Reference(source, threads)
    for described, inputs in tries:
        try:
            with np.errstate(all="ignore"):
                outputs = reference.run(inputs)
        except ModelError:
            continue
        if wanted(dict(outputs)):
            return described, inputs
    return None


def _says_more_than(
    proof: Verification, source: SourceModel, inputs: Arrays, threads: int
) -> Callable[[Arrays], bool]:
    """Whether a run of the reference has values where the outputs of `proof` had none, or always the same."""
    undefined = [error.name for error in proof.errors if error.undefined]
    hollow = [error.name for error in proof.errors if error.hollow]
    with np.errstate(all="ignore"):
        before = dict((source.original or Reference(source, threads)).run(inputs))

    def wanted(run: Arrays) -> bool:
        if any(bool(np.isnan(run[name]).all()) for name in undefined):
            return False
        return differs(before, run, hollow)

    return wanted
