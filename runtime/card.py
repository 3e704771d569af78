"""The model card (``model.toml``): the path from a camera's frame or a microphone's samples to typed results.

All of it is declared, so that no user code runs on a device. Pixels are 0 to 255 and frames come as
OpenCV gives them (BGR, ``[height, width, 3]``, uint8); what the model sees is ``(pixel - mean) * scale``.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgec.runtime.errors import CardError

Activation = Literal["none", "softmax", "sigmoid"]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


# ---------------------------------------------------------------- inputs


class ImageInput(_Part):
    """A picture: how a frame becomes the model's input.

    ``letterbox`` keeps the aspect ratio and fills the rest with ``pad``; ``crop`` keeps it and cuts the
    longer side about the centre; ``stretch`` does not keep it. ``anchor`` says where a letterboxed
    picture lies.
    """

    kind: Literal["image"] = "image"
    name: str | None = None
    width: int = Field(gt=0, le=16384)
    height: int = Field(gt=0, le=16384)
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

    @model_validator(mode="after")
    def _per_channel(self) -> ImageInput:
        for key in ("mean", "scale"):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != self.channels:
                raise ValueError(
                    f"{key} needs one number or {self.channels}, one a channel, not {len(value)}"
                )
        return self


class AudioInput(_Part):
    """Sound: mono samples at ``sample_rate``, in windows of ``window_s`` every ``hop_s`` seconds.

    ``features`` says what the model sees: the ``waveform`` itself, ``log-mel`` (frames × mels) or ``mfcc``
    (frames × coefficients) of frames of ``frame_s`` every ``step_s``. ``axes`` is the order of the
    features in the model's input: ``TF`` (time, frequency) or ``FT``; other axes have length 1.
    """

    kind: Literal["audio"] = "audio"
    name: str | None = None
    sample_rate: int = Field(16000, gt=0)
    window_s: float = Field(1.0, gt=0, le=600)
    hop_s: float | None = Field(None, gt=0)
    features: Literal["waveform", "log-mel", "mfcc"] = "waveform"
    frame_s: float = Field(0.025, gt=0)
    step_s: float = Field(0.010, gt=0)
    fft_size: int | None = Field(None, gt=0)
    mels: int = Field(40, gt=0)
    coefficients: int = Field(10, gt=0)
    min_hz: float = Field(20.0, ge=0)
    max_hz: float | None = Field(None, gt=0)
    mel_scale: Literal["htk", "slaney"] = "htk"
    power: Literal[1, 2] = 2
    window: Literal["hann", "hamming", "none"] = "hann"
    log_offset: float = Field(1e-6, gt=0)
    axes: Literal["TF", "FT"] = "TF"
    mean: float = 0.0
    scale: float = 1.0

    @property
    def window_samples(self) -> int:
        """Samples in one window."""
        return round(self.window_s * self.sample_rate)


class TensorInput(_Part):
    """Plain tensors: ``predict`` takes the same dict of arrays as ``run``."""

    kind: Literal["tensor"] = "tensor"
    name: str | None = None


Input = Annotated[ImageInput | AudioInput | TensorInput, Field(discriminator="kind")]

# ---------------------------------------------------------------- outputs


class Classification(_Part):
    """One score a class: the ``top_k`` best at or above ``threshold``."""

    decoder: Literal["classification"] = "classification"
    output: str | None = None
    activation: Activation = "softmax"
    top_k: int = Field(5, gt=0)
    threshold: Probability = 0.0


class BoxOutput(_Part):
    """What all detectors share: thresholds of scores and of overlap (non-maximum suppression)."""

    score_threshold: Probability = 0.3
    nms_threshold: Probability = 0.45
    class_wise: bool = True
    max_detections: int = Field(100, gt=0)


class Yolox(BoxOutput):
    """YOLOX: ``[1, anchors, 5 + classes]``, boxes relative to their grid cells (unless the graph decodes
    them).
    """

    decoder: Literal["yolox"] = "yolox"
    output: str | None = None
    strides: tuple[int, ...] = (8, 16, 32)
    decoded: bool = False


class Yolov5(BoxOutput):
    """YOLOv5 and v7: ``[1, anchors, 5 + classes]`` decoded to input pixels (or 0 to 1: ``normalised``)."""

    decoder: Literal["yolov5"] = "yolov5"
    output: str | None = None
    normalised: bool = False


class Yolov8(BoxOutput):
    """YOLOv8 to v11: ``[1, 4 + classes, anchors]`` without objectness, centre and size in input pixels."""

    decoder: Literal["yolov8"] = "yolov8"
    output: str | None = None
    normalised: bool = False


class AnchorLayer(_Part):
    """One SSD feature map of ``rows`` × ``columns`` cells; box sizes are shares of the picture (width,
    height).
    """

    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    sizes: tuple[tuple[float, float], ...] = Field(min_length=1)


class Ssd(BoxOutput):
    """SSD: class scores ``[1, anchors, classes]`` and box codes ``[1, anchors, 4]`` relative to the anchors.

    Codes are (dx, dy, dw, dh), or (dy, dx, dh, dw) with ``order = "yx"``. Class ``background`` is left
    out and the classes after it move down by one, so that labels start with the first real class; None
    when there is none. With ``coding = "corner"`` the boxes are x0, y0, x1, y1 from 0 to 1 and need no
    anchors.
    """

    decoder: Literal["ssd"] = "ssd"
    scores: str
    boxes: str
    activation: Activation = "softmax"
    background: int | None = 0
    coding: Literal["centre", "corner"] = "centre"
    order: Literal["xy", "yx"] = "xy"
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    anchors: tuple[AnchorLayer, ...] = ()

    @model_validator(mode="after")
    def _anchors(self) -> Ssd:
        if self.coding == "centre" and not self.anchors:
            raise ValueError(
                'anchors are needed to decode boxes (or coding = "corner" if the graph decodes them)'
            )
        return self


class Ultraface(BoxOutput):
    """UltraFace: ``scores [1, n, 2]`` (background, face) and ``boxes [1, n, 4]`` as corners from 0 to 1."""

    decoder: Literal["ultraface"] = "ultraface"
    scores: str = "scores"
    boxes: str = "boxes"
    score_threshold: Probability = 0.7
    nms_threshold: Probability = 0.3


class Yunet(BoxOutput):
    """YuNet: per stride ``cls_S``, ``obj_S``, ``bbox_S`` and ``kps_S``; the faces carry five landmarks."""

    decoder: Literal["yunet"] = "yunet"
    strides: tuple[int, ...] = (8, 16, 32)
    score_threshold: Probability = 0.6
    nms_threshold: Probability = 0.3


class Heatmap(_Part):
    """One heat map a key point; its hottest cell is the point, refined by ``offsets`` (dy, dx in input
    pixels).

    ``names`` are the points' names; ``skeleton`` the pairs of indices to draw a line between.
    """

    decoder: Literal["heatmap"] = "heatmap"
    output: str | None = None
    offsets: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    activation: Activation = "none"
    threshold: Probability = 0.3
    names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


class Segmentation(_Part):
    """A class a pixel: the largest of the channels, or with one channel, whether it is at least
    ``threshold``.
    """

    decoder: Literal["segmentation"] = "segmentation"
    output: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    activation: Activation = "none"
    threshold: Probability = 0.5
    background: int | None = 0
    palette: tuple[tuple[int, int, int], ...] = ()


class Keyword(_Part):
    """A spoken word in a window of sound; classes named in ``ignore`` (silence, unknown) are never
    reported.
    """

    decoder: Literal["keyword"] = "keyword"
    output: str | None = None
    activation: Activation = "softmax"
    threshold: Probability = 0.6
    ignore: tuple[str, ...] = ()


class SoundEvents(_Part):
    """Any number of sounds in a window: each class at or above ``threshold``, at most ``top_k``."""

    decoder: Literal["sound-events"] = "sound-events"
    output: str | None = None
    activation: Activation = "sigmoid"
    threshold: Probability = 0.3
    top_k: int = Field(5, gt=0)


class Anomaly(_Part):
    """How unlike the normal: the output's own ``value``, or the mean squared error of a
    ``reconstruction``.
    """

    decoder: Literal["anomaly"] = "anomaly"
    output: str | None = None
    score: Literal["value", "reconstruction"] = "value"
    threshold: float = 0.5


class Embedding(_Part):
    """A vector that stands for the input; ``normalise`` makes its length 1."""

    decoder: Literal["embedding"] = "embedding"
    output: str | None = None
    normalise: bool = True


class Text(_Part):
    """Greedy connectionist temporal classification: the likeliest character of each step, repeats and blanks out.

    The labels are the characters of the classes other than ``blank``, in order. ``layout`` says how the output
    lies: steps × classes (``TC``, a batch axis of 1 anywhere is fine) or classes × steps (``CT``).
    ``space`` is what a class beyond the labels stands for, as recognisers have it behind their dictionary.
    """

    decoder: Literal["ctc"] = "ctc"
    output: str | None = None
    activation: Activation = "none"
    layout: Literal["TC", "CT"] = "TC"
    blank: int = Field(0, ge=0)
    space: str = " "
    threshold: Probability = 0.0


class Raw(_Part):
    """The model's outputs as they are."""

    decoder: Literal["raw"] = "raw"


Output = Annotated[
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
    | Raw,
    Field(discriminator="decoder"),
]


class ModelCard(_Part):
    """What a model is, what it takes and what it gives. ``labels`` are class names by index.

    In a card's file ``labels`` may also be the path of a text file beside it, one label a line.
    """

    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str | None = Field(None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    description: str = ""
    licence: str = ""
    input: Input
    output: Output = Raw()
    labels: tuple[str, ...] = ()

    def label(self, class_id: int) -> str:
        """The name of a class, or its number where the card has no name for it."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)


def load_card(path: str | Path) -> ModelCard:
    """Read and check a card's file.

    Raises:
        CardError: unreadable, not TOML, an unknown key or a bad value; the message names the line and the
        key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CardError(f"{path}: cannot be read as a model card: {error}") from error
    if isinstance(content.get("labels"), str):
        content["labels"] = _read_labels(path, content["labels"])
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"]]
        # A tagged union puts the tag into the location, which is no key of the file.
        keys = keys[:1] + keys[2:] if len(keys) > 1 and keys[0] in ("input", "output") else keys
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        value = f", not {first['input']!r}" if isinstance(first["input"], str | int | float) else ""
        where = f"{path}:{_line_of(text, keys)}: {'.'.join(keys)}"
        raise CardError(f"{where}: {first['msg'].removeprefix('Value error, ')}{value}{more}") from error


def _read_labels(card: Path, name: str) -> list[str]:
    file = (card.parent / name).resolve()
    if not file.is_relative_to(card.parent.resolve()):
        raise CardError(f"{card}: labels: {name} lies outside the card's folder")
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{card}: labels: cannot read {name}: {error}") from error


def _line_of(text: str, keys: list[str]) -> int:
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


def card_schema() -> dict[str, Any]:
    """The JSON schema of a card, for editors that complete TOML."""
    return ModelCard.model_json_schema()
