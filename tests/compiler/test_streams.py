"""Streams of sound through models with states, beside the runtime that each model comes from, frame by frame.

The models and the sound are real. Those of `make test` are in the shared folder and run for a few seconds; `-m long`
streams 60 s, through models of installed packages as well.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime.card import StatePair
from edgec.runtime.processing.input_files import read_sound
from edgec.targets import detect

RATE = 16000
Arrays = dict[str, np.ndarray]
Step = Callable[[Arrays], Arrays]


def sound(shared_data: Path, seconds: float) -> np.ndarray:
    """Speech with pauses, float32 in -1 to 1, at 16 kHz."""
    samples, rate = read_sound(shared_data / "audio" / "silero_test_60s.wav")
    assert rate == RATE
    return (samples[: int(seconds * RATE)] / np.float32(32768)).astype(np.float32)


def by_onnxruntime(path: Path, states: dict[str, str], constants: Arrays) -> Step:
    """ONNX Runtime, whose state is carried here, from zeros on."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    shapes = {v.name: [n if isinstance(n, int) else 1 for n in v.shape] for v in session.get_inputs()}
    held = {name: np.zeros(shapes[name], np.float32) for name in states}

    def step(inputs: Arrays) -> Arrays:
        made = dict(zip(names, session.run(None, inputs | held | constants), strict=True))
        held.update({name: made.pop(following) for name, following in states.items()})
        return made

    return step


def by_litert(path: Path) -> Step:
    """LiteRT, which keeps its variables itself."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details(), interpreter.get_output_details()

    def step(inputs: Arrays) -> Arrays:
        for detail in given:
            interpreter.set_tensor(detail["index"], inputs[detail["name"]])
        interpreter.invoke()
        return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in made}

    return step


def largest_error(
    path: Path, folder: Path, reference: Step, frames: Iterator[Arrays], **options: Any
) -> tuple[float, float, int]:
    """Compile a model and stream frames through it and its reference.

    Returns:
        the largest absolute error of any output in any frame, the largest value, and the number of frames.
    """
    result = compile_model(
        path, detect(), CompileOptions(tune="none", threads=1, **options), output=folder / f"{path.stem}.edge"
    )
    worst, largest, count = 0.0, 0.0, 0
    with rt.load(result.artifact, threads=1) as model:
        session = model.session()
        assert model.config.states
        constant = {spec.name for spec in session.inputs}
        for inputs in frames:
            expected, got = reference(inputs), session.run({n: a for n, a in inputs.items() if n in constant})
            assert got.keys() == expected.keys()
            for name, array in expected.items():
                a, b = array.astype(np.float64), got[name].astype(np.float64)
                worst, largest = max(worst, float(np.abs(a - b).max())), max(largest, float(np.abs(a).max()))
            count += 1
    return worst, largest, count


def vad_frames(samples: np.ndarray, constants: Arrays) -> Iterator[Arrays]:
    """Frames of 512 samples for Silero VAD, with the 64 before."""
    padded = np.concatenate([np.zeros(64, np.float32), samples])
    for at in range(0, len(samples) - 511, 512):
        yield {"input": padded[None, at : at + 576], **constants}


def spectrum_frames(samples: np.ndarray) -> Iterator[Arrays]:
    """Magnitudes of frames of 512 samples every 128, for the first part of DTLN."""
    for at in range(0, len(samples) - 511, 128):
        yield {"input_2": np.abs(np.fft.rfft(samples[at : at + 512])).astype(np.float32)[None, None]}


def block_frames(samples: np.ndarray) -> Iterator[Arrays]:
    """Frames of 512 samples every 128, for the second part of DTLN."""
    for at in range(0, len(samples) - 511, 128):
        yield {"input_4": samples[None, None, at : at + 512]}


DTLN = {
    "dtln_model_1": ({"input_3": "tf_op_layer_stack_2"}, spectrum_frames),
    "dtln_model_2": ({"input_5": "tf_op_layer_stack_5"}, block_frames),
}


def noise_suppressor(name: str, shared_data: Path, folder: Path, seconds: float) -> tuple[float, float, int]:
    path = shared_data / "onnx" / "audio" / f"{name}.onnx"
    states, frames = DTLN[name]
    declared = tuple(StatePair(input=a, output=b) for a, b in states.items())
    samples = sound(shared_data, seconds)
    return largest_error(path, folder, by_onnxruntime(path, states, {}), frames(samples), states=declared)


def test_a_noise_suppressor_with_declared_states(shared_data: Path, tmp_path: Path) -> None:
    worst, largest, frames = noise_suppressor("dtln_model_1", shared_data, tmp_path, 3.0)
    assert frames == 372
    assert worst < 1e-4 * largest


@pytest.mark.long
@pytest.mark.parametrize("name", list(DTLN))
def test_a_minute_through_a_noise_suppressor(name: str, shared_data: Path, tmp_path: Path) -> None:
    worst, largest, frames = noise_suppressor(name, shared_data, tmp_path, 60.0)
    print(f"{name}: {frames} frames, largest error {worst:.2g} of {largest:.2g}")
    assert frames == 7497
    assert worst < 1e-4 * largest


@pytest.mark.long
def test_a_minute_through_a_voice_detector(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "onnx" / "audio" / "silero_vad_16k_op15.onnx"
    rate = {"sr": np.array(RATE)}
    reference = by_onnxruntime(path, {"state": "stateN"}, rate)
    frames = vad_frames(sound(shared_data, 60.0), rate)
    worst, _, count = largest_error(path, tmp_path, reference, frames, input_shapes={"input": (1, 576)})
    print(f"{path.name}: {count} frames, largest error {worst:.2g}")
    assert count == 1875
    assert worst < 1e-4


@pytest.mark.long
def test_a_voice_detector_listens_to_chunks_of_any_length(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "onnx" / "audio" / "silero_vad_16k_op15.onnx"
    card = msgspec.convert(
        {
            "constants": {"sr": RATE},
            "input": {"kind": "audio", "sample_rate": RATE, "window_s": 0.036, "hop_s": 0.032},
            "output": {"decoder": "sound-events", "output": "output", "activation": "none", "threshold": 0.0},
            "labels": ["speech"],
        },
        rt.ModelCard,
    )
    options = CompileOptions(tune="none", threads=1, input_shapes={"input": (1, 576)})
    result = compile_model(path, detect(), options, card=card, output=tmp_path / "vad.edge")
    samples, rate = sound(shared_data, 20.0), {"sr": np.array(RATE)}
    reference = by_onnxruntime(path, {"state": "stateN"}, rate)
    expected = [float(reference(frame)["output"][0, 0]) for frame in vad_frames(samples, {})]
    with rt.load(result.artifact, threads=1) as model:
        streams = [model.session().listen(), model.listen()]
        scores: list[list[float]] = [[], []]
        padded = np.concatenate([np.zeros(64, np.float32), samples])
        for at in range(0, len(padded), 777):
            for stream, found in zip(streams, scores, strict=True):
                results = stream.push(padded[at : at + 777]) or []
                found += [one.score for one in results if isinstance(one, rt.Sound)]
    for found in scores:
        np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5)
    assert max(expected) > 0.9 > 0.1 > min(expected)


def package(name: str) -> Path:
    """The folder of an installed package with models; it is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"optional: pip install --no-deps {name.replace('_', '-')}")
    return Path(spec.origin).parent


VOICE_DETECTORS = {
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_16k_op15": {"input": (1, 576)},
    "silero_vad_op18_ifless": {"input": (1, 576)},
    "silero_vad_half": {"input": (1, 576)},
    "silero_vad_openvino_16k": {},
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(VOICE_DETECTORS))
def test_a_minute_through_each_form_of_a_voice_detector(name: str, shared_data: Path, tmp_path: Path) -> None:
    path = package("silero_vad") / "data" / f"{name}.onnx"
    known = {value.name for value in ort.InferenceSession(str(path)).get_inputs()}
    rate = {"sr": np.array(RATE)} if "sr" in known else {}
    reference = by_onnxruntime(path, {"state": "stateN"}, rate)
    frames, shapes = vad_frames(sound(shared_data, 60.0), rate), VOICE_DETECTORS[name]
    worst, _, count = largest_error(path, tmp_path, reference, frames, input_shapes=shapes)
    print(f"{name}: {count} frames, largest error {worst:.2g}")
    assert worst < 1e-4


@pytest.mark.long
def test_a_minute_through_a_voice_detector_of_four_frames_a_run(shared_data: Path, tmp_path: Path) -> None:
    path = package("silero_vad") / "data" / "silero_vad_16k_sequence.onnx"
    frames = [frame["input"] for frame in vad_frames(sound(shared_data, 60.0), {})]
    runs = ({"input": np.concatenate(frames[at : at + 4])} for at in range(0, len(frames) - 3, 4))
    reference = by_onnxruntime(path, {"h": "hn", "c": "cn"}, {})
    worst, _, count = largest_error(path, tmp_path, reference, runs, input_shapes={"input": (4, 576)})
    print(f"{path.stem}: {count} runs, largest error {worst:.2g}")
    assert worst < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("name", ["alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"])
def test_a_minute_through_a_wake_word(name: str, shared_data: Path, tmp_path: Path) -> None:
    path = package("pymicro_wakeword") / "models" / f"{name}.tflite"
    package("pymicro_features")
    from pymicro_features import MicroFrontend

    spoken, rate = read_sound(shared_data / "audio" / "wake_alexa.wav")
    assert rate == RATE
    minute = np.concatenate([spoken, read_sound(shared_data / "audio" / "silero_test_60s.wav")[0]])
    frontend, rows = MicroFrontend(), []
    for at in range(0, 60 * RATE, 160):
        row = frontend.process_samples(minute[at : at + 160].astype("<i2").tobytes()).features
        rows += [row] if row else []
    from ai_edge_litert.interpreter import Interpreter

    (given,) = Interpreter(model_path=str(path)).get_input_details()
    scale, zero = given["quantization"]
    stored = (np.array(rows, np.float32) / scale + zero).round().clip(-128, 127).astype(np.int8)
    stride = int(given["shape"][1])
    frames = (
        {given["name"]: stored[None, at : at + stride]} for at in range(0, len(stored) - stride + 1, stride)
    )
    worst, largest, count = largest_error(path, tmp_path, by_litert(path), frames)
    print(f"{name}: {count} frames, largest error {worst:.0f} of {largest:.0f} (of 255)")
    assert count > 1990
    assert worst <= 1, "one step of the grid: a value on its edge may fall to either side"
