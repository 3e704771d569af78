"""`edgec profile`: time per layer of an artifact, and how close each layer comes to the machine's limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli.arguments import existing, file_to_write
from edgec.cli.console import emit_json, out, styled
from edgec.targets import UsageError

if TYPE_CHECKING:
    from edgec.benchmarks.roofline.profile import Profile


def command(
    artifact: Annotated[Path, typer.Argument(help="An .edge file.", show_default=False)],
    inputs: Annotated[Path | None, typer.Option(help="An .npz file of inputs. [default: random]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. [default: all cores]")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Minimum number of runs; times are medians.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.1, help="Start no further run after this time.")] = 20.0,
    limit: Annotated[int, typer.Option(min=1, help="Number of layers to show.")] = 30,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw times and machine limits as a roofline chart in this .svg file."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result, with all layers, as JSON.")
    ] = False,
) -> None:
    """Time every layer of an artifact on this machine, by node of the source model.

    If the compiler is installed, the machine's speed is measured immediately before and after each layer in each run.
    Only runs that no other process slowed down count; if there are too few, more follow, for at most --seconds.
    "peak" is the layer's share of the highest fp32 rate. Winograd convolutions are credited with the multiplications of
    the direct algorithm and may exceed it. "bound by" names the limit at the machine's best: the arithmetic, or the
    transfer of the layer's bytes from memory or a cache, with the share of the layer's time that this explains. Timers
    add some microseconds a layer: where the layers together take longer than a run without timers, that is shown, too.

    On a GPU, times are those of its events, and the limits follow from its clocks; tensor cores have a peak of their
    own. Parts that ONNX Runtime runs on the host are shown with the bytes that are copied for them.
    """
    if plot is not None:
        file_to_write(plot)
    import edgec.runtime as rt
    from edgec.benchmarks.inputs import artifact_inputs
    from edgec.benchmarks.roofline.probed import probed_machine
    from edgec.benchmarks.roofline.profile import by_kind, profile_layers, run_ms
    from edgec.cli.progress import TerminalProgress

    if plot is not None and (plot.suffix != ".svg" or not plot.parent.is_dir()):
        raise UsageError(f"--plot {plot}: name an .svg file in an existing folder")
    with rt.load(existing(artifact, "artifact"), threads=threads) as model:
        values = artifact_inputs(model.config.inputs, inputs)
        machine, used = probed_machine(model.config, model.threads)
        if plot is not None and machine is None:
            raise UsageError("--plot requires the compiler and an artifact whose target this machine can run")
        whole = run_ms(model, values)
        with TerminalProgress(quiet=as_json) as progress:
            profile = profile_layers(model, values, machine, runs=repeats, limit_s=seconds, progress=progress)
    if plot is not None:
        from edgec.benchmarks.roofline.plot import write_plot

        write_plot(profile, artifact.name, used, plot)
    if as_json:
        emit_json(
            {
                "artifact": str(artifact), "threads": used, "runs": profile.runs, "run_ms": whole,
                "fp32_peak_gflops": profile.peak and profile.peak.high,
                "peak": profile.peak and dataclasses.asdict(profile.peak) | {"steady": profile.peak.steady},
                "bandwidth": profile.bandwidth and dataclasses.asdict(profile.bandwidth),
                "gpu": profile.gpu and dataclasses.asdict(profile.gpu),
                "left_out": profile.left_out,
                "kinds": [dataclasses.asdict(kind) for kind in by_kind(profile)],
                "layers": profile.to_json(),
            }
        )  # fmt: skip
        return
    _show(artifact, profile, used, limit, whole)
    if plot is not None:
        out.print(styled("wrote ", (str(plot), "bold")), soft_wrap=True)


def _show(artifact: Path, profile: Profile, threads: int, limit: int, whole: float) -> None:
    from edgec.benchmarks.roofline.profile import by_kind

    total = sum(timed.ms for timed in profile.times)
    counted = f"{threads} thread{'s' if threads > 1 else ''}, {profile.runs} runs"
    out.print(
        styled((str(artifact), "bold"), f": {total:.3f} ms in {len(profile.layers)} layers ({counted})"),
        soft_wrap=True,
    )
    if total > whole:
        out.print(
            f"a run takes {whole:.3f} ms: each layer's time includes that of its timer, and of threads that come back "
            "from it",
            soft_wrap=True,
        )
    show_machine(profile)
    layers = profile.to_json()
    if not profile.shares:
        show_layers(layers, limit=limit)
        return
    moved = "       MB" if profile.gpu else ""
    out.print(f"       ms   run  GFLOP/s  peak  bound by{moved}")
    ordered = sorted(layers, key=lambda layer: -float(layer["ms"]))
    for layer in ordered[:limit]:
        out.print(_line(layer), end="", soft_wrap=True)
        if profile.gpu:
            out.print(f"{layer['bytes'] / 1e6:8.3f}  ", end="", soft_wrap=True)
        out.print(_name(layer, 48), end="", soft_wrap=True)
        how = " ".join(dict.fromkeys([layer["op"], *layer["schedule"].split(" ")]))
        out.print(f" {how}", style="dim", soft_wrap=True)
    _show_rest(ordered[limit:])
    out.print("by kind, as shares of the run's time and of the peak:")
    for kind in by_kind(profile):
        peak = "" if kind.peak_share is None else f"{kind.peak_share:4.0%}"
        out.print(f"{kind.ms:9.3f} {kind.share:5.0%}          {peak:>4}  {kind.name} ({kind.layers})")


def show_machine(profile: Profile) -> None:
    """Print the machine's limits while the layers ran, and whether they were stable."""
    peak, bandwidth = profile.peak, profile.bandwidth
    if profile.gpu is not None:
        gpu = profile.gpu
        tensor = f", {gpu.tensor_gflops:.0f} on tensor cores" if gpu.tensor_gflops else ""
        out.print(
            f"{gpu.name}: {gpu.fp32_gflops:.0f} GFLOP/s (fp32) peak{tensor}, {gpu.gbytes:.0f} GB/s from its memory",
            soft_wrap=True,
        )
        return
    if peak is None or bandwidth is None:
        return
    l3 = "" if bandwidth.l3 is None else f"{bandwidth.l3:.0f} from L3, "
    out.print(
        f"this machine: {peak.high:.0f} GFLOP/s (fp32) peak, reads {bandwidth.l2:.0f} GB/s from L2, "
        f"{l3}{bandwidth.memory:.0f} from memory",
        soft_wrap=True,
    )
    if not peak.steady:
        out.print(
            styled(
                ("unsteady:", "yellow"),
                f" the peak varied from {peak.low:.0f} to {peak.high:.0f} GFLOP/s during the run; only "
                f"the {1 - profile.left_out:.0%} of the layers' runs near the highest rate count",
            ),
            soft_wrap=True,
        )
    if profile.disturbed:
        out.print(
            styled(
                ("~", "yellow"),
                f" marks layers ({profile.disturbed}) with too few runs near the machine's highest rate: their "
                "shares are medians of ratios taken at the same moment, and their times are those of a busy machine",
            ),
            soft_wrap=True,
        )


def _line(layer: Mapping[str, Any]) -> str:
    """Return the figures of one layer as a line of the table."""
    rate = f"{layer['gflops']:8.1f}" if layer["flops"] else " " * 8
    peak = "    " if layer["peak_share"] is None else f"{layer['peak_share']:4.0%}"
    mark = " " if layer["undisturbed"] else "~"
    bound = layer["bound"]
    if bound not in ("compute", "host"):
        bound += f" {layer['memory_share']:.0%}"
    return f"{layer['ms']:9.3f} {layer['share']:5.0%} {rate} {mark}{peak}  {bound:<11} "


def _name(layer: Mapping[str, Any], width: int) -> str:
    name = ", ".join(layer["nodes"]) or layer["kernel"]
    return name if len(name) <= width else name[: width - 1] + "…"


def _show_rest(rest: Sequence[Mapping[str, Any]], indent: str = "") -> None:
    if rest:
        out.print(f"{indent}{sum(float(r['ms']) for r in rest):9.3f} ms in {len(rest)} more layers")


def show_layers(layers: Sequence[Mapping[str, Any]], *, limit: int, indent: str = "") -> None:
    """Print the slowest layers as a bar chart."""
    ordered = sorted(layers, key=lambda layer: -float(layer["ms"]))
    longest = float(ordered[0]["ms"]) if ordered else 0.0
    for layer in ordered[:limit]:
        bar = "█" * max(1, round(20 * layer["ms"] / longest)) if longest else ""
        figures = f"{indent}{layer['ms']:9.3f} ms {layer['share']:4.0%} "
        out.print(styled(figures, (f"{bar:<20}", "cyan"), f" {_name(layer, 60)}"), soft_wrap=True)
    _show_rest(ordered[limit:], indent)
