"""`edgec debug`: tools for models that fail to compile or to verify."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import (
    SHAPE_HELP,
    TARGET_HELP,
    choose_target,
    existing,
    file_to_write,
    parse_duration,
    parse_shapes,
)
from edgec.cli.console import emit_json, out, styled
from edgec.cli.progress import TerminalProgress

app = typer.Typer(help="Investigate models that fail to compile or to verify.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Investigate models that fail to compile or to verify."""


@app.command("reduce")
def reduce_command(
    model: Annotated[Path, typer.Argument(help="The failing model.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The reduced model to write; its inputs go to an .npz file of the same name.",
        ),
    ] = Path("reduced.onnx"),
    target: Annotated[str, typer.Option("--target", "-t", help=TARGET_HELP)] = "host",
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help=SHAPE_HELP)] = None,
    values: Annotated[
        Path | None, typer.Option("--values", help="An .npz file of inputs. [default: random]")
    ] = None,
    budget: Annotated[
        float, typer.Option(help="Largest accepted error, relative to the output's largest value.")
    ] = 1e-3,
    fallback: Annotated[
        bool | None,
        typer.Option(
            help="Let ONNX Runtime run operators that cannot be compiled. [default: if it fails so, too]",
            show_default=False,
        ),
    ] = None,
    time_limit: Annotated[
        str, typer.Option(help="Time after which the smallest model so far is written.")
    ] = "10m",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Cut a failing model to a file of a few kilobytes that fails in the same way, for a bug report.

    Nodes are left out, sizes made smaller, and weights replaced by short patterns, as long as the failure stays. It may
    be a refusal, a crash, a traceback, or outputs that differ.
    """
    existing(model, "model file")
    beside = file_to_write(file_to_write(output).with_suffix(".npz"))
    shapes, hardware = parse_shapes(inputs or []), choose_target(target)
    given = existing(values, "file") if values else None
    limit_s = parse_duration(time_limit)
    import numpy as np

    from edgec.compiler.options import CompileOptions
    from edgec.compiler.verify.reduce import reduce_model

    options = CompileOptions(input_shapes=shapes, error_budget=budget, tune="none")
    named = "host" if target == "host" else hardware.name if not Path(target).exists() else target
    with TerminalProgress(quiet=as_json) as progress:
        reduced = reduce_model(model, named, options, given, progress, limit_s, fallback)
    output.write_bytes(reduced.model)
    beside.unlink(missing_ok=True)
    if reduced.inputs:
        np.savez_compressed(beside, **reduced.inputs)  # type: ignore[arg-type]
    files = [file for file in (output, beside) if file.exists()]
    again = shlex.join(
        [
            "edgec", "debug", "reduce", str(output),
            *(["--values", str(beside)] if reduced.inputs else []),
            *(["--target", named] if named != "host" else []),
            *([f"--budget={budget:g}"] if budget != CompileOptions().error_budget else []),
            *([] if fallback is None else ["--fallback" if fallback else "--no-fallback"]),
        ]
    )  # fmt: skip
    if as_json:
        emit_json(
            {
                "model": str(output),
                "inputs": str(beside) if reduced.inputs else None,
                "bytes": sum(file.stat().st_size for file in files),
                "nodes": list(reduced.nodes),
                "failure": reduced.failure.kind,
                "message": reduced.failure.message,
                "tries": reduced.tries,
                "time_is_up": reduced.exhausted,
                "reproduce": again,
            }
        )
        return
    sizes = " and ".join(f"{file} ({file.stat().st_size:,} bytes)" for file in files)
    out.print(styled((sizes, "bold"), f" fail as {model} does"), soft_wrap=True)
    out.print(f"  nodes    {', '.join(reduced.nodes)}", soft_wrap=True)
    out.print(f"  failure  {reduced.failure.kind}: {reduced.failure.message}", soft_wrap=True)
    end = "; the time was up, --time-limit gives more" if reduced.exhausted else ""
    out.print(f"  tries    {reduced.tries}{end}", soft_wrap=True)
    out.print(f"  again    {again}", soft_wrap=True)
