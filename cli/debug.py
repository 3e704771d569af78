"""`edgec debug`: tools for models that fail to compile or to verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import SHAPE_HELP, TARGET_HELP, choose_target, existing, file_to_write, parse_shapes
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
        bool, typer.Option(help="Let ONNX Runtime run operators that cannot be compiled.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Reduce a failing model to the smallest one that still fails, for a bug report."""
    existing(model, "model file")
    file_to_write(output)
    shapes, hardware = parse_shapes(inputs or []), choose_target(target)
    import numpy as np

    from edgec.compiler.frontends import load_source
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.verify.inputs import make_inputs, read_inputs
    from edgec.compiler.verify.reduce import reduce_model

    options = CompileOptions(
        input_shapes=shapes, error_budget=budget, fallback=fallback, tune="none", threads=1
    )
    source = load_source(model, options)
    arrays = read_inputs(values, source) if values else make_inputs(source)
    with TerminalProgress(quiet=as_json) as progress:
        reduced = reduce_model(model, hardware, options, arrays, progress)
    beside = output.with_suffix(".npz")
    output.write_bytes(reduced.model)
    np.savez(beside, **reduced.inputs)  # type: ignore[arg-type]
    if as_json:
        emit_json(
            {
                "model": str(output),
                "inputs": str(beside),
                "nodes": list(reduced.nodes),
                "failure": reduced.failure.kind,
                "message": reduced.failure.message,
                "tries": reduced.tries,
            }
        )
        return
    out.print(
        styled((str(output), "bold"), f" with {beside}: {len(reduced.nodes)} nodes still fail"),
        soft_wrap=True,
    )
    out.print(f"  nodes    {', '.join(reduced.nodes)}", soft_wrap=True)
    out.print(f"  failure  {reduced.failure.kind}: {reduced.failure.message}", soft_wrap=True)
