"""``edgec bench``: an artifact's latency beside ONNX Runtime's, in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgec.cli.arguments import existing
from edgec.cli.console import emit_json, out


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("bench")(bench_command)


def bench_command(
    artifact: Annotated[
        Path | None, typer.Argument(help="An .edge file (not with --suite).", show_default=False)
    ] = None,
    model: Annotated[
        Path | None,
        typer.Argument(help="The source model, to time ONNX Runtime on beside it.", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. [default: all cores]")] = None,
    runs: Annotated[int, typer.Option(min=2, help="Counted runs of each side.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before counting begins.")] = 10,
    limit: Annotated[float, typer.Option(min=0.1, help="Seconds after which it stops early.")] = 30.0,
    inputs: Annotated[Path | None, typer.Option(help="An .npz file of inputs. [default: made up]")] = None,
    suite: Annotated[bool, typer.Option(help="Run the zoo instead, and write the results page.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="With --suite: networks whose name contains this; may be repeated."),
    ] = None,
    output: Annotated[Path, typer.Option(help="With --suite: the folder of the results page.")] = Path(
        "docs"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time an artifact on this machine: median, 90th percentile and minimum, in turns with ONNX Runtime.

    Both sides get the same threads and the same inputs, in one process, in short turns, so that neither has
    the better moments of the machine.
    """
    if suite:
        _run_suite(tuple(only or ()), threads, output, as_json=as_json)
        return
    if artifact is None:
        raise typer.BadParameter("name an .edge file, or give --suite", param_hint="ARTIFACT")
    import edgec.runtime as rt
    from edgec.cli.samples import sample_inputs
    from edgec.compiler.verify.timing import interleave
    from edgec.targets import usable_cores

    count = threads or usable_cores()
    with rt.load(existing(artifact, "artifact"), threads=count) as compiled:
        values = sample_inputs(compiled.config.inputs, inputs)
        sides: dict[str, Any] = {"edgec": lambda: compiled.run(values)}
        if model is not None:
            shapes = {spec.name: spec.shape for spec in compiled.config.inputs}
            reference = _reference(existing(model, "model file"), shapes, count)
            sides["onnxruntime"] = lambda: reference.run(values)
        measured = interleave(sides, runs=runs, limit_s=limit, warmup=warmup)
    speedup = measured["onnxruntime"].median_ms / measured["edgec"].median_ms if model else None
    if as_json:
        latency = {side: times.to_json() for side, times in measured.items()}
        emit_json(
            {"artifact": str(artifact), "threads": count, "warmup": warmup, "latency": latency}
            | {"speedup": speedup}
        )
        return
    table = Table(title=f"{artifact.name}, {count} thread{'s' if count > 1 else ''}")
    for column in ("", "median ms", "p90 ms", "min ms", "runs"):
        table.add_column(column, justify="right" if column else "left")
    for side, t in measured.items():
        table.add_row(side, f"{t.median_ms:.3f}", f"{t.p90_ms:.3f}", f"{t.min_ms:.3f}", str(t.runs))
    out.print(table)
    if speedup:
        out.print(f"[bold]{speedup:.2f}×[/] the speed of ONNX Runtime (medians)")


def _run_suite(only: tuple[str, ...], threads: int | None, output: Path, *, as_json: bool) -> None:
    from edgec.benchmarks.networks import networks
    from edgec.benchmarks.report import write_report
    from edgec.benchmarks.suite import run_suite
    from edgec.cli.console import err
    from edgec.compiler.options import CompileOptions
    from edgec.targets import detect, usable_cores

    counts = [threads] if threads else sorted({1, usable_cores()})
    results = run_suite(networks(only=only), detect(), counts, CompileOptions(), err.print)
    if as_json:
        emit_json(results.to_json())
        return
    for path in write_report(results, output):
        out.print(f"wrote [bold]{path}[/]")


def _reference(model: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> Any:  # noqa: ANN401 - lazy type
    from edgec.compiler.frontends import load_source
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.verify.reference import Reference

    return Reference(load_source(model, CompileOptions(input_shapes=shapes)), threads)
