"""The model card (``model.toml``): the path from a camera's frame or a microphone's samples to typed results.

All of it is declared, so that no user code runs on a device. Pixels are 0 to 255 and frames come as
OpenCV gives them (BGR, ``[height, width, 3]``, uint8); what the model sees is ``(pixel - mean) * scale``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgec.runtime.errors import CardError
from edgec.runtime.schema import StrictPart, fault_of, prepare

Activation = Literal["none", "softmax", "sigmoid"]
Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(gt=0)]
Positive = Annotated[float, Meta(gt=0)]
Side = Annotated[int, Meta(gt=0, le=16384)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Version = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]


# ---------------------------------------------------------------- inputs


class _Input(StrictPart, kw_only=True, tag_field="kind"):
    @property
    def kind(self) -> str:
        """What a card calls it."""
        return str(self.__struct_config__.tag)


class ImageInput(_Input, kw_only=True, tag="image"):
    """A picture: how a frame becomes the model's input.

    ``letterbox`` keeps the aspect ratio and fills the rest with ``pad``; ``crop`` keeps it and cuts the
    longer side about the centre; ``stretch`` does not keep it. ``anchor`` says where a letterboxed
    picture lies.
    """

    name: str | None = None
    width: Side
    height: Side
    colour: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    interpolation: Literal["linear", "nearest", "area", "cubic"] = "linear"
    pad: float = 0.0
    anchor: Literal["top-left", "centre"] = "centre"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    @property
    def channels(self) -> int:
        """1 for gray, else 3."""
        return 1 if self.colour == "gray" else 3

    def __post_init__(self) -> None:
        for key in ("mean", "scale"):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != self.channels:
                raise ValueError(
                    f"{key} needs one number or {self.channels}, one a channel, not {len(value)}"
                )


class AudioInput(_Input, kw_only=True, tag="audio"):
    """Sound: mono samples at ``sample_rate``, in windows of ``window_s`` every ``hop_s`` seconds.

    ``features`` says what the model sees: the ``waveform`` itself, ``log-mel`` (frames × mels) or ``mfcc``
    (frames × coefficients) of frames of ``frame_s`` every ``step_s``. ``axes`` is the order of the
    features in the model's input: ``TF`` (time, frequency) or ``FT``; other axes have length 1.
    """

    name: str | None = None
    sample_rate: Count = 16000
    window_s: Annotated[float, Meta(gt=0, le=600)] = 1.0
    hop_s: Positive | None = None
    features: Literal["waveform", "log-mel", "mfcc"] = "waveform"
    frame_s: Positive = 0.025
    step_s: Positive = 0.010
    fft_size: Count | None = None
    mels: Count = 40
    coefficients: Count = 10
    min_hz: Annotated[float, Meta(ge=0)] = 20.0
    max_hz: Positive | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"
    power: Literal[1, 2] = 2
    window: Literal["hann", "hamming", "none"] = "hann"
    log_offset: Positive = 1e-6
    axes: Literal["TF", "FT"] = "TF"
    mean: float = 0.0
    scale: float = 1.0

    @property
    def window_samples(self) -> int:
        """Samples in one window."""
        return round(self.window_s * self.sample_rate)


class TensorInput(_Input, kw_only=True, tag="tensor"):
    """Plain tensors: ``predict`` takes the same dict of arrays as ``run``."""

    name: str | None = None


Input = ImageInput | AudioInput | TensorInput

# ---------------------------------------------------------------- outputs


class _Output(StrictPart, kw_only=True, tag_field="decoder"):
    @property
    def decoder(self) -> str:
        """What a card calls it."""
        return str(self.__struct_config__.tag)


class Classification(_Output, kw_only=True, tag="classification"):
    """One score a class: the ``top_k`` best at or above ``threshold``."""

    output: str | None = None
    activation: Activation = "softmax"
    top_k: Count = 5
    threshold: Probability = 0.0


class BoxOutput(_Output, kw_only=True):
    """What all detectors share: thresholds of scores and of overlap (non-maximum suppression)."""

    score_threshold: Probability = 0.3
    nms_threshold: Probability = 0.45
    class_wise: bool = True
    max_detections: Count = 100


class Yolox(BoxOutput, kw_only=True, tag="yolox"):
    """YOLOX: ``[1, anchors, 5 + classes]``, boxes relative to their grid cells (unless the graph decodes
    them).
    """

    output: str | None = None
    strides: tuple[int, ...] = (8, 16, 32)
    decoded: bool = False


class Yolov5(BoxOutput, kw_only=True, tag="yolov5"):
    """YOLOv5 and v7: ``[1, anchors, 5 + classes]`` decoded to input pixels (or 0 to 1: ``normalised``)."""

    output: str | None = None
    normalised: bool = False


class Yolov8(BoxOutput, kw_only=True, tag="yolov8"):
    """YOLOv8 to v11: ``[1, 4 + classes, anchors]`` without objectness, centre and size in input pixels."""

    output: str | None = None
    normalised: bool = False


class AnchorLayer(StrictPart, kw_only=True):
    """One SSD feature map of ``rows`` × ``columns`` cells; box sizes are shares of the picture (width,
    height).
    """

    rows: Count
    columns: Count
    sizes: Annotated[tuple[tuple[float, float], ...], Meta(min_length=1)]


class Ssd(BoxOutput, kw_only=True, tag="ssd"):
    """SSD: class scores ``[1, anchors, classes]`` and box codes ``[1, anchors, 4]`` relative to the anchors.

    Codes are (dx, dy, dw, dh), or (dy, dx, dh, dw) with ``order = "yx"``. Class ``background`` is left
    out and the classes after it move down by one, so that labels start with the first real class; None
    when there is none. With ``coding = "corner"`` the boxes are x0, y0, x1, y1 from 0 to 1 and need no
    anchors.
    """

    scores: str
    boxes: str
    activation: Activation = "softmax"
    background: int | None = 0
    coding: Literal["centre", "corner"] = "centre"
    order: Literal["xy", "yx"] = "xy"
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    anchors: tuple[AnchorLayer, ...] = ()

    def __post_init__(self) -> None:
        if self.coding == "centre" and not self.anchors:
            raise ValueError(
                'anchors are needed to decode boxes (or coding = "corner" if the graph decodes them)'
            )


class Ultraface(BoxOutput, kw_only=True, tag="ultraface"):
    """UltraFace: ``scores [1, n, 2]`` (background, face) and ``boxes [1, n, 4]`` as corners from 0 to 1."""

    scores: str = "scores"
    boxes: str = "boxes"
    score_threshold: Probability = 0.7
    nms_threshold: Probability = 0.3


class Yunet(BoxOutput, kw_only=True, tag="yunet"):
    """YuNet: per stride ``cls_S``, ``obj_S``, ``bbox_S`` and ``kps_S``; the faces carry five landmarks."""

    strides: tuple[int, ...] = (8, 16, 32)
    score_threshold: Probability = 0.6
    nms_threshold: Probability = 0.3


class Heatmap(_Output, kw_only=True, tag="heatmap"):
    """One heat map a key point; its hottest cell is the point, refined by ``offsets`` (dy, dx in input
    pixels).

    ``names`` are the points' names; ``skeleton`` the pairs of indices to draw a line between.
    """

    output: str | None = None
    offsets: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    activation: Activation = "none"
    threshold: Probability = 0.3
    names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


class Segmentation(_Output, kw_only=True, tag="segmentation"):
    """A class a pixel: the largest of the channels, or with one channel, whether it is at least
    ``threshold``.
    """

    output: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    activation: Activation = "none"
    threshold: Probability = 0.5
    background: int | None = 0
    palette: tuple[tuple[int, int, int], ...] = ()


class Keyword(_Output, kw_only=True, tag="keyword"):
    """A spoken word in a window of sound; classes named in ``ignore`` (silence, unknown) are never
    reported.
    """

    output: str | None = None
    activation: Activation = "softmax"
    threshold: Probability = 0.6
    ignore: tuple[str, ...] = ()


class SoundEvents(_Output, kw_only=True, tag="sound-events"):
    """Any number of sounds in a window: each class at or above ``threshold``, at most ``top_k``."""

    output: str | None = None
    activation: Activation = "sigmoid"
    threshold: Probability = 0.3
    top_k: Count = 5


class Anomaly(_Output, kw_only=True, tag="anomaly"):
    """How unlike the normal: the output's own ``value``, or the mean squared error of a
    ``reconstruction``.
    """

    output: str | None = None
    score: Literal["value", "reconstruction"] = "value"
    threshold: float = 0.5


class Embedding(_Output, kw_only=True, tag="embedding"):
    """A vector that stands for the input; ``normalise`` makes its length 1."""

    output: str | None = None
    normalise: bool = True


class Text(_Output, kw_only=True, tag="ctc"):
    """Greedy connectionist temporal classification: the likeliest character of each step, repeats and blanks out.

    The labels are the characters of the classes other than ``blank``, in order. ``layout`` says how the output
    lies: steps × classes (``TC``, a batch axis of 1 anywhere is fine) or classes × steps (``CT``).
    ``space`` is what a class beyond the labels stands for, as recognisers have it behind their dictionary.
    """

    output: str | None = None
    activation: Activation = "none"
    layout: Literal["TC", "CT"] = "TC"
    blank: Annotated[int, Meta(ge=0)] = 0
    space: str = " "
    threshold: Probability = 0.0


class Raw(_Output, kw_only=True, tag="raw"):
    """The model's outputs as they are."""


Output = (
    Classification
    | Yolox
    | Yolov5
    | Yolov8
    | Ssd
    | Ultraface
    | Yunet
    | Heatmap
    | Segmentation
    | Keyword
    | SoundEvents
    | Anomaly
    | Embedding
    | Text
    | Raw
)


class ModelCard(StrictPart, kw_only=True):
    """What a model is, what it takes and what it gives. ``labels`` are class names by index.

    In a card's file ``labels`` may also be the path of a text file beside it, one label a line.
    """

    name: Name | None = None
    version: Version | None = None
    description: str = ""
    licence: str = ""
    input: Input
    output: Output = Raw()
    labels: tuple[str, ...] = ()

    def label(self, class_id: int) -> str:
        """The name of a class, or its number where the card has no name for it."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)


prepare(ModelCard)


def load_card(path: str | Path) -> ModelCard:
    """Read and check a card's file.

    Raises:
        CardError: unreadable, not TOML, an unknown key or a bad value; the message names the line and the
        key.
    """
    import tomllib

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CardError(f"{path}: cannot be read as a model card: {error}") from error
    if isinstance(content.get("labels"), str):
        content["labels"] = _read_labels(path, content["labels"])
    try:
        return msgspec.convert(content, ModelCard)
    except msgspec.ValidationError as error:
        fault = fault_of(error, content, ModelCard)
        where = f"{path}:{_line_of(text, fault.keys)}: {'.'.join(fault.keys)}"
        raise CardError(f"{where}: {fault.message}") from error


def _read_labels(card: Path, name: str) -> list[str]:
    file = (card.parent / name).resolve()
    if not file.is_relative_to(card.parent.resolve()):
        raise CardError(f"{card}: labels: {name} lies outside the card's folder")
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{card}: labels: cannot read {name}: {error}") from error


def _line_of(text: str, keys: Sequence[str]) -> int:
    """The line (from 1) where the deepest of ``keys`` that can be found stands, for a message."""
    lines, start = text.splitlines(), 0
    for key in keys:
        for number in range(start, len(lines)):
            if re.match(
                rf"\s*(\[+\s*([\w.]+\.)?{re.escape(key)}\s*\]|{re.escape(key)}\s*[=.])", lines[number]
            ):
                start = number
                break
    return start + 1
