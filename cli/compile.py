"""`edgec compile`: from a model to a verified artifact."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli import compile_c
from edgec.cli.arguments import (
    BUCKETS_HELP,
    TARGETS_HELP,
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
from edgec.cli.compiled import show, to_json
from edgec.cli.console import emit_json
from edgec.cli.isolation import isolate
from edgec.cli.progress import TerminalProgress
from edgec.targets import UsageError

if TYPE_CHECKING:
    pass


class Tuning(StrEnum):
    """Number of kernel candidates that are timed."""

    none = "none"
    fast = "fast"
    full = "full"


class Arithmetic(StrEnum):
    """Arithmetic of convolutions and matrix products."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    auto = "auto"


class Method(StrEnum):
    """How ranges of activations are found."""

    auto = "auto"
    minmax = "minmax"
    percentile = "percentile"
    entropy = "entropy"
    mse = "mse"


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: .onnx, .tflite, Keras (.keras, .h5), a TensorFlow SavedModel folder, PyTorch (.pt2, "
            "TorchScript), or trees of XGBoost, LightGBM or scikit-learn.",
            show_default=False,
        ),
    ],
    target: Annotated[str, typer.Option("--target", "-t", help=TARGETS_HELP)] = "host",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The artifact to write, or the folder for those of several targets or a C library. "
            "[default: NAME-TARGET.edge]",
        ),
    ] = None,
    form: Annotated[
        compile_c.Format, typer.Option("--format", help=compile_c.FORMAT_HELP)
    ] = compile_c.Format.edge,
    libc: Annotated[compile_c.Libc, typer.Option(help=compile_c.LIBC_HELP)] = compile_c.Libc.gnu,
    weights: Annotated[
        compile_c.Weights, typer.Option(help=compile_c.WEIGHTS_HELP)
    ] = compile_c.Weights.linked,
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help=BUCKETS_HELP)] = None,
    card: Annotated[
        Path | None, typer.Option(help="The model card. [default: model.toml in the model's folder]")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the artifact. [default: that of the card, or of the model file]"),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the artifact. [default: the card's, or 1]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads used for tuning and timing. [default: all cores]")
    ] = None,
    tune: Annotated[Tuning, typer.Option(help="How many kernel candidates to time.")] = Tuning.fast,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="With --tune full: minutes that tuning may take. [default: until all is timed]"
        ),
    ] = None,
    precision: Annotated[
        Arithmetic,
        typer.Option(
            help="Arithmetic of convolutions and matrix products. auto takes the fastest for each layer within the "
            "error budget, by measurement; int8 (and auto, to use int8) needs --calibrate."
        ),
    ] = Arithmetic.fp32,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Data to quantise with: a folder of pictures, sounds or .npz files, or an .npz file of many "
            "examples; 100 to 500 of them. Half are held back to measure the loss on."
        ),
    ] = None,
    calibrator: Annotated[
        Method, typer.Option(help="How ranges of activations are found; auto tries all.")
    ] = Method.auto,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of the calibration data: a .csv file with the columns file,label (and "
            "left,top,right,bottom for objects). [default: names of folders that are labels of the card]",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            help="Largest accepted loss of accuracy by int8 on labelled data held back, such as 0.5%. "
            "[default: 1%]",
            show_default=False,
        ),
    ] = None,
    max_error: Annotated[
        str | None,
        typer.Option(
            help="Largest accepted error of the outputs by int8 on data held back (root mean square), such as 2%. "
            "[default: 10% where data have no labels]",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--error-budget",
            "--budget",
            help="Largest accepted error, relative to the output's largest value. "
            "[default: 0.001; 0.005 with --precision fp16, 0.01 with auto, 0.03 with bf16, 0.05 with int8]",
            show_default=False,
        ),
    ] = None,
    verify_with: Annotated[
        Path | None, typer.Option("--verify-with", help="An .npz file with the inputs to verify with.")
    ] = None,
    states: Annotated[
        bool,
        typer.Option(
            "--state/--no-state",
            help="Keep the model's states in sessions; without, they are inputs and outputs like others.",
        ),
    ] = True,
    require_faster: Annotated[
        bool,
        typer.Option(
            "--require-faster",
            help="Fail, and write nothing, if the result is slower than ONNX Runtime here.",
        ),
    ] = False,
    verify: Annotated[bool, typer.Option(help="Compare the result with ONNX Runtime.")] = True,
    fallback: Annotated[
        bool, typer.Option(help="Let ONNX Runtime on the device run operators that cannot be compiled.")
    ] = True,
    bundle_runtime: Annotated[
        bool, typer.Option("--bundle-runtime", help="Include the runtime libraries in the artifact.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Cache folder for tuning results and compiled kernels. [default: $EDGEC_CACHE or ~/.cache/edgec]",
            show_default=False,
        ),
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(min=2, help="Memory in GiB that the compile may take. [default: the machine's]"),
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Time after which the compile is ended, such as 15m. [default: none]")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a device that times the candidates: `edgec agent --tune-server` runs there.",
            show_default=False,
        ),
    ] = None,
    device_token: Annotated[
        Path | None,
        typer.Option(
            help="File with the token of the tune server. [default: $EDGEC_TUNE_TOKEN]", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile a model into an artifact for the given hardware, and verify that both compute the same."""
    # report mistakes in the arguments before loading the compiler, which takes a second
    existing(model, "model file")
    beside = model.parent / "model.toml"
    chosen = existing(card, "model card") if card else beside if beside.is_file() else None
    if minutes is not None and tune is not Tuning.full:
        raise typer.BadParameter("is for --tune full", param_hint="--minutes")
    if calibrate is None and (labels or max_drop or max_error or calibrator is not Method.auto):
        raise UsageError(
            "--labels, --max-drop, --max-error and --calibrator are about int8: give --calibrate with data"
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
        straight=form is compile_c.Format.c,
        bundle_runtime=bundle_runtime,
        calibration=None
        if calibrate is None
        else Calibration(
            existing(calibrate, "folder or file"),
            existing(labels, "table of labels") if labels else None,
            calibrator.value,
            None if max_drop is None else parse_share("--max-drop", max_drop),
            None if max_error is None else parse_share("--max-error", max_error),
        ),
    )
    how: dict[str, Any] = {
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
