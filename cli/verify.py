"""`edgec verify`: compare an artifact with its source model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from edgec.cli.arguments import existing
from edgec.cli.console import emit_json, out, styled
from edgec.targets.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from edgec.compiler.frontends.source import SourceModel
    from edgec.compiler.options import CompileOptions, Precision
    from edgec.compiler.verify.compare import OutputError
    from edgec.compiler.verify.inputs import Arrays
    from edgec.compiler.verify.verification import Verification
    from edgec.runtime import ArtifactConfig
    from edgec.runtime.card import StatePair
    from edgec.targets import Target


def command(
    artifact: Annotated[Path, typer.Argument(help="An .edge file.", show_default=False)],
    model: Annotated[
        Path, typer.Argument(help="The model that the artifact was compiled from.", show_default=False)
    ],
    inputs: Annotated[Path | None, typer.Option(help="An .npz file of inputs. [default: random]")] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--error-budget",
            "--budget",
            help="Largest accepted error, relative to the output's largest value. "
            "[default: the budget of `edgec compile` for the artifact's precision]",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. [default: all cores]")] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Compare every intermediate value, to find the first that differs."),
    ] = False,
    emulate: Annotated[
        bool,
        typer.Option(
            "--emulate",
            help="Run the artifact in an emulator of its target, which is the default only where this machine cannot "
            "run it. `edgec targets emulator install` prepares it.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run an artifact and its source model on the same inputs and compare every output.

    An artifact that accepts several input shapes is checked with each of them, or with those of the given inputs. One
    with states runs several times in a session, and each run is compared with the reference's own. The
    exit status is 1 if an output differs by more than the budget, or is NaN throughout. An int8 artifact is compared
    with the float model, which says something on inputs like those that it was calibrated with (--inputs).
    """
    from edgec.compiler.options import ERROR_BUDGET, CompileOptions
    from edgec.compiler.verify.run import verify, verify_on_generated
    from edgec.runtime import Artifact
    from edgec.targets import load_target, usable_cores

    opened = Artifact.open(existing(artifact, "artifact"))
    config = opened.config
    budget = ERROR_BUDGET[_precision(config)] if budget is None else budget
    existing(model, "model file")
    target = load_target(config.target)
    target, cases = (
        target.without(target.features - set(config.required_features)),
        list(_cases(model, inputs, config)),
    )
    if not cases:
        raise UsageError(f"{inputs}: the shapes do not match; the artifact accepts {_shapes(config)}")
    if layers and config.precision == "int8":
        raise UsageError(
            f"{artifact}: --layers compares with the float model, and int8 computes another one: the artifact's report "
            "shows what int8 costs in each layer"
        )
    if layers and emulate:
        raise UsageError("--layers compiles the model anew and compares it where it runs; omit --emulate")
    if layers:
        source, values = cases[0]
        options = CompileOptions(
            input_shapes={port.name: port.shape for port in source.inputs},
            threads=threads,
            tune="none",
            error_budget=budget,
            precision=_precision(config),
        )
        _show_layers(model, target, options, values, as_json=as_json)
        return
    how: dict[str, Any] = {"threads": threads or usable_cores(), "budget": budget, "emulate": emulate}
    how["half"] = config.in_half_precision
    results = [
        verify_on_generated(artifact, source, target, **how)[0]
        if inputs is None
        else verify(artifact, source, target, values, **how)
        for source, values in cases
    ]
    known = cases[0][0].digest.removeprefix("sha256:") == config.provenance.source_sha256
    if as_json:
        first, *further = [result.to_json() | {"same_source": known} for result in results]
        emit_json(first | ({"buckets": further} if further else {}))
    else:
        _show(artifact.name, results)
        if not known:
            out.print(styled(("note:", "yellow"), " the artifact was compiled from a different file"))
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _cases(model: Path, inputs: Path | None, config: ArtifactConfig) -> Iterator[tuple[SourceModel, Arrays]]:
    """Yield the model for each set of shapes, with its inputs: those of the file that fit, or else random ones."""
    from edgec.compiler.frontends import load_source
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.verify.inputs import fits, make_inputs, read_inputs

    for variant in config.variants():
        shapes = {spec.name: spec.shape for spec in variant.inputs}
        constants = config.provenance.options.get("constants", {})
        options = CompileOptions(input_shapes=shapes, states=_states(variant), constants=constants)
        source = load_source(model, options)
        if inputs is None:
            yield source, make_inputs(source)
        elif not config.buckets or fits(inputs, source):
            yield source, read_inputs(inputs, source)


def _states(config: ArtifactConfig) -> tuple[StatePair, ...] | None:
    """The states that the artifact has: its own variables are found again, its pairs are named."""
    from edgec.runtime.card import StatePair

    if not config.states:
        return ()
    pairs = [s for s in config.states if s.origin != "variable"]
    return tuple(StatePair(input=s.input, output=s.output) for s in pairs) or None


def _shapes(config: ArtifactConfig) -> str:
    return "; or ".join(", ".join(map(str, variant.inputs)) for variant in config.variants())


def _show(name: str, results: list[Verification]) -> None:
    first = results[0]
    runs = f" in {first.steps} runs of a session" if first.steps else ""
    table = Table(title=f"{name} against {first.reference}{runs}, run on {first.where}")
    for column in ("output", "shape", "largest error", "relative", "cosine", "mismatches", ""):
        table.add_column(column, justify="left" if column in ("output", "") else "right")
    for e in (error for result in results for error in result.errors):
        verdict = _verdict(e)
        shape = "x".join(map(str, e.shape)) or "scalar"
        numbers = (f"{e.max_abs:.2e}", f"{e.max_rel:.2e}", f"{e.cosine:.7f}", str(e.mismatches))
        table.add_row(e.name, shape, *numbers, verdict)
    out.print(table)


def _verdict(error: OutputError) -> Text:
    if error.ok and error.undefined:
        return styled((error.verdict, "yellow"))
    return styled(("equal", "green") if error.ok else ("off", "red"))


def _precision(config: ArtifactConfig) -> Precision:
    known: dict[str, Precision] = {
        "fp32": "fp32",
        "fp16": "fp16",
        "bf16": "bf16",
        "int8": "int8",
        "w8": "w8",
        "w4": "w4",
        "auto": "auto",
    }
    return known.get(config.precision, "fp32")


def _show_layers(
    model: Path, target: Target, options: CompileOptions, values: Arrays, *, as_json: bool
) -> None:
    from edgec.cli.progress import TerminalProgress
    from edgec.compiler.verify.layers import compare_layers

    with TerminalProgress(quiet=as_json) as progress:
        errors = compare_layers(model, target, options, values, progress)
    first = next((e for e in errors if not e.error.ok), None)
    if as_json:
        emit_json({"layers": [dataclasses.asdict(e) for e in errors], "first": first and first.node})
    elif first is None:
        worst = max(errors, key=lambda e: e.error.max_rel)
        out.print(
            f"all {len(errors)} values agree; the largest error is at {worst.error.name!r} of {worst.node}: ",
            end="",
        )
        out.print(worst.error.verdict)
    else:
        table = Table(title=f"the models differ from {first.node} on ({first.op_type})")
        for column in ("node", "operator", "value", "largest error", "relative", ""):
            table.add_column(column)
        at = errors.index(first)
        for e in errors[max(at - 3, 0) : at + 6]:
            verdict = _verdict(e.error)
            numbers = (f"{e.error.max_abs:.2e}", f"{e.error.max_rel:.2e}")
            table.add_row(e.node, e.op_type, e.error.name, *numbers, verdict)
        out.print(table)
    if first is not None:
        raise typer.Exit(1)
