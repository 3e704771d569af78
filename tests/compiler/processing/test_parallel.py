"""Frames in and boxes out on a GPU, as the emulator runs the kernels: what OpenCV and numpy compute on the host."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.compiler.processing import build, parallel_boxes
from edgec.runtime.gpu.code import unpack_programs
from edgec.runtime.gpu.program import load_program
from edgec.runtime.processing import boxes as host_boxes
from edgec.runtime.processing.compiled import DETECT, FRAME, FRAME_NV12, detect_outputs
from edgec.runtime.processing.gpu import FrameProgram
from edgec.runtime.processing.image import ImagePreprocessor, Placement
from tests.compiler.backends.cuda.emulator.backend import TARGET, EmulatedBackend
from tests.compiler.backends.cuda.emulator.device import EmulatedApi

HEIGHT, WIDTH = 12, 20
PLACE = Placement(WIDTH * 3, HEIGHT * 2, 1 / 3, 0.5, 0.0, 0.0)
COLOURS = {
    "rgb": {"colour": "rgb", "mean": [10.0, 20.0, 30.0], "scale": [0.02, 0.01, 0.03], "pad": 114},
    "bgr": {"colour": "bgr", "layout": "NHWC", "pad": 3},
    "gray": {"colour": "gray", "mean": 7.0, "layout": "NHWC", "pad": 200},
}


def spec(name: str, *shape: int) -> rt.TensorSpec:
    return rt.TensorSpec(name=name, safe_name=name, shape=shape, dtype="float32")


def card_of(output: dict[str, Any], **picture: Any) -> rt.ModelCard:
    described = {"kind": "image", "width": WIDTH, "height": HEIGHT, **picture}
    return msgspec.convert({"labels": ["a", "b", "c"], "input": described, "output": output}, rt.ModelCard)


def programs(card: rt.ModelCard, *outputs: rt.TensorSpec) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "backend_of", EmulatedBackend)
        shape = (1, card.input.channels, HEIGHT, WIDTH)
        shape = shape if card.input.layout == "NCHW" else (1, HEIGHT, WIDTH, card.input.channels)
        made = build.build_processing(card, [spec("x", *shape)], outputs, TARGET)
    assert made is not None
    return unpack_programs(made.code)


@cache
def frame_codes(colour: str) -> dict[str, bytes]:
    return programs(card_of({"decoder": "raw"}, **COLOURS[colour]))


def frame_code(colour: str) -> bytes:
    return frame_codes(colour)[FRAME]


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    channels=st.sampled_from([None, 1, 3]),
    colour=st.sampled_from(list(COLOURS)),
    resize=st.sampled_from(["stretch", "letterbox", "crop"]),
    anchor=st.sampled_from(["centre", "top-left"]),
    interpolation=st.sampled_from(["linear", "nearest", "area", "cubic"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_frame_becomes_the_input_that_the_host_makes_of_it(
    size: tuple[int, int],
    channels: int | None,
    colour: str,
    resize: str,
    anchor: str,
    interpolation: str,
    seed: int,
) -> None:
    picture = COLOURS[colour] | {"resize": resize, "anchor": anchor, "interpolation": interpolation}
    card = card_of({"decoder": "raw"}, **picture).input
    assert isinstance(card, rt.card.ImageInput)
    shape = size if channels is None else (*size, channels)
    frame = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    wanted, placement = ImagePreprocessor(card, "float32")(frame)
    program = FrameProgram(frame_code(colour), card, partial(load_program, EmulatedApi()))
    for _ in range(2):  # the second takes what the first prepared for the size
        made, where = input_of(program, frame[:, ::-1])
        made, where = input_of(program, frame)
        np.testing.assert_array_equal(made, wanted)
        assert where == placement
    program.close()


def input_of(program: FrameProgram, frame: Any) -> tuple[np.ndarray, Placement]:
    with program.input_of(frame) as (made, place):
        assert made.chain is not None
        api = made.chain._api
        assert isinstance(api, EmulatedApi)
        return api.view(made.address, made.bytes).view(made.dtype).reshape(made.shape).copy(), place


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    padding=st.tuples(st.sampled_from([0, 1, 7]), st.sampled_from([0, 5])),
    colour=st.sampled_from(list(COLOURS)),
    resize=st.sampled_from(["stretch", "letterbox", "crop"]),
    interpolation=st.sampled_from(["linear", "nearest", "area"]),
    on_gpu=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_frame_in_nv12_becomes_the_input_that_the_host_makes_of_it(
    size: tuple[int, int],
    padding: tuple[int, int],
    colour: str,
    resize: str,
    interpolation: str,
    on_gpu: bool,
    seed: int,
) -> None:
    card = card_of({"decoder": "raw"}, **COLOURS[colour], resize=resize, interpolation=interpolation).input
    assert isinstance(card, rt.card.ImageInput)
    height, width, rng = size[0] * 2, size[1] * 2, np.random.default_rng(seed)
    luma = rng.integers(0, 256, (height, width + padding[0]), np.uint8)
    chroma = rng.integers(0, 256, (height // 2, width + padding[1]), np.uint8)
    frame = rt.Nv12(luma, chroma, width)
    wanted, placement = ImagePreprocessor(card, "float32")(frame)
    np.testing.assert_array_equal(wanted, ImagePreprocessor(card, "float32")(frame.bgr())[0])
    api, codes = EmulatedApi(), frame_codes(colour)
    program = FrameProgram(codes[FRAME], card, partial(load_program, api), codes[FRAME_NV12])
    given = rt.Nv12(OnGpu(api, luma), OnGpu(api, chroma), width) if on_gpu else frame
    if on_gpu and interpolation == "area" and not program._resized_here(width, height):
        with pytest.raises(rt.InputError, match="which the host does"):
            input_of(program, given)
    else:
        made, where = input_of(program, given)
        np.testing.assert_array_equal(made, wanted)
        assert where == placement
    program.close()


class OnGpu:
    """A frame in the emulated GPU's memory, as CuPy shows one."""

    def __init__(self, api: EmulatedApi, frame: np.ndarray) -> None:
        self.shape, self.dtype = frame.shape, frame.dtype
        self.address = api.allocate(frame.nbytes)
        api.view(self.address, frame.nbytes)[:] = frame.reshape(-1).view(np.uint8)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.address, False)
        return {"version": 3, "shape": self.shape, "typestr": self.dtype.str, "data": data, "stream": None}


def test_a_frame_on_the_gpu_is_read_where_it_lies() -> None:
    api = EmulatedApi()
    card = card_of({"decoder": "raw"}, **COLOURS["rgb"], resize="letterbox").input
    assert isinstance(card, rt.card.ImageInput)
    frame = np.random.default_rng(3).integers(0, 256, (33, 41, 3), np.uint8)
    program = FrameProgram(frame_code("rgb"), card, partial(load_program, api))
    made, _ = input_of(program, OnGpu(api, frame))
    np.testing.assert_array_equal(made, ImagePreprocessor(card, "float32")(frame)[0])
    with pytest.raises(rt.InputError, match=r"a frame must be uint8 of shape .*, not float32\[33, 41, 3\]"):
        input_of(program, OnGpu(api, frame.astype("float32")))
    by_area = replace_card(card, interpolation="area")
    with pytest.raises(rt.InputError, match=r"resizes by 'area', which the host does.*\nCopy it to the host"):
        input_of(FrameProgram(frame_code("rgb"), by_area, partial(load_program, api)), OnGpu(api, frame))


def replace_card(card: rt.card.ImageInput, **changes: Any) -> rt.card.ImageInput:
    made: rt.card.ImageInput = msgspec.structs.replace(card, **changes)
    return made


def test_frames_of_many_sizes_leave_nothing_behind() -> None:
    api = EmulatedApi()
    card = card_of({"decoder": "raw"}, **COLOURS["bgr"]).input
    assert isinstance(card, rt.card.ImageInput)
    program = FrameProgram(frame_code("bgr"), card, partial(load_program, api))
    for side in range(1, 9):
        input_of(program, np.zeros((side, side, 3), np.uint8))
    held = len(api.blocks)
    for side in range(9, 17):
        input_of(program, np.zeros((side, side, 3), np.uint8))
    assert len(api.blocks) == held
    program.close()
    assert not api.blocks


SSD = {"decoder": "ssd", "scores": "scores", "boxes": "boxes"}
DECODERS: dict[str, dict[str, Any]] = {
    "yolox": {"decoder": "yolox", "strides": [2], "decoded": False, "max_detections": 30},
    "yolox-decoded": {"decoder": "yolox", "strides": [2], "decoded": True, "class_wise": False},
    "yolov5": {"decoder": "yolov5", "normalised": True},
    "yolov8": {"decoder": "yolov8", "max_detections": 200, "nms_threshold": 0.6},
    "ultraface": {"decoder": "ultraface"},
    "ssd": {
        **SSD,
        "anchors": [
            {"rows": 5, "columns": 4, "sizes": [[0.2, 0.3], [0.5, 0.5]]},
            {"rows": 2, "columns": 10, "sizes": [[0.4, 0.9]]},
        ],
        "score_threshold": 0.4,
    },
    "ssd-yx": {
        **SSD,
        "anchors": [{"rows": 6, "columns": 10, "sizes": [[0.3, 0.4]]}],
        "order": "yx", "variances": [0.2, 0.1, 0.3, 0.2],
        "activation": "none", "background": None, "class_wise": False,
    },
    "ssd-corner": {**SSD, "activation": "sigmoid", "coding": "corner", "background": -2, "score_threshold": 0.55},
    "yunet": {"decoder": "yunet", "strides": [2, 4, 7], "max_detections": 40},
}  # fmt: skip
ANCHORS = HEIGHT * WIDTH // 4


def outputs_of(card: rt.ModelCard, rng: np.random.Generator, extent: float) -> dict[str, np.ndarray]:
    """Outputs with equal scores, equal boxes, and many that overlap."""
    levels = np.round(rng.uniform(0, 1, (1, ANCHORS, 3)), 1)
    centres = rng.integers(0, 6, (1, ANCHORS, 2)) * extent / 8
    boxes = np.concatenate([centres, rng.integers(1, 5, (1, ANCHORS, 2)) * extent / 8], axis=2)
    ends = np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=2)
    made: dict[str, np.ndarray]
    spec = card.output
    if isinstance(spec, rt.card.Ssd):
        if spec.activation != "none":  # with equal rows, but no others that are equal but for rounding
            levels = rng.normal(0, 2, (1, ANCHORS, 3))
            levels[:, 40:] = levels[:, :20]
        codes = ends if spec.coding == "corner" else rng.normal(0, 2, (1, ANCHORS, 4))
        made = {"boxes": codes[:, :, None], "scores": levels}
    elif isinstance(spec, rt.card.Yunet):
        made = {}
        for stride in spec.strides:
            count = -(-HEIGHT // stride) * -(-WIDTH // stride)
            for kind in ("obj", "cls"):
                made[f"{kind}_{stride}"] = np.round(rng.uniform(-0.2, 1.4, (1, count, 1)), 1)
            made[f"bbox_{stride}"] = rng.integers(-2, 3, (1, count, 4)) / 2
            made[f"kps_{stride}"] = rng.normal(0, 1, (1, count, 10))
    elif isinstance(spec, rt.card.Ultraface):
        made = {"scores": levels[:, :, :2], "boxes": ends}
    elif isinstance(spec, rt.card.Yolov8):
        made = {"y": np.concatenate([boxes, levels], axis=2).transpose(0, 2, 1)}
    else:
        sure = np.round(rng.uniform(0, 1, (1, ANCHORS, 1)), 1)
        made = {"y": np.concatenate([boxes, sure, levels], axis=2)}
    return {name: np.ascontiguousarray(one, np.float32) for name, one in made.items()}


@pytest.mark.parametrize(("kind", "most"), [*((kind, 4000) for kind in DECODERS), ("yolov8", 37)])
def test_outputs_become_the_boxes_that_the_host_finds(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (host_boxes, parallel_boxes):
        monkeypatch.setattr(module, "CANDIDATES", most)
    card = card_of(DECODERS[kind])
    assert isinstance(card.output, rt.card.BoxOutput)
    extent = {"yolox": 3.0, "yolov5": 1.0, "ultraface": 1.0, "ssd-corner": 1.0}.get(kind, 12.0)
    rng = np.random.default_rng(7)
    first = outputs_of(card, rng, extent)
    code = programs(card, *(spec(one, *array.shape) for one, array in first.items()))[DETECT]
    function = load_program(EmulatedApi(), code)
    names = detect_outputs(card.output, list(first))
    constants = host_boxes.constants_of(card)
    fixed = [] if constants is None else [constants]
    for threshold in (0.0, 0.3, 2.0):
        outputs = first if threshold < 1 else {one: array * 0 for one, array in first.items()}
        if threshold == 0.3:
            outputs = outputs_of(card, rng, extent)
        wanted = host_boxes.BOX_DECODERS[card.output.decoder](outputs, card.output, card, PLACE)
        given = [outputs[one].squeeze(2) if outputs[one].ndim == 4 else outputs[one] for one in names]
        boxes, scores, classes, count, broken, *points = function([*given, *fixed])
        assert not broken[0]
        kept = int(count[0])
        marks = points[0][:kept].reshape(kept, 5, 2) if points else None
        found = host_boxes.finish(boxes[:kept], scores[:kept], classes[:kept], card, PLACE, marks)
        assert [one.class_id for one in found] == [one.class_id for one in wanted]
        assert bool(wanted) == (threshold < 1)
        exact = 0 if getattr(card.output, "activation", "none") == "none" else 1e-6
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.score, other.score, rtol=exact)
            np.testing.assert_allclose(corners(one), corners(other), rtol=1e-5, atol=1e-4)
            assert len(one.points) == len(other.points) == (5 if kind == "yunet" else 0)
            for mark, same in zip(one.points, other.points, strict=True):
                np.testing.assert_allclose([mark.x, mark.y], [same.x, same.y], rtol=1e-5, atol=1e-4)
    for place in (0, -1, 17):  # whatever element it is, of whatever output
        for number in range(len(given)):
            spoilt = [array.copy() for array in given]
            spoilt[number].reshape(-1)[place % spoilt[number].size] = np.nan
            assert function([*spoilt, *fixed])[4][0] == 1
    function.close()


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("ssd", {"scores": (1, ANCHORS - 1, 3), "boxes": (1, ANCHORS - 1, 4)}),  # the card has others
        ("ssd", {"scores": (1, ANCHORS, 3), "boxes": (1, ANCHORS - 1, 4)}),
        ("ssd", {"scores": (1, ANCHORS, 1), "boxes": (1, ANCHORS, 4)}),  # nothing but the background
        ("ssd-corner", {"scores": (2, ANCHORS, 3), "boxes": (2, ANCHORS, 4)}),
        ("yunet", {f"{kind}_2": (1, 60, size) for kind, size in host_boxes.YUNET_PARTS.items()}),  # a stride
        ("yolox", {"y": (1, ANCHORS + 4, 8)}),
    ],
)
def test_outputs_of_another_form_are_left_to_the_host(kind: str, shapes: dict[str, tuple[int, ...]]) -> None:
    card = card_of(DECODERS[kind])
    assert set(programs(card, *(spec(one, *shape) for one, shape in shapes.items()))) == {FRAME, FRAME_NV12}


def corners(one: rt.Detection) -> list[float]:
    return [one.box.left, one.box.top, one.box.right, one.box.bottom]
