"""``edgec verify``: does an artifact compute what its source model computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgec.cli.arguments import existing
from edgec.cli.console import emit_json, out


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("verify")(verify_command)


def verify_command(
    artifact: Annotated[Path, typer.Argument(help="An .edge file.", show_default=False)],
    model: Annotated[Path, typer.Argument(help="The model that it was compiled from.", show_default=False)],
    inputs: Annotated[Path | None, typer.Option(help="An .npz file of inputs. [default: made up]")] = None,
    budget: Annotated[
        float, typer.Option(help="Largest error accepted, as a part of an output's largest value.")
    ] = 1e-3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. [default: all cores]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run an artifact and its source model on the same inputs and compare every output.

    Exit status 1 when an output is off by more than the budget.
    """
    from edgec.compiler.frontends import load_source
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.verify.inputs import make_inputs, read_inputs
    from edgec.compiler.verify.run import verify
    from edgec.runtime import Artifact
    from edgec.targets import load_target, usable_cores

    opened = Artifact.open(existing(artifact, "artifact"))
    config = opened.config
    shapes = {spec.name: spec.shape for spec in config.inputs}
    source = load_source(existing(model, "model file"), CompileOptions(input_shapes=shapes))
    result = verify(
        artifact,
        source,
        load_target(config.target),
        read_inputs(inputs, source) if inputs else make_inputs(source),
        threads=threads or usable_cores(),
        budget=budget,
    )
    known = source.digest.removeprefix("sha256:") == config.provenance.source_sha256
    if as_json:
        emit_json(result.to_json() | {"same_source": known})
    else:
        table = Table(title=f"{artifact.name} against {result.reference}, run on {result.where}")
        for column in ("output", "shape", "largest error", "relative", "cosine", "mismatches", ""):
            table.add_column(column, justify="left" if column in ("output", "") else "right")
        for e in result.errors:
            verdict = "[green]equal[/]" if e.ok else "[red]off[/]"
            shape = "x".join(map(str, e.shape)) or "scalar"
            numbers = (f"{e.max_abs:.2e}", f"{e.max_rel:.2e}", f"{e.cosine:.7f}", str(e.mismatches))
            table.add_row(e.name, shape, *numbers, verdict)
        out.print(table)
        if not known:
            out.print("[yellow]note:[/] the artifact was compiled from another file than this one")
    if not result.ok:
        raise typer.Exit(1)
