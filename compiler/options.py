"""The options of a compile, read by every part of the compiler and changed by none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from edgec.compiler.errors import InputShapeError
from edgec.runtime.card import StatePair

Tune = Literal["none", "fast", "full"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "w8", "w4", "auto"]
Calibrator = Literal["auto", "minmax", "percentile", "entropy", "mse"]


class Bounds(NamedTuple):
    """The sizes that an axis may have, both ends included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


Size: TypeAlias = "int | Bounds"
Shape: TypeAlias = tuple[Size, ...]
# Of the budget, by what a layer's operands are rounded to with `auto`; the rest is for Winograd's transforms and the
# order of sums, which in half precision lose more than the rounding.
NARROW_SHARE: Mapping[str, float] = {"bf16": 0.8, "fp16": 0.4}
# The error accepted where the user names none. With bf16, factors have 8 bits: a few parts in a thousand a layer.
# An int8 artifact is compared with the quantised model; how far that is from the float one, `Calibration` bounds.
ERROR_BUDGET: Mapping[Precision, float] = {
    "fp32": 1e-3,
    "tf32": 5e-3,
    "fp16": 5e-3,
    "auto": 1e-2,
    "bf16": 3e-2,
    "int8": 5e-2,
    "w8": 2e-2,
    "w4": 1e-1,
}
WEIGHT_BITS: Mapping[Precision, int] = {"w8": 8, "w4": 4}  # of precisions that round weights alone
MAX_DROP = 0.01  # of accuracy, where the user names no bound and the data have labels
MAX_ERROR = 0.1  # of the outputs, root mean square, where they have none


@dataclass(frozen=True)
class Calibration:
    """Data to quantise with, and the loss that is accepted.

    Args:
        data: a folder of pictures, sounds or `.npz` files, or one `.npz` file of many examples.
        labels: a table of labels, for `max_drop`.
        calibrator: how ranges are found; `auto` takes the one with the smallest error.
        max_drop: largest loss of accuracy on data held back, from 0 to 1, absolute.
        max_error: largest root mean square error of an output on data held back, relative to its root mean square.
        reduce_range: whether weights are chosen such that no pair of products saturates in `pmaddubsw`, if the error
            hardly grows by it.
    """

    data: Path
    labels: Path | None = None
    calibrator: Calibrator = "auto"
    max_drop: float | None = None
    max_error: float | None = None
    reduce_range: bool = False


@dataclass(frozen=True)
class CompileOptions:
    """Options of one compile.

    Args:
        threads: threads that tuning, verification and the latency comparison use; None means the cores
            of the target (at most those of this machine when measuring here).
        tune: how many kernel candidates are timed per distinct layer: none (static model and the cache
            only), fast (for half a minute, where most can be gained first), or full.
        minutes: how long `full` may take; None lets it try all candidates.
        precision: arithmetic of convolutions and products. `bf16` rounds their operands to bfloat16 and sums in
            fp32, `fp16` rounds them to half precision (on a processor results, too, and sums of some 64 products at
            a time), `tf32` rounds them to 10 bits of mantissa on their way to a GPU's tensor cores and stores fp32;
            `auto` takes half precision or bfloat16 for the layers that the error budget allows and that gain
            by it, as measured on sample inputs. `int8` quantises as `calibration` says. `w8` and `w4` store
            the weights of large matrix products in 8 or 4 bits, as many as the error budget allows, and compute in
            fp32.
        error_budget: largest error accepted per output, relative to the largest absolute value of that
            output in the reference (dimensionless). Verification fails above it.
        cache_dir: folder of chosen schedules and of machine code; None means the user's cache folder.
        input_shapes: shape per source input name; wins over what the model declares. A size within `Bounds` is chosen
            when the model runs.
        buckets: further sets of input shapes that the same artifact takes, each as `input_shapes`; the runtime
            chooses by the shapes of what it is given.
        states: the inputs that outputs of the run before feed; None finds them by names and shapes, and an empty tuple
            leaves all of them to the caller, variables of the model, too.
        constants: inputs that are set once and for all, by name.
        require_faster: write no artifact that is slower than ONNX Runtime here.
        verify: compare with ONNX Runtime before writing the artifact.
        fallback: run sub-graphs that cannot be compiled through ONNX Runtime on the device.
        calibration: what to quantise with; needed for `int8`, and lets `auto` use it.
        c_library: refuse a model that cannot be a C library.
        bundle_runtime: put libtvm_runtime and libtvm_ffi of the target into the artifact.
    """

    threads: int | None = None
    tune: Tune = "fast"
    minutes: float | None = None
    precision: Precision = "fp32"
    error_budget: float = 1e-3
    cache_dir: Path | None = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    buckets: tuple[Mapping[str, Shape], ...] = ()
    states: tuple[StatePair, ...] | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    require_faster: bool = False
    verify: bool = True
    fallback: bool = True
    c_library: bool = False
    bundle_runtime: bool = False
    calibration: Calibration | None = None

    def fixed_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs, for a front end that knows no bounds.

        Raises:
            InputShapeError: a size is within bounds.
        """
        for name, shape in self.input_shapes.items():
            if not all(isinstance(size, int) for size in shape):
                raise InputShapeError(
                    f"sizes within bounds ({name!r}: {'x'.join(map(str, shape))}) are compiled for ONNX models only: "
                    "give --input once for each shape instead"
                )
        return {
            name: tuple(size for size in shape if isinstance(size, int))
            for name, shape in self.input_shapes.items()
        }

    def by_bucket(self) -> list[CompileOptions]:
        """The options of each set of input shapes alone: those without bounds first, which are the faster ones."""
        return [
            replace(self, input_shapes=shapes, buckets=())
            for shapes in sorted((self.input_shapes, *self.buckets), key=_has_bounds)
        ]


def _has_bounds(shapes: Mapping[str, Shape]) -> bool:
    return any(isinstance(size, Bounds) for shape in shapes.values() for size in shape)
