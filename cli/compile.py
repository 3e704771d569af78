"""`edgec compile`: from a model to a verified artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from edgec.cli import compile_c
from edgec.cli import compile_options as given
from edgec.cli.arguments import (
    Json,
    choose_targets,
    existing,
    file_to_write,
    folder_to_write,
    parse_buckets,
    parse_device,
    parse_duration,
    parse_share,
)
from edgec.cli.compile_all import compile_for_all
from edgec.cli.compile_options import Arithmetic, Described, Method, Tuning
from edgec.cli.compiled import show, to_json
from edgec.cli.console import emit_json
from edgec.cli.isolation import isolate
from edgec.cli.progress import TerminalProgress
from edgec.targets import UsageError


def command(
    model: given.Model,
    target: given.TargetNames = "host",
    output: given.Output = None,
    form: given.Form = compile_c.Format.edge,
    libc: given.Libc = compile_c.Libc.gnu,
    weights: given.Weights = compile_c.Weights.linked,
    inputs: given.Inputs = None,
    card: given.Card = None,
    name: given.Name = None,
    version: given.Version = None,
    threads: given.Threads = None,
    tune: given.Tune = Tuning.fast,
    minutes: given.Minutes = None,
    precision: given.Precision = Arithmetic.fp32,
    calibrate: given.Calibrate = None,
    calibrator: given.Calibrator = Method.auto,
    labels: given.Labels = None,
    max_drop: given.MaxDrop = None,
    max_error: given.MaxError = None,
    reduce_range: given.ReduceRange = False,
    budget: given.Budget = None,
    verify_with: given.VerifyWith = None,
    states: given.States = True,
    require_faster: given.RequireFaster = False,
    verify: given.Verify = True,
    fallback: given.Fallback = True,
    bundle_runtime: given.BundleRuntime = False,
    cache: given.Cache = None,
    memory_limit: given.MemoryLimit = None,
    time_limit: given.TimeLimit = None,
    device: given.Device = None,
    device_token: given.DeviceToken = None,
    as_json: Json = False,
) -> None:
    """Compile a model into an artifact for the given hardware, and verify that both compute the same."""
    # report mistakes in the arguments before loading the compiler, which takes a second
    existing(model, "model file")
    beside = model.parent / "model.toml"
    chosen = existing(card, "model card") if card else beside if beside.is_file() else None
    if minutes is not None and tune is not Tuning.full:
        raise typer.BadParameter("is for --tune full", param_hint="--minutes")
    about_data = labels or max_drop or max_error or reduce_range or calibrator is not Method.auto
    if calibrate is None and about_data:
        raise UsageError(
            "--labels, --max-drop, --max-error, --reduce-range and --calibrator say how data are used: give "
            "--calibrate with data"
        )
    sets, hardware = parse_buckets(inputs or []), choose_targets(target)
    if form is compile_c.Format.c:
        compile_c.check_options(output, len(hardware), len(sets), bundle_runtime=bundle_runtime)
    elif output is not None:
        folder_to_write(output) if len(hardware) > 1 else file_to_write(output)
    if device is not None:
        if len(hardware) > 1:
            raise UsageError("--device is one board: name one target")
        hardware = [replace(hardware[0], timed_on=parse_device(device, device_token))]
    isolate(
        "the compiler",
        memory_bytes=None if memory_limit is None else int(memory_limit * 2**30),
        time_s=None if time_limit is None else parse_duration(time_limit),
        advice=f"`edgec debug reduce {model}` cuts the model to the part that fails, for a bug report",
    )
    from edgec.compiler.options import ERROR_BUDGET, Calibration, CompileOptions
    from edgec.compiler.pipeline import compile_model
    from edgec.runtime import load_card

    options = CompileOptions(
        threads=threads,
        tune=tune.value,
        minutes=minutes,
        precision=precision.value,
        error_budget=ERROR_BUDGET[precision.value] if budget is None else budget,
        cache_dir=cache,
        input_shapes=sets[0],
        buckets=tuple(sets[1:]),
        states=None if states else (),
        require_faster=require_faster,
        verify=verify,
        fallback=fallback and form is compile_c.Format.edge,
        c_library=form is compile_c.Format.c,
        bundle_runtime=bundle_runtime,
        calibration=None
        if calibrate is None
        else Calibration(
            existing(calibrate, "folder or file"),
            existing(labels, "table of labels") if labels else None,
            calibrator.value,
            None if max_drop is None else parse_share("--max-drop", max_drop),
            None if max_error is None else parse_share("--max-error", max_error),
            reduce_range,
        ),
    )
    how: Described = {
        "card": load_card(chosen) if chosen else None,
        "name": name,
        "version": version,
        "inputs": existing(verify_with, "file") if verify_with else None,
    }
    if len(hardware) > 1:
        compile_for_all(model, hardware, options, output or Path(), how, as_json=as_json)
        return
    library = None
    with compile_c.place_of_artifact(form, output) as artifact:
        with TerminalProgress(quiet=as_json) as progress:
            result = compile_model(model, hardware[0], options, output=artifact, progress=progress, **how)
        if form is compile_c.Format.c:
            library = compile_c.write(result, hardware[0], output, libc, weights)
        if as_json:
            emit_json(to_json(result) if library is None else to_json(result) | compile_c.to_json(library))
        else:
            show(result, library.folder if library else None)
    if library is not None and not as_json:
        compile_c.show(library)
