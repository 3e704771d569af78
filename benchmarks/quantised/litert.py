"""Quantised TensorFlow Lite models beside LiteRT, element by element, on realistic inputs.

    python -m edgec.benchmarks.quantised.litert FOLDER --data DATA [--count 500] [--document docs/quantisation.md]

Differences are in steps of the output's grid; where an output is real numbers, in the largest number of the reference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

import edgec.runtime as rt
from edgec.benchmarks.quantised.documented import common_options, write_between
from edgec.benchmarks.quantised.inputs import Array, clips, crops, mfcc, on_grid
from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import load_target

MARK = "litert"


@dataclass(frozen=True)
class Row:
    """What was found for a model.

    Attributes:
        equal: share of elements with the same bits.
        worst: the largest difference of the outputs that are integers, in steps.
        worst_real: the largest difference of the other outputs, relative to the largest number of the reference.
        top: share of inputs with the same largest element of the first output.
    """

    name: str
    count: int
    equal: float
    worst: int
    worst_real: float | None
    top: float


def _pictures(side: int, shift: int, data: Path, count: int) -> list[Array]:
    dtype = np.int8 if shift else np.uint8
    return [(crop.astype(np.int16) - shift).astype(dtype) for crop in crops(data, count, side, side)]


def _keywords(data: Path, count: int) -> list[Array]:
    digits = [mfcc(clip).reshape(1, 49, 10, 1) for clip in clips(data, count, 16000)]
    return [on_grid(digit, "int8", 0.5847029, 83) for digit in digits]


def _machine_sounds(data: Path, count: int) -> list[Array]:
    """Five frames of a log-mel spectrogram, with noise in some."""
    name = "tflite/mlperf_tiny/ad01_normal_id_01_00000000.bin"
    frames, rng = np.fromfile(data / name, "<f4").reshape(200, 128), np.random.default_rng(11)
    found = []
    for number in range(count):
        start = number % 196
        noise = rng.normal(0, rng.uniform(0, 4), (5, 128)) * (number >= 196)
        found.append(on_grid((frames[start : start + 5] + noise).reshape(1, 640), "int8", 0.39101523, 89))
    return found


def _spectra(data: Path, count: int) -> list[Array]:
    """49 frames of 40 log energies, as the micro frontend scales them."""
    found = []
    for clip in clips(data, count, 16000):
        frames = np.stack([clip[i * 320 : i * 320 + 480] for i in range(49)]) * np.hanning(480)
        energy = np.abs(np.fft.rfft(frames, 512))[:, 1:241].reshape(49, 40, 6).sum(2)
        found.append(on_grid(np.log(energy + 1e-3).reshape(1, 1960), "int8", 0.05, -30))
    return found


def _digits(data: Path, count: int) -> list[Array]:
    """Shapes like digits: photographs of little contrast, in grey."""
    grey = [crop.mean(-1).reshape(1, 28, 28) for crop in crops(data, count, 28, 28)]
    return [on_grid(picture / 255, "int8", 1 / 255, -128) for picture in grey]


def _waves(data: Path, count: int) -> list[Array]:
    return [np.rint(clip * 32767).astype(np.int16).reshape(1, 480) for clip in clips(data, count, 480)]


def _angles(_data: Path, count: int) -> list[Array]:
    codes = np.arange(count) % 256 - 128
    return [np.array([[code]], np.int8) for code in codes]


MODELS: dict[str, Callable[[Path, int], list[Array]]] = {
    "mlperf_tiny/kws_ref_model_int8": _keywords,
    "mlperf_tiny/ic_resnet8_int8": partial(_pictures, 32, 128),
    "mlperf_tiny/ad01_int8": _machine_sounds,
    "tflm/micro_speech_int8": _spectra,
    "tflm/hello_world_int8": _angles,
    "tflm/mnist_lstm_int8": _digits,
    "tflm/audio_preprocessor_int8": _waves,
    "vision/mobilenet_v1_025_224_quant": partial(_pictures, 224, 0),
    "vision/mobilenet_v2_100_224_quant": partial(_pictures, 224, 0),
    "vision/movenet_lightning_int8": partial(_pictures, 192, 0),
    "vision/ssd_mobilenet_v1_coco_quant": partial(_pictures, 300, 0),
}


def compared(name: str, data: Path, folder: Path, count: int) -> Row:
    """Compile a model and compare it with LiteRT."""
    file, artifact = data / f"tflite/{name}.tflite", folder / f"{Path(name).name}.edge"
    compile_model(
        file, load_target("host"), CompileOptions(tune="none", threads=1, verify=False), output=artifact
    )
    equal, elements, worst, worst_real, top = 0, 0, 0, None, 0
    with rt.load(artifact, threads=1) as model:
        (port,) = model.inputs
        given = [_fitted(x, port.shape, port.dtype) for x in MODELS[name](data, count)]
        for reference, x in zip(_reference(file, given), given, strict=True):
            for number, (output, wanted) in enumerate(reference.items()):
                got = model.run({port.name: x})[output]
                equal, elements = equal + int((got == wanted).sum()), elements + wanted.size
                apart = float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max(initial=0))
                if wanted.dtype.kind == "f":
                    size = float(np.abs(wanted).max(initial=0)) or 1.0
                    worst_real = max(worst_real or 0.0, apart / size)
                else:
                    worst = max(worst, int(apart))
                top += number == 0 and wanted.reshape(-1)[int(got.argmax())] == wanted.max()
    return Row(Path(name).name, count, equal / elements, worst, worst_real, top / count)


def _fitted(x: Array, shape: Sequence[int], dtype: str) -> Array:
    return np.ascontiguousarray(x.reshape(tuple(shape)).astype(dtype))


def _reference(file: Path, given: Sequence[Array]) -> Iterator[dict[str, Array]]:
    """LiteRT's outputs by name for each input, with its usual delegate; layers with a memory begin anew."""
    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    (port,) = interpreter.get_input_details()
    for x in given:
        interpreter.reset_all_variables()
        interpreter.set_tensor(port["index"], x.reshape(port["shape"]))
        interpreter.invoke()
        yield {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}


def table(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = ["| model | inputs | elements with the same bits | largest difference | same best element |"]
    lines.append("|---|---:|---:|---|---:|")
    for row in rows:
        apart = f"{row.worst} step{'s' * (row.worst != 1)}" if row.worst_real is None else ""
        if row.worst_real is not None:
            apart = f"{row.worst_real:.1e} of the largest" if row.worst_real else "0"
        lines.append(f"| {row.name} | {row.count} | {row.equal:.4%} | {apart} | {row.top:.1%} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print and document."""
    parser = common_options(__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=[], help="models whose names contain one of these")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in MODELS:
        if not given.only or any(part in name for part in given.only):
            try:
                rows.append(compared(name, given.data, given.folder, given.count))
            except UnsupportedModel as refused:
                print(f"{name} is left out: {refused}", flush=True)
                continue
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    if given.document is not None:
        write_between(given.document, MARK, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
