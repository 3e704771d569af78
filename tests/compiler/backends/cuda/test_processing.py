"""Pre- and postprocessing on the emulated GPU: a frame in, detections out, as the host computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.inference.pipeline import Pipeline
from edgec.device_agent.inference.slots import load_model
from edgec.device_agent.process.ring import Frame, Kind
from edgec.runtime.processing.boxes import YUNET_PARTS
from edgec.runtime.processing.predictor import Predictor
from edgec.targets.device_kinds import DEVICE_KINDS
from tests.compiler.backends.cuda.emulator.backend import REGISTRATION, TARGET
from tests.compiler.onnx_models import model_of, save

CLASSES, HEIGHT, WIDTH = 3, 32, 64
PICTURE = {
    "kind": "image", "width": WIDTH, "height": HEIGHT, "resize": "letterbox", "mean": [10.0, 20.0, 30.0],
    "scale": [0.02, 0.01, 0.03], "colour": "rgb",
}  # fmt: skip


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICE_KINDS, "emulated", REGISTRATION)


def corners(one: rt.Detection) -> list[float]:
    return [one.box.left, one.box.top, one.box.right, one.box.bottom]


def detector(folder: Path, output: dict[str, Any]) -> Path:
    """A convolution as a detector of random boxes."""
    rng = np.random.default_rng(5)
    grid = output["decoder"] == "yolox"
    values = CLASSES + (5 if grid else 4)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], strides=[8, 8]),
        helper.make_node("Reshape", ["a", "flat"], ["r"]),
        helper.make_node("Mul", ["r", "factor"], ["s" if grid else "y"]),
    ]
    nodes += [helper.make_node("Transpose", ["s"], ["y"], perm=[0, 2, 1])] if grid else []
    constants = {
        "w": (rng.standard_normal((values, 3, 8, 8)) / 8).astype("float32"),
        "b": rng.uniform(0.3, 0.9, values).astype("float32"),
        "flat": np.array([1, values, -1]),
        "factor": np.array([0.3] * values if grid else [20.0] * 4 + [0.5] * CLASSES, "float32").reshape(
            1, -1, 1
        ),
    }
    return save(model_of(nodes, {"x": [1, 3, HEIGHT, WIDTH]}, ["y"], constants), folder)


SSD = {
    "decoder": "ssd", "scores": "scores", "boxes": "boxes", "score_threshold": 0.4, "background": None,
    "anchors": [{"rows": 4, "columns": 8, "sizes": [[0.2, 0.4]]}],
}  # fmt: skip
YUNET = {"decoder": "yunet", "strides": [8], "score_threshold": 0.5}


def of_several_outputs(folder: Path, output: dict[str, Any]) -> Path:
    """A convolution for each output of an SSD, or of a YuNet with one stride; an SSD's boxes have an axis of 1."""
    rng = np.random.default_rng(6)
    sizes = {"boxes": 4, "scores": CLASSES} if output["decoder"] == "ssd" else {
        f"{kind}_8": size for kind, size in YUNET_PARTS.items()
    }  # fmt: skip
    nodes, constants = [], {}
    for name, size in sizes.items():
        middle = [1] if name == "boxes" else []
        weights = rng.standard_normal((size, 3, 8, 8)) / 20
        constants[f"w_{name}"] = (weights - weights.mean((2, 3), keepdims=True)).astype("float32")
        constants[f"b_{name}"] = np.full(size, 0.7, "float32")
        constants[f"to_{name}"] = np.array([1, -1, *middle, size])
        nodes += [
            helper.make_node("Conv", ["x", f"w_{name}", f"b_{name}"], [f"a_{name}"], strides=[8, 8]),
            helper.make_node("Transpose", [f"a_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"t_{name}", f"to_{name}"], [name]),
        ]
    return save(model_of(nodes, {"x": [1, 3, HEIGHT, WIDTH]}, list(sizes), constants), folder)


@pytest.mark.parametrize(
    "output",
    [
        {"decoder": "yolov8", "score_threshold": 0.3},
        {"decoder": "yolox", "score_threshold": 0.05, "strides": [8], "decoded": False},
        SSD,
        YUNET,
    ],
    ids=lambda output: output["decoder"],
)
def test_a_frame_becomes_the_same_boxes_as_on_the_host(tmp_path: Path, output: dict[str, Any]) -> None:
    make = of_several_outputs if output["decoder"] in ("ssd", "yunet") else detector
    model = make(tmp_path, output)
    card = msgspec.convert({"labels": ["a", "b", "c"], "input": PICTURE, "output": output}, rt.ModelCard)
    options = CompileOptions(threads=1, tune="none", verify=False, cache_dir=tmp_path / "cache")
    made = compile_model(model, TARGET, options, output=tmp_path / "m.edge", card=card)
    frame = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    with rt.load(made.artifact) as loaded:
        assert loaded.config.around == ("edgec_frame", "edgec_frame_nv12", "edgec_detect")
        host = Predictor(msgspec.structs.replace(loaded.config, around=()), card, b"")
        wanted, found = host(frame, None, loaded.call), loaded.predict(frame)
        assert len(wanted) >= 3
        assert [one.label for one in found] == [one.label for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert isinstance(one, rt.Detection)
            assert isinstance(other, rt.Detection)
            np.testing.assert_allclose(one.score, other.score, rtol=1e-5)
            np.testing.assert_allclose(corners(one), corners(other), rtol=1e-4, atol=1e-3)
            assert len(one.points) == len(other.points) == (5 if output is YUNET else 0)
            for mark, same in zip(one.points, other.points, strict=True):
                np.testing.assert_allclose([mark.x, mark.y], [same.x, same.y], rtol=1e-4, atol=1e-3)
        api = loaded._first.open_engine()._api
        before = api.waits
        loaded.predict(frame)
        assert (
            api.waits == before + 1
        )  # frame, model and boxes run one after another, and the host waits once
        planes = rt.Nv12.of_buffer(np.random.default_rng(2).integers(0, 256, (75, 70), np.uint8))
        assert [one.label for one in loaded.predict(planes)] == [
            one.label for one in host(planes.bgr(), None, loaded.call)
        ]
        gray = frame[:, :, 0]
        assert [one.label for one in loaded.predict(gray)] == [
            one.label for one in host(gray, None, loaded.call)
        ]


def test_a_picture_is_classified_from_pixels_that_became_the_input_there(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[8, 8]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    weights = {"w": np.random.default_rng(2).standard_normal((CLASSES, 3, 8, 8)).astype("float32")}
    model = save(model_of(nodes, {"x": [1, 3, HEIGHT, WIDTH]}, ["y"], weights), tmp_path)
    output = {"decoder": "classification"}
    card = msgspec.convert({"labels": ["a", "b", "c"], "input": PICTURE, "output": output}, rt.ModelCard)
    options = CompileOptions(threads=1, tune="none", verify=False, cache_dir=tmp_path / "cache")
    made = compile_model(model, TARGET, options, output=tmp_path / "m.edge", card=card)
    frame = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    with rt.load(made.artifact) as loaded:
        assert loaded.config.around == ("edgec_frame", "edgec_frame_nv12")
        host = Predictor(msgspec.structs.replace(loaded.config, around=()), card, b"")
        assert [one.to_json() for one in loaded.predict(frame)] == [
            one.to_json() for one in host(frame, None, loaded.call)
        ]
        with pytest.raises(rt.InputError, match="a frame must be uint8"):
            loaded.predict(frame.astype("float32"))
        api = loaded._first.open_engine()._api
        before = api.waits
        loaded.predict(frame)
        assert api.waits == before + 1


@pytest.mark.parametrize("spoilt", [None, "b", "factor"])
def test_the_agent_refuses_nan_of_boxes_that_a_gpu_makes(tmp_path: Path, spoilt: str | None) -> None:
    """NaN that reaches scores, and NaN in boxes of which no score reaches the threshold."""
    model = onnx.load(str(detector(tmp_path, {"decoder": "yolov8"})))
    for one in model.graph.initializer:
        if one.name == spoilt:
            array = numpy_helper.to_array(one).copy()
            array.reshape(-1)[1 if spoilt == "b" else -1] = np.nan
            one.CopyFrom(numpy_helper.from_array(array, one.name))
    onnx.save(model, str(tmp_path / "spoilt.onnx"))
    output = {"decoder": "yolov8", "score_threshold": 0.3}
    card = msgspec.convert({"labels": ["a", "b", "c"], "input": PICTURE, "output": output}, rt.ModelCard)
    options = CompileOptions(threads=1, tune="none", verify=False, cache_dir=tmp_path / "cache")
    made = compile_model(tmp_path / "spoilt.onnx", TARGET, options, output=tmp_path / "m.edge", card=card)
    loaded = load_model(str(made.artifact), None, 1)
    assert loaded.model.config.around == ("edgec_frame", "edgec_frame_nv12", "edgec_detect")
    source = {"source": {"kind": "test"}, "model": "m"}
    pipeline = Pipeline("door", StreamSection.model_validate(source), "t-", lambda *_: None, lambda _: None)
    picture = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    pipeline.process(Frame(0, 1, picture, Kind.PICTURE, 0, 1, 1), loaded, lambda _: None)
    assert pipeline.errors == (spoilt is not None)
    assert pipeline.message == ("BrokenOutput: output y contains NaN" if spoilt else "")
    loaded.model.close()
