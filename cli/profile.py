"""``edgec profile``: where an artifact spends its time, by node of the source model."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import existing
from edgec.cli.console import emit_json, out


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("profile")(profile_command)


def profile_command(
    artifact: Annotated[Path, typer.Argument(help="An .edge file.", show_default=False)],
    inputs: Annotated[Path | None, typer.Option(help="An .npz file of inputs. [default: made up]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. [default: all cores]")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs to average over.")] = 20,
    limit: Annotated[int, typer.Option(min=1, help="How many layers to show.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print all layers as JSON.")] = False,
) -> None:
    """Time every layer of an artifact on this machine and show which nodes of the model take how long."""
    import edgec.runtime as rt
    from edgec.cli.samples import sample_inputs

    with rt.load(existing(artifact, "artifact"), threads=threads) as model:
        values = sample_inputs(model.config.inputs, inputs)
        layers = [dataclasses.asdict(layer) for layer in model.profile(values, repeats=repeats)]
        target = model.config.target
    rate = _peak_gflops(target, threads)
    if rate is not None:
        for layer in layers:
            layer["peak_share"] = layer["flops"] / (layer["ms"] * 1e6 * rate) if layer["ms"] else 0.0
    if as_json:
        emit_json({"artifact": str(artifact), "threads": threads, "fp32_peak_gflops": rate, "layers": layers})
        return
    total = sum(layer["ms"] for layer in layers)
    out.print(f"[bold]{artifact}[/]: {total:.3f} ms in {len(layers)} layers")
    if rate is not None:
        out.print(f"peak: share of {rate:.0f} GFLOP/s, the highest fp32 rate measured here just now")
    show_layers(layers, limit=limit)


def _peak_gflops(target: str, threads: int | None) -> float | None:
    """The machine's highest fp32 rate for code of `target`; None where no compiler is installed to measure it.

    Winograd's products are counted as the multiplications that they stand for: they may exceed the peak.
    """
    if importlib.util.find_spec("tvm") is None:
        return None
    from edgec.benchmarks.peak import fp32_peak_gflops
    from edgec.compiler.tuning.tuner import runs_here
    from edgec.targets import UnknownTarget, load_target, usable_cores

    try:
        described = load_target(target)
    except UnknownTarget:
        return None  # a target of the user's own that is not known on this machine
    if not runs_here(described):
        return None
    return round(fp32_peak_gflops(described, threads or usable_cores()), 1)


def show_layers(layers: Sequence[Mapping[str, Any]], *, limit: int, indent: str = "") -> None:
    """Print the slowest layers with bars."""
    ordered = sorted(layers, key=lambda layer: -float(layer["ms"]))
    longest = float(ordered[0]["ms"]) if ordered else 0.0
    for layer in ordered[:limit]:
        bar = "█" * max(1, round(20 * layer["ms"] / longest)) if longest else ""
        name = ", ".join(layer["nodes"]) or layer["kernel"]
        shown = name if len(name) <= 60 else name[:59] + "…"
        peak = ""
        if "peak_share" in layer:
            peak = f"peak {layer['peak_share']:4.0%} " if layer["flops"] else " " * 10
        out.print(
            f"{indent}{layer['ms']:9.3f} ms {layer['share']:4.0%} {peak}[cyan]{bar:<20}[/] ",
            end="",
            soft_wrap=True,
        )
        out.print(shown, markup=False, soft_wrap=True)
    rest = ordered[limit:]
    if rest:
        out.print(f"{indent}{sum(float(r['ms']) for r in rest):9.3f} ms in {len(rest)} more layers")
