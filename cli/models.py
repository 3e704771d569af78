"""`edgec models`: list the models of the zoo and write them to a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import folder_to_write
from edgec.cli.console import emit_json, err, out, styled

app = typer.Typer(help="List, show and build the models of the zoo.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Name = Annotated[str, typer.Argument(help="A model of the zoo; see `edgec models list`.")]


def _amount(count: int) -> str:
    """Format a count with a unit: 1.81 G, 301 M, 24 k."""
    for unit, size in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


@app.command("list")
def list_(
    task: Annotated[str | None, typer.Option(help="Only models for this task, such as detection.")] = None,
    trained: Annotated[bool, typer.Option("--trained", help="Only models with trained weights.")] = False,
    as_json: Json = False,
) -> None:
    """List the models of the zoo with their parameters and multiply-adds."""
    from rich.table import Table

    from edgec.models import list_models

    entries = [e for e in list_models() if (task is None or e.task == task) and (e.trained or not trained)]
    if as_json:
        emit_json([asdict(e) for e in entries])
        return
    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    for column in ("model", "task"):
        table.add_column(column, no_wrap=True)
    for column in ("params", "MACs"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("description")
    for e in entries:
        name = f"{e.name} *" if e.trained else e.name
        table.add_row(name, e.task, _amount(e.params), _amount(e.macs), e.description)
    out.print(table)
    if any(e.trained for e in entries):
        out.print("* trained weights; the others have random weights, for benchmarks", style="dim")


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show a model: its cost, inputs, outputs and, if it has one, its card."""
    from edgec.models import find_model
    from edgec.models.registry import card_of, describe

    entry, card = find_model(name), card_of(name)
    graph, outputs = describe(name)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.inputs}
    results = {key: list(value.shape) for key, value in outputs.items()}
    if as_json:
        emit_json({**asdict(entry), "inputs": shapes, "outputs": results, "card": card})
        return
    out.print(styled((entry.name, "bold"), f" {entry.description}"))
    out.print(f"  task        {entry.task}, {'trained' if entry.trained else 'random'} weights")
    out.print(f"  parameters  {entry.params:,}\n  MACs        {entry.macs:,}")
    for title, tensors in (("input", shapes), ("output", results)):
        for key, shape in tensors.items():
            out.print(f"  {title:11} {key} {shape}")
    if card:
        out.print(f"\n{card.rstrip()}", soft_wrap=True)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="A model of the zoo, or `all`.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write to. [default: ./NAME]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model as ONNX, with its card and labels; `all` writes each to a folder of its own."""
    from edgec.models import build as build_model
    from edgec.models import list_models

    if name == "all":
        root = folder_to_write(output or Path("models"))
        jobs = [(e.name, root / e.name) for e in list_models()]
    else:
        jobs = [(name, folder_to_write(output or Path(name)))]
    written = []
    for model, folder in jobs:
        path = build_model(model, folder)
        files = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.endswith(".part"))
        written.append({"name": model, "path": str(path), "bytes": path.stat().st_size, "files": files})
        if not as_json:
            err.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True)
    if as_json:
        emit_json(written)
