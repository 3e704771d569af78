"""The options of `edgec compile`, grouped as its help shows them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from edgec.cli import compile_c
from edgec.cli.arguments import BUCKETS_HELP, TARGETS_HELP

if TYPE_CHECKING:
    from edgec.runtime import ModelCard

ARITHMETIC = "Arithmetic and quantisation"
SPEED = "Speed"
VERIFICATION = "Verification"
C_LIBRARY = "C library"
LIMITS = "Limits and caches"


class Tuning(StrEnum):
    """Number of kernel candidates that are timed."""

    none = "none"
    fast = "fast"
    full = "full"


class Arithmetic(StrEnum):
    """Arithmetic of convolutions and matrix products."""

    fp32 = "fp32"
    tf32 = "tf32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    w8 = "w8"
    w4 = "w4"
    auto = "auto"


class Method(StrEnum):
    """How ranges of activations are found."""

    auto = "auto"
    minmax = "minmax"
    percentile = "percentile"
    entropy = "entropy"
    mse = "mse"


class Described(TypedDict):
    """Arguments of `compile_model` that say what the model is and what it is verified with."""

    card: ModelCard | None
    name: str | None
    version: str | None
    inputs: Path | None


Model = Annotated[
    Path,
    typer.Argument(
        help="The model: .onnx, .tflite, Keras (.keras, .h5), a TensorFlow SavedModel folder, PyTorch (.pt2, "
        "TorchScript), or trees of XGBoost, LightGBM or scikit-learn.",
        show_default=False,
    ),
]
TargetNames = Annotated[str, typer.Option("--target", "-t", help=TARGETS_HELP, show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The artifact to write, or the folder for those of several targets or a C library. "
        "[default: NAME-TARGET.edge]",
    ),
]
Form = Annotated[compile_c.Format, typer.Option("--format", help=compile_c.FORMAT_HELP)]
Libc = Annotated[compile_c.Libc, typer.Option(help=compile_c.LIBC_HELP, rich_help_panel=C_LIBRARY)]
Weights = Annotated[compile_c.Weights, typer.Option(help=compile_c.WEIGHTS_HELP, rich_help_panel=C_LIBRARY)]
Inputs = Annotated[list[str] | None, typer.Option("--input", "-i", help=BUCKETS_HELP)]
Card = Annotated[
    Path | None, typer.Option(help="The model card. [default: model.toml in the model's folder]")
]
Name = Annotated[
    str | None,
    typer.Option(help="Name of the artifact. [default: that of the card, or of the model file]"),
]
Version = Annotated[str | None, typer.Option(help="Version of the artifact. [default: the card's, or 1]")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads used for tuning and timing. [default: all cores]", rich_help_panel=SPEED
    ),
]
Tune = Annotated[Tuning, typer.Option(help="How many kernel candidates to time.", rich_help_panel=SPEED)]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="With --tune full: minutes that tuning may take. [default: until all is timed]",
        rich_help_panel=SPEED,
    ),
]
Precision = Annotated[
    Arithmetic,
    typer.Option(
        help="Arithmetic of convolutions and matrix products. auto takes the fastest for each layer within the "
        "error budget: by measurement, or estimated from the core's rates where its code cannot be timed here; int8 "
        "(and auto, to use int8) needs --calibrate; w8 and w4 store the weights of large matrix products in 8 or 4 "
        "bits and compute in fp32.",
        rich_help_panel=ARITHMETIC,
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        help="Data to quantise with: a folder of pictures, sounds or .npz files, or an .npz file of many "
        "examples; 100 to 500 of them. Half are held back to measure the loss on; w8 and w4 need none, and measure "
        "it on all that are given.",
        rich_help_panel=ARITHMETIC,
    ),
]
Calibrator = Annotated[
    Method,
    typer.Option(help="How ranges of activations are found; auto tries all.", rich_help_panel=ARITHMETIC),
]
ReduceRange = Annotated[
    bool,
    typer.Option(
        "--reduce-range",
        help="Weights of which no two neighbours saturate on x86-64 without VNNI, where int8 is faster then; they are "
        "taken if the error grows by half at most. The model is the same for all targets.",
        rich_help_panel=ARITHMETIC,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Labels of the calibration data: a .csv file with the columns file,label (and "
        "left,top,right,bottom for objects). [default: names of folders that are labels of the card]",
        show_default=False,
        rich_help_panel=ARITHMETIC,
    ),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        help="Largest accepted loss of accuracy by int8, w8 or w4 on labelled data held back, such as 0.5%. "
        "[default: 1%]",
        show_default=False,
        rich_help_panel=ARITHMETIC,
    ),
]
MaxError = Annotated[
    str | None,
    typer.Option(
        help="Largest accepted error of the outputs by int8 on data held back (root mean square), such as 2%. "
        "[default: 10% where data have no labels]",
        show_default=False,
        rich_help_panel=ARITHMETIC,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--error-budget",
        "--budget",
        help="Largest accepted error, relative to the output's largest value. "
        "[default: 0.001; 0.005 with --precision fp16 or tf32, 0.01 with auto, 0.02 with w8, 0.03 with bf16, "
        "0.05 with int8, 0.1 with w4]",
        show_default=False,
        rich_help_panel=ARITHMETIC,
    ),
]
VerifyWith = Annotated[
    Path | None,
    typer.Option(
        "--verify-with", help="An .npz file with the inputs to verify with.", rich_help_panel=VERIFICATION
    ),
]
States = Annotated[
    bool,
    typer.Option(
        "--state/--no-state",
        help="Keep the model's states in sessions; without, they are inputs and outputs like others.",
    ),
]
RequireFaster = Annotated[
    bool,
    typer.Option(
        "--require-faster",
        help="Fail, and write nothing, if the result is slower than ONNX Runtime here.",
        rich_help_panel=SPEED,
    ),
]
Verify = Annotated[
    bool, typer.Option(help="Compare the result with ONNX Runtime.", rich_help_panel=VERIFICATION)
]
Fallback = Annotated[
    bool, typer.Option(help="Let ONNX Runtime on the device run operators that cannot be compiled.")
]
BundleRuntime = Annotated[
    bool, typer.Option("--bundle-runtime", help="Include the runtime libraries in the artifact.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Cache folder for tuning results and compiled kernels. [default: $EDGEC_CACHE or ~/.cache/edgec]",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        min=2,
        help="Memory in GiB that the compile may take. [default: the machine's]",
        rich_help_panel=LIMITS,
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        help="Time after which the compile is ended, such as 15m. [default: none]", rich_help_panel=LIMITS
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of a device that times the candidates: `edgec agent --tune-server` runs there.",
        show_default=False,
        rich_help_panel=SPEED,
    ),
]
DeviceToken = Annotated[
    Path | None,
    typer.Option(
        help="File with the token of the tune server. [default: $EDGEC_TUNE_TOKEN]",
        show_default=False,
        rich_help_panel=SPEED,
    ),
]
