"""Quantised networks of different kinds, whose outputs are hashed on every instruction set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgec.benchmarks.quantised.inputs import Array, clips, crops, mfcc, on_grid
from edgec.targets import Target

RUNS = 3
DIGITS = 64  # sounds to calibrate with


@dataclass(frozen=True)
class Network:
    """A network and its inputs.

    Attributes:
        kind: what it stands for.
        model: its file for a target; made in a folder, where it does not exist yet.
        inputs: by name, with an axis of runs in front.
    """

    name: str
    kind: str
    model: Callable[[Path, Path, Target], Path]
    inputs: Callable[[Path], dict[str, Array]]


def _file(path: str, data: Path, _folder: Path, _target: Target) -> Path:
    return data / path


def _spectrograms(name: str, data: Path) -> dict[str, Array]:
    digits = [mfcc(clip).reshape(1, 49, 10, 1) for clip in clips(data, RUNS, 16000)]
    return {name: np.stack([on_grid(digit, "int8", 0.5847029, 83) for digit in digits])}


def _pictures(name: str, side: int, data: Path) -> dict[str, Array]:
    normal = [(crop / 255 - 0.45) / 0.225 for crop in crops(data, RUNS, side, side)]
    return {name: np.stack(normal).transpose(0, 1, 4, 2, 3).astype(np.float32)}


def _zoo(network: str, format_: str, activations: str, inputs: Callable[[Path], dict[str, Array]], data: Path,
         folder: Path, _target: Target) -> Path:  # fmt: skip
    """A network of the zoo, quantised by ONNX Runtime."""
    import onnxruntime.quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from edgec.models import build

    made = folder / f"{network}-{format_}-{activations}.onnx"
    if made.exists():
        return made
    built, prepared = build(network, folder / network), folder / f"{network}.prepared.onnx"
    quant_pre_process(str(built), str(prepared), skip_symbolic_shape=True)
    if format_ == "dynamic":
        ort.quantize_dynamic(str(prepared), str(made), weight_type=ort.QuantType.QInt8)
        return made
    _quantised(prepared, made, format_, activations, inputs(data))
    return made


def _quantised(model: Path, made: Path, format_: str, activations: str, inputs: dict[str, Array]) -> None:
    """Write a model that ONNX Runtime's static flow quantises on some inputs."""
    import onnxruntime.quantization as ort

    samples = {name: list(array) for name, array in inputs.items()}

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(range(RUNS))

        def get_next(self) -> dict[str, Array] | None:
            number = next(self._left, None)
            return None if number is None else {name: arrays[number] for name, arrays in samples.items()}

    ort.quantize_static(
        str(model), str(made), Reader(), quant_format=ort.QuantFormat[format_], per_channel=True,
        activation_type=ort.QuantType[activations], weight_type=ort.QuantType.QInt8,
    )  # fmt: skip


def _encoder(format_: str, inputs: Callable[[Path], dict[str, Array]], data: Path, folder: Path,
             _target: Target) -> Path:  # fmt: skip
    """A layer of a transformer with random weights, quantised by ONNX Runtime."""
    import onnx

    from edgec.benchmarks.quantised.encoder import encoder

    made, plain = folder / f"encoder-{format_}.onnx", folder / "encoder.onnx"
    if not made.exists():
        onnx.save(encoder(), plain)
        _quantised(plain, made, format_, "QUInt8", inputs(data))
    return made


def _ours(data: Path, folder: Path, target: Target) -> Path:
    """The zoo's trained recogniser of spoken digits, as `--precision int8` quantises it for a target."""
    import onnx

    from edgec.compiler.frontends import load_source
    from edgec.compiler.options import Calibration, CompileOptions
    from edgec.compiler.progress import Silent
    from edgec.compiler.quantise.calibrate import calibrate
    from edgec.models import build
    from edgec.runtime import load_card

    made = folder / f"ours-{target.arch}.onnx"
    if made.exists():
        return made
    some = folder / "digits"
    some.mkdir(exist_ok=True)
    sounds = sorted((data / "audio/fsdd").glob("*.wav"))
    for file in sounds[:: max(len(sounds) // DIGITS, 1)]:
        shutil.copy(file, some)
    built = build("keywords-digits", folder / "keywords-digits")
    source = load_source(built, CompileOptions())
    calibrated = calibrate(
        source,
        Calibration(some, calibrator="mse"),
        target,
        load_card(built.with_name("model.toml")),
        Silent(),
    )
    onnx.save(calibrated.model([layer.position for layer in calibrated.layers]).model, made)
    return made


_DIGITS = partial(_spectrograms, "input_1")
_SPECTRA = "input"


def _floats(data: Path) -> dict[str, Array]:
    digits = [mfcc(clip).reshape(1, 1, 49, 10) / 10 for clip in clips(data, RUNS, 16000)]
    return {_SPECTRA: np.stack(digits).astype(np.float32)}


def _tokens(data: Path) -> dict[str, Array]:
    from edgec.benchmarks.quantised.encoder import TOKENS, WIDTH

    rows = [mfcc(clip).reshape(49, 10)[:TOKENS] / 10 for clip in clips(data, RUNS, 16000)]
    return {
        "x": np.stack([np.tile(row, WIDTH // 10 + 1)[None, :, :WIDTH] for row in rows]).astype(np.float32)
    }


def _features(data: Path) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {_SPECTRA: rng.normal(0, 1, (RUNS, 1, 1, 49, 40)).astype(np.float32)}


def _bytes(side: int, name: str, data: Path) -> dict[str, Array]:
    return {name: np.stack(crops(data, RUNS, side, side))}


def _signed(side: int, name: str, data: Path) -> dict[str, Array]:
    pictures = np.stack(crops(data, RUNS, side, side)).astype(np.int16) - 128
    return {name: pictures.astype(np.int8)}


def _grey(data: Path) -> dict[str, Array]:
    pictures = np.stack([crop.mean(-1) for crop in crops(data, RUNS, 28, 28)])
    return {"serving_default_fixed_input:0": on_grid(pictures / 255, "int8", 1 / 255, -128)}


NETWORKS = (
    Network("kws_ref_model_int8", "TensorFlow Lite int8, depthwise, softmax",
            partial(_file, "tflite/mlperf_tiny/kws_ref_model_int8.tflite"), _DIGITS),
    Network("ic_resnet8_int8", "TensorFlow Lite int8, residual sums",
            partial(_file, "tflite/mlperf_tiny/ic_resnet8_int8.tflite"), partial(_signed, 32, "input_1_int8")),
    Network("mobilenet_v1_025_224_quant", "TensorFlow Lite uint8, per tensor",
            partial(_file, "tflite/vision/mobilenet_v1_025_224_quant.tflite"), partial(_bytes, 224, "input")),
    Network("mnist_lstm_int8", "TensorFlow Lite int8, LSTM in fixed point",
            partial(_file, "tflite/tflm/mnist_lstm_int8.tflite"), _grey),
    Network("ds-cnn QDQ", "QDQ of ONNX Runtime, by channel",
            partial(_zoo, "ds-cnn", "QDQ", "QUInt8", _floats), _floats),
    Network("ds-cnn QOperator", "QLinearConv and its family",
            partial(_zoo, "ds-cnn", "QOperator", "QUInt8", _floats), _floats),
    Network("ds-cnn 16 bits", "QDQ with 16-bit activations",
            partial(_zoo, "ds-cnn", "QDQ", "QInt16", _floats), _floats),
    Network("encoder QDQ", "attention, layer normalisation, GELU; outputs in real numbers",
            partial(_encoder, "QDQ", _tokens), _tokens),
    Network("ds-cnn dynamic", "DynamicQuantizeLinear, ConvInteger",
            partial(_zoo, "ds-cnn", "dynamic", "", _floats), _floats),
    Network("keywords-digits", "edgec's own `--precision int8`", _ours, _features),
)  # fmt: skip
