"""Compiled pre- and postprocessing equals numpy: pixels to the bit, features, boxes in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.runtime.processing.audio import AudioPreprocessor
from edgec.runtime.processing.boxes import BOX_DECODERS
from edgec.runtime.processing.compiled import CompiledProcessing
from edgec.runtime.processing.image import ImagePreprocessor, Placement
from edgec.targets import detect

SIZE = 64
ANCHORS = 84


def spec(name: str, *shape: int) -> rt.TensorSpec:
    return rt.TensorSpec(name=name, safe_name=name, shape=shape, dtype="float32")


def built(
    card: rt.ModelCard, inputs: list[rt.TensorSpec], outputs: list[rt.TensorSpec]
) -> CompiledProcessing:
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from edgec.compiler.processing import build_processing
    from edgec.runtime.execution.shared_libraries import ensure_runtime

    library = build_processing(card, inputs, outputs, detect())
    assert library is not None
    ensure_runtime(lambda name: None)
    return CompiledProcessing(library.code, library.functions, card, [one.name for one in outputs])


def card(source: dict[str, Any], output: dict[str, Any]) -> rt.ModelCard:
    return msgspec.convert(
        {
            "input": {"kind": "image", "width": SIZE, "height": SIZE} | source,
            "output": output,
            "labels": ["a", "b"],
        },
        rt.ModelCard,
    )


@pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_pixels_are_the_same_to_the_bit(colour: str, layout: str, resize: str) -> None:
    channels = 1 if colour == "gray" else 3
    values = {"mean": [123.675, 116.28, 103.53][:channels], "scale": [0.0171, 0.0175, 0.0174][:channels]}
    source = {
        "width": 40,
        "height": 24,
        "colour": colour,
        "layout": layout,
        "resize": resize,
        "pad": 114,
    } | values
    declared = card(source, {"decoder": "raw"})
    shape = (1, channels, 24, 40) if layout == "NCHW" else (1, 24, 40, channels)
    library = built(declared, [spec("x", *shape)], [])
    assert isinstance(declared.input, rt.card.ImageInput)
    plain, fast = (
        ImagePreprocessor(declared.input, "float32"),
        ImagePreprocessor(declared.input, "float32", library.prepare),
    )
    random = np.random.default_rng(0)
    for size in ((24, 40, 3), (33, 21, 3), (24, 40), (7, 90)):
        frame = random.integers(0, 256, size, dtype=np.uint8)
        for view in (frame, frame[::-1], frame[:, ::-1]):
            (expected, place), (found, same) = plain(view), fast(view)
            np.testing.assert_array_equal(found, expected)
            assert place == same


SOUNDS: dict[str, dict[str, Any]] = {
    "log-mel": {"features": "log-mel", "mean": -3.0, "scale": 0.25},
    "mfcc": {"features": "mfcc", "window": "hamming", "power": 1, "mel_scale": "slaney", "coefficients": 13},
    "odd frame": {"features": "log-mel", "frame_s": 0.02506, "mels": 64, "fft_size": 1024, "window": "none"},
}


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("frames", [1, 15, 16, 49])
def test_features_of_sound_are_the_same(name: str, frames: int) -> None:
    """Block by block, whatever was in the buffers before; log-mel values lie about 10 apart."""
    declared = msgspec.convert(
        {"input": {"kind": "audio"} | SOUNDS[name], "output": {"decoder": "raw"}},
        rt.ModelCard,
    )
    assert isinstance(declared.input, rt.card.AudioInput)
    library = built(declared, [], [])
    plain = AudioPreprocessor(declared.input, (1,), "float32")
    fast = AudioPreprocessor(declared.input, (1,), "float32", library.features)
    random = np.random.default_rng(0)
    for loudness in (0.5, 1e-4):
        samples = np.float32(loudness) * random.standard_normal(plain.frame + (frames - 1) * plain.step + 3)
        expected = plain.features(samples.astype(np.float32))
        found = fast.features(samples.astype(np.float32))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-4 * declared.input.scale)


DECODERS: dict[str, dict[str, Any]] = {
    "yolox": {"decoder": "yolox"},
    "yolox-decoded": {"decoder": "yolox", "decoded": True},
    "yolov5": {"decoder": "yolov5", "max_detections": 7},
    "yolov5-alike": {"decoder": "yolov5", "normalised": True, "class_wise": False},
    "yolov8": {"decoder": "yolov8"},
    "ultraface": {"decoder": "ultraface", "score_threshold": 0.3},
}


def outputs_of(decoder: dict[str, Any], classes: int, random: np.random.Generator) -> dict[str, Any]:
    """Crowded boxes with coarse scores: many ties, many overlaps, many at the threshold."""
    scores = random.integers(0, 11, (ANCHORS, classes)) / 10
    unit = SIZE if decoder.get("normalised") else 1
    centres, sizes = random.integers(10, 50, (ANCHORS, 2)) / unit, random.integers(8, 30, (ANCHORS, 2)) / unit
    if decoder["decoder"] == "ultraface":
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) / SIZE
        pair = np.stack([1 - scores[:, 0], scores[:, 0]], axis=1)
        return {"scores": pair[None].astype(np.float32), "boxes": corners[None].astype(np.float32)}
    if decoder["decoder"] == "yolox" and not decoder.get("decoded"):
        centres, sizes = random.normal(0.5, 0.5, (ANCHORS, 2)), random.normal(0, 0.5, (ANCHORS, 2))
    if decoder["decoder"] == "yolov8":
        return {"o": np.concatenate([centres, sizes, scores], axis=1).T[None].astype(np.float32)}
    sure = random.integers(5, 11, (ANCHORS, 1)) / 10
    return {"o": np.concatenate([centres, sizes, sure, scores], axis=1)[None].astype(np.float32)}


@pytest.fixture(scope="module")
def decoders() -> dict[tuple[str, int], tuple[rt.ModelCard, CompiledProcessing]]:
    return {}


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(sorted(DECODERS)),
    classes=st.sampled_from([1, 21]),
    seed=st.integers(0, 10_000),
    broken=st.booleans(),
)
def test_boxes_are_the_same_in_the_same_order(
    name: str, classes: int, seed: int, broken: bool, decoders: Any
) -> None:
    """Also where some scores are no numbers: their anchors hold nothing."""
    random = np.random.default_rng(seed)
    outputs = outputs_of(DECODERS[name], classes, random)
    if broken:
        scores = (
            outputs["o"][0, 4:] if name == "yolov8" else outputs.get("scores", outputs.get("o"))[0, :, -1:]
        )
        scores[random.random(scores.shape) < 0.2] = np.nan
    if (name, classes) not in decoders:
        declared = card({}, DECODERS[name])
        decoders[name, classes] = (
            declared,
            built(declared, [], [spec(key, *value.shape) for key, value in outputs.items()]),
        )
    declared, library = decoders[name, classes]
    place = Placement(200, 100, 0.32, 0.64, 0.0, 0.0)
    expected = BOX_DECODERS[DECODERS[name]["decoder"]](outputs, declared.output, declared, place)
    found = library.detect(outputs, place)
    assert [(one.class_id, one.score, one.label) for one in found] == [
        (one.class_id, one.score, one.label) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        a, b = one.box, other.box
        np.testing.assert_allclose(
            [a.left, a.top, a.right, a.bottom], [b.left, b.top, b.right, b.bottom], atol=1e-3
        )


def test_nothing_above_the_threshold_gives_nothing() -> None:
    declared = card({}, {"decoder": "yolov5"})
    library = built(declared, [], [spec("o", 1, ANCHORS, 7)])
    empty = {"o": np.zeros((1, ANCHORS, 7), np.float32)}
    assert library.detect(empty, Placement(64, 64, 1, 1, 0, 0)) == []
    broken = {"o": np.full((1, ANCHORS, 7), np.nan, np.float32)}
    assert library.detect(broken, Placement(64, 64, 1, 1, 0, 0)) == []


def test_an_artifact_carries_it_and_predicts_the_same(mlp: Any, tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from edgec.compiler.processing import build_processing

    declared = msgspec.convert(
        {
            "input": {"kind": "image", "width": 8, "height": 4, "colour": "gray", "scale": 0.01},
            "output": {"decoder": "embedding"},
        },
        rt.ModelCard,
    )
    inputs = [spec("x", 1, 1, 4, 8)]
    library = build_processing(declared, inputs, [], detect())
    assert library is not None
    assert library.functions == ("edgec_prepare",)
    # The same compile twice gives the same bytes.
    again = build_processing(declared, inputs, [], detect())
    assert again == library
    config = msgspec.structs.replace(mlp.config, pipeline=declared, around=library.functions)
    rt.write_artifact(
        tmp_path / "a.edge", config=config, code=mlp.code, weights=mlp.weights, around=library.code
    )
    with rt.load(tmp_path / "a.edge") as model:
        loaded = CompiledProcessing(model._processing, model.config.around, declared, [])
        assert loaded.prepares
        assert not loaded.detects
        assert isinstance(declared.input, rt.card.ImageInput)
        # A frame that may not be written to, of the model's own size, which nothing resizes or copies.
        frame = np.random.default_rng(0).integers(0, 256, (4, 8), dtype=np.uint8)
        picture = ImagePreprocessor(declared.input, "float32", loaded.prepare)
        expected, _ = picture(frame)
        found, _ = picture(np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape))
        np.testing.assert_array_equal(found, expected)
    rt.write_artifact(tmp_path / "b.edge", config=config, code=mlp.code, weights=mlp.weights)
    with pytest.raises(rt.ArtifactError, match=r"holds no around\.so"):
        rt.load(tmp_path / "b.edge")
